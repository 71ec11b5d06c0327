"""What so many samples could certify at best: never said too little of, and enough samples are enough."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import fsfast
from fsfast.bounds.cosine import cosine_lower_bound
from fsfast.certificates.certification import plan_of
from fsfast.certificates.evidence import MOST_CAPS, SCORE_UNIT, Budget, constants
from fsfast.certificates.reach import MAX_SCORES, Reach
from fsfast.cli import main

SIGMA, ETA = 0.25, 1e-12


def best(n, alpha, stopped, caps, method="mixture"):
    """The constants of n scores that are all 1."""
    thresholds = tuple(1.0 - k * SCORE_UNIT for k in range(caps))
    perp = None if stopped else 0.0
    return constants(np.ones(n), thresholds, perp, Budget.of(alpha, caps, stopped), ETA, method)


def bound(known, epsilon):
    return cosine_lower_bound(epsilon / SIGMA, mean=known.mean, caps=known.caps, perp=known.perp)


@pytest.mark.parametrize(("n", "alpha"), [(10, 1e-3), (11, 1e-3), (40, 1e-3), (100, 1e-9), (1000, 1e-3)])
@pytest.mark.parametrize("stopped", [False, True])
def test_beyond_reach_the_best_scores_certify_nothing(n, alpha, stopped):
    reach = Reach(n, alpha, stopped, SIGMA, ETA)
    for caps in (0, 1, 2, MOST_CAPS):
        for method in ("mixture", "product") + (() if stopped else ("hoeffding",)):
            assert bound(best(n, alpha, stopped, caps, method), reach.radius) is None
    if reach.radius:
        assert reach.shortfall(0.999 * reach.radius) is None
    assert reach.shortfall(reach.radius) is not None


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("stopped", [False, True])
def test_so_many_samples_could(epsilon, stopped):
    n = Reach(1, 1e-3, stopped, SIGMA, ETA).samples(epsilon)
    assert bound(best(n, 1e-3, stopped, MOST_CAPS), epsilon) is not None
    # Far fewer are in vain.
    assert bound(best(max(1, int(0.7 * n) - 1), 1e-3, stopped, MOST_CAPS), epsilon) is None


def test_a_target_needs_more():
    reach = Reach(400, 1e-3, True, SIGMA, ETA)
    n = reach.samples(0.25, 0.9)
    assert n > reach.samples(0.25, 0.5) > reach.samples(0.25)
    assert bound(best(n, 1e-3, True, MOST_CAPS), 0.25) >= 0.9
    assert reach.shortfall(0.25, 0.5) is None
    assert "cannot certify a cosine of 0.9999 at ε = 0.25" in reach.shortfall(0.25, 0.9999)
    assert bound(best(400, 1e-3, True, 1), 0.25) < 0.9999


def test_what_is_said():
    few = Reach(10, 1e-3, False, SIGMA, ETA)
    assert few.radius == 0.0
    assert few.shortfall(0.0) == (
        "n = 10 samples cannot certify anything with α = 0.001, whatever their scores: 14 could, if every score were "
        "1; real ones take more"
    )
    far = Reach(100, 1e-3, False, SIGMA, ETA)
    assert far.samples(16.0) is None
    assert f"at ε = 16 with α = 0.001, whatever their scores: that takes more than the {MAX_SCORES:,}" in (
        far.shortfall(16.0)
    )
    # η alone can make a radius impossible.
    assert Reach(100, 1e-3, False, SIGMA, 1e-3).samples(0.8) is None
    assert Reach(100, 1e-3, False, SIGMA, 1e-5).samples(0.8) is not None


def test_a_plan_knows_before_sampling():
    def shortfall(n=None, epsilon=None, cosine=None, n_max=None, per_token=False):
        return plan_of(n, 1e-3, "mixture", epsilon, cosine, n_max, per_token).shortfall(SIGMA, ETA)

    assert shortfall(1000) is shortfall(11) is shortfall(epsilon=0.25) is None
    assert "14 could" in shortfall(10)
    assert "α = 0.0005" in shortfall(10, per_token=True)
    assert "a cosine of 0.5 at ε = 16" in shortfall(epsilon=16.0)
    assert "n = 20" in shortfall(epsilon=0.25, n_max=20)


@pytest.mark.filterwarnings("default")
def test_python_and_the_command_line_say_so(photograph, capsys):
    with fsfast.SmoothedEncoder("demo", threads=1) as encoder:
        with pytest.warns(UserWarning, match="n = 10 samples cannot certify anything"):
            certificate = encoder.certify(photograph, 10)
        assert certificate.reach.radius == 0.0
        with pytest.warns(UserWarning, match="a cosine of 0.5 at ε = 16"):
            encoder.certify(photograph, epsilon=16.0, n_max=40)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert encoder.certify(photograph, 70).reach.shortfall(0.1) is None
    run = ["certify", "demo", str(photograph), "--threads", "1"]
    assert main([*run, "-n", "10"]) == 0
    out, err = capsys.readouterr()
    assert err.splitlines() == [f"fsfast certify: {certificate.reach.shortfall(0.0)}"]
    assert "cannot certify" not in out
    assert main([*run, "-n", "70", "--epsilon", "0.1", "16"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert [line for line in out.splitlines() if "cannot" in line] == [
        "n = 70 samples cannot certify anything at ε = 16 with α = 0.001, whatever their scores: that takes more than "
        "the 10,000,000 samples of a certificate; ask for a smaller radius"
    ]
