"""The diffusion schedule."""

import math

import pytest

from fsfast.engine.schedule import Denoise, alpha_bars, t_star


@pytest.mark.parametrize(
    ("sigma", "t"),
    [(0.05, 27), (0.1, 58), (0.12, 70), (0.125, 73), (0.25, 145), (0.5, 259), (0.75, 339), (1.0, 396)],
)
def test_t_star_equals_the_specified_table(sigma, t):
    assert t_star(sigma) == t


def test_alpha_bars_equal_an_exact_product():
    product = 1.0
    for t, alpha_bar in enumerate(alpha_bars()):
        product *= 1.0 - (1e-4 + (0.02 - 1e-4) * t / 999)
        assert alpha_bar == pytest.approx(product, rel=1e-12)


@pytest.mark.parametrize("sigma", [1e-9, 0.004, 0.0051, 0.1, 0.25, 1.0, 10.0, 78.0])
def test_t_star_is_the_first_step_that_is_noisy_enough(sigma):
    def noise(t):
        return math.sqrt((1 - alpha_bars()[t]) / alpha_bars()[t])

    t = t_star(sigma)
    assert noise(t) >= 2 * sigma
    # Step 0 is left out even where it would be noisy enough.
    assert t == 1 or noise(t - 1) < 2 * sigma


@pytest.mark.parametrize(
    ("sigma", "alpha_bar", "root"), [(0.25, 0.797975, 0.893294), (0.5, 0.497614, 0.705417)]
)
def test_denoise_constants_equal_the_specified_values(sigma, alpha_bar, root):
    constants = Denoise.at_sigma(sigma)
    assert constants.alpha_bar == pytest.approx(alpha_bar, abs=5e-7)
    assert constants.offset == pytest.approx(-root, abs=5e-7)
    assert constants.scale == pytest.approx(2 * root / 255, abs=5e-9)
    assert constants.a == pytest.approx(1 / root, abs=2e-6)
    assert constants.b == pytest.approx(math.sqrt(1 / alpha_bar - 1), abs=2e-6)


def test_denoise_undoes_the_noise_that_it_is_told():
    constants = Denoise.at_sigma(0.25)
    # One pixel of level 100; its noise in units of the schedule's ε is 0.7.
    y = 2 * 100 / 255 - 1
    x_t = math.sqrt(constants.alpha_bar) * y + math.sqrt(1 - constants.alpha_bar) * 0.7
    assert constants.a * x_t - constants.b * 0.7 == pytest.approx(y, rel=1e-14)


@pytest.mark.parametrize("sigma", [0.0, -0.1, 79.0, math.inf, math.nan])
def test_sigma_outside_the_schedule_is_refused(sigma):
    with pytest.raises(ValueError, match="wanted sigma"):
        t_star(sigma)
