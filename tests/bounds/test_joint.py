"""`sharp`, `cap`, `joint`: check values, encoders that attain them, encoders that must not fall below them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import betainc, ndtr, ndtri

from fsfast.bounds import cosine as certificate
from fsfast.bounds import dual_bounds
from fsfast.bounds.cosine import cosine_curve, cosine_lower_bound, inner_product_lower_bound, radius
from tests.bounds.encoders import Steps, random_steps, worst_steps

CERTIFIED = ("joint", "sharp", "cap", "fcsb")

# A certificate from 1000 samples: S_L = .961, six caps, ρ.
CAPS = ((0.94, 0.498), (0.918, 0.819), (0.896, 0.951), (0.863, 0.988), (0.82, 0.991), (0.743, 0.991))


@pytest.mark.parametrize(
    ("c", "d", "value"),
    [
        (0.94, 0.5, 0.9228),
        (0.94, 1.0, 0.8500),
        (0.94, 1.5, 0.6346),
        (0.81, 1.0, 0.5194),
        (0.985, 2.0, 0.7099),
    ],
)
def test_check_values_of_sharp(c, d, value):
    """The references have four digits, and the multipliers were found elsewhere."""
    bound = cosine_lower_bound(d, mean=0.5 * (1.0 + c), method="sharp")
    assert value - 1e-4 < bound < value + 5e-5
    # Nothing else is known: `joint` is `sharp`.
    assert cosine_lower_bound(d, mean=0.5 * (1.0 + c)) == bound


@pytest.mark.parametrize(
    ("perp", "values"), [(None, (0.91, 0.87, 0.77, 0.49)), (0.102, (0.96, 0.9, 0.79, 0.49))]
)
def test_reference_values_of_joint(perp, values):
    """One simulation of scores of mean .97 and spread .01, n = 1000, α = .001; another one gave `values`."""
    bounds = cosine_curve(np.array([0.5, 1.0, 1.5, 2.0]), mean=0.961, caps=CAPS, perp=perp)
    np.testing.assert_allclose(bounds, values, atol=0.02)


def test_check_value_of_cap():
    """τ = .8, p' = .9: 1/9 of the length points anywhere: cos(arccos .8 + arcsin 1/9)."""
    p = float(ndtr(ndtri(0.9) + 1.0))
    expected = 0.8 * math.sqrt(80.0) / 9.0 - 0.6 / 9.0
    bound = cosine_lower_bound(1.0, mean=0.0, caps=[(0.8, p), (0.3, p)], method="cap")
    assert expected - 2e-12 < bound < expected
    # κ ≥ τ certifies nothing, nor does no cap at all.
    assert cosine_lower_bound(1.0, mean=0.99, caps=[(0.1, p)], method="cap") is None
    assert cosine_lower_bound(1.0, mean=0.99, method="cap") is None


def sharp_worst_case(c, d):
    """The worst encoder for a mean inner product c, from its two equations, without the dual's code.

    z(t) = (λr − 1)/√((λr − 1)² + κ²) with E_x z = c; κ such that E'[z − κw] = 0.
    """

    def encoder(kappa):
        def excess(log):
            return float(worst_steps(d, kappa, math.exp(log), 0.0, []).smoothed()[0]) - c

        return worst_steps(d, kappa, math.exp(brentq(excess, -6.0, 12.0)), 0.0, [])

    def balance(log):
        mean = encoder(math.exp(log)).smoothed(d)
        return float(mean[0] - math.exp(log) * mean[1])

    return encoder(math.exp(brentq(balance, -3.0, 3.0, xtol=1e-6)))


@pytest.mark.parametrize(("c", "d"), [(0.94, 0.5), (0.94, 1.5), (0.81, 1.0), (0.985, 2.0)])
def test_a_worst_encoder_attains_sharp(c, d):
    worst = sharp_worst_case(c, d)
    assert worst.smoothed()[0] == pytest.approx(c, abs=1e-9)
    bound = cosine_lower_bound(d, mean=worst.mean_score(), method="sharp")
    assert bound <= worst.cosine(d) <= bound + 1e-3
    # What is known about it besides cannot raise a bound above what it does.
    tau = [(t, p) for t, p in worst.caps([0.3, 0.8, 0.95])]
    assert cosine_lower_bound(d, mean=worst.mean_score(), caps=tau, perp=worst.perp()) <= worst.cosine(d)


def constants(encoder, thresholds):
    return {"mean": encoder.mean_score(), "caps": encoder.caps(thresholds), "perp": encoder.perp()}


def violations(encoder, distances, thresholds, methods=CERTIFIED):
    """How far bounds from an encoder's exact constants exceed what it does, at the radius and closer."""
    known = constants(encoder, thresholds)
    worst = -math.inf
    for method in methods:
        bounds = cosine_curve(np.array(distances), method=method, **known)
        for d, bound in zip(distances, bounds, strict=True):
            if not math.isnan(bound):
                worst = max(worst, *(bound - encoder.cosine(f * d) for f in (-1.0, 0.0, 0.4, 0.8, 1.0)))
    return worst


def test_random_encoders_never_fall_below_any_method():
    rng = np.random.default_rng(0)
    certified = 0
    for _ in range(60):
        encoder = random_steps(rng)
        excess = violations(encoder, (0.1, 0.5, 1.0, 2.0), rng.uniform(0.05, 1.0, 3))
        certified += excess > -math.inf
        assert excess <= 1e-9
    assert certified > 40


def near_worst_encoders(rng, count):
    """Encoders that the dual calls worst for some constants, with thresholds at their floors: nothing is to spare."""
    for _ in range(count):
        d = rng.choice([0.2, 0.6, 1.0, 1.6])
        tau = np.sort(rng.uniform(0.1, 0.97, rng.integers(0, 4)))
        quantiles = np.sort(rng.normal(1.0, 0.8, len(tau)))[::-1]
        zero = math.exp(rng.uniform(0.0, 2.5))
        mu = rng.choice([0.0, rng.uniform(0.0, 2.0)])
        floors = list(zip(quantiles, tau, strict=True))
        yield d, worst_steps(d, math.exp(rng.uniform(-1.0, 1.5)), zero, mu, floors, 400), tau


def test_encoders_built_against_the_bound_never_fall_below_it_and_come_close():
    rng = np.random.default_rng(1)
    gaps = []
    for d, encoder, tau in near_worst_encoders(rng, 60):
        assert violations(encoder, (d, 0.5 * d), tau) <= 1e-9
        bound = cosine_lower_bound(d, **constants(encoder, tau))
        if bound is not None:
            gaps.append(encoder.cosine(d) - bound)
    assert len(gaps) > 20
    assert np.median(gaps) < 0.02
    assert min(gaps) < 2e-3


@pytest.mark.parametrize("error", ["radius", "caps", "perpendicular"])
def test_planted_errors_are_caught(error, monkeypatch):
    """Each would raise bounds; encoders that come close to the true bounds then fall below the wrong ones."""
    if error == "radius":
        right = dual_bounds.quadrature
        monkeypatch.setattr(dual_bounds, "quadrature", lambda d, t: right(0.97 * d, t))
    else:
        right = certificate.known
        factor = (1.01, 1.0) if error == "caps" else (1.0, 0.8)
        monkeypatch.setattr(
            certificate,
            "known",
            lambda mean, caps=(), perp=None: right(
                mean,
                [(t, min(1.0, factor[0] * p)) for t, p in caps],
                None if perp is None else factor[1] * perp,
            ),
        )
    encoders = near_worst_encoders(np.random.default_rng(2), 60)
    assert max(violations(encoder, (d,), tau, ("joint",)) for d, encoder, tau in encoders) > 1e-4


KNOWN = st.fixed_dictionaries(
    {
        "mean": st.floats(0.5, 0.9999),
        "caps": st.lists(st.tuples(st.floats(0.01, 1.0), st.floats(0.0, 1.0)), max_size=4),
        "perp": st.none() | st.floats(0.0, 1.0),
    }
)
DISTANCES = st.floats(0.0, 3.0)


@settings(max_examples=80)
@given(DISTANCES, KNOWN)
def test_joint_is_at_least_each_of_the_others(d, known):
    joint = cosine_lower_bound(d, **known)
    for method in CERTIFIED[1:]:
        other = cosine_lower_bound(d, method=method, **known)
        assert other is None or (joint is not None and joint >= other)
    assert joint is None or 0.0 < joint < 1.0


def stated(seed):
    """Constants like those of a certificate: Beta scores, six thresholds from the median downwards, ρ."""
    rng = np.random.default_rng(seed)
    mean, spread = rng.uniform(0.7, 0.99), rng.uniform(0.1, 0.4)
    spread *= 1.0 - mean
    total = mean * (1.0 - mean) / spread**2 - 1.0
    thresholds = mean - spread * np.array([0.0, 1.0, 2.0, 3.5, 5.5, 9.0])
    shares = 0.998 * betainc((1.0 - mean) * total, mean * total, 1.0 - thresholds)
    caps = [(2.0 * t - 1.0, p) for t, p in zip(thresholds, shares, strict=True) if t > 0.5]
    return {"mean": mean - 0.002, "caps": caps, "perp": rng.uniform(0.01, 0.2)}


@settings(max_examples=60)
@given(st.integers(0, 2**32), DISTANCES, st.floats(0.0, 0.5), st.sampled_from(["d", "mean", "p", "perp"]))
def test_monotone_in_every_constant(seed, d, by, which):
    """Up to 1e-3: each bound is verified for its own multipliers, which are searched for numerically."""
    worse = stated(seed)
    better, nearer = dict(worse), d
    if which == "d":
        nearer = (1.0 - by) * d
    elif which == "mean":
        better["mean"] += by * (1.0 - worse["mean"])
    elif which == "p":
        better["caps"] = [(t, p + by * (1.0 - p)) for t, p in worse["caps"]]
    else:
        better["perp"] = (1.0 - by) * worse["perp"]
    low = cosine_lower_bound(d, **worse) or 0.0
    assert (cosine_lower_bound(nearer, **better) or 0.0) >= low - 1e-3


def test_a_curve_falls_and_holds_the_single_bounds():
    d = np.array([1.5, 0.0, 0.5, 1.0, 5.0, 0.5])
    curve = cosine_curve(d, mean=0.961, caps=CAPS, perp=0.1)
    assert math.isnan(curve[4])
    assert curve[2] == curve[5]
    assert (np.diff(curve[[1, 2, 3, 0]]) < 0.0).all()
    for at, bound in zip(d, curve, strict=True):
        alone = cosine_lower_bound(at, mean=0.961, caps=CAPS, perp=0.1)
        assert alone is None if math.isnan(bound) else bound == pytest.approx(alone, abs=1e-6)
    assert cosine_curve(np.empty(0), mean=0.961).shape == (0,)
    paper = cosine_curve(d, mean=0.961, method="paper")
    assert paper[4] == cosine_lower_bound(5.0, mean=0.961, method="paper") < 0.0


def test_at_distance_zero_nothing_is_lost_but_a_little():
    """At x itself: the cosine of (c, ρ), and c alone where ρ is not known."""
    assert cosine_lower_bound(0.0, mean=0.97) == pytest.approx(0.94, abs=1e-9)
    assert cosine_lower_bound(0.0, mean=0.97, perp=0.1) == pytest.approx(
        0.94 / math.hypot(0.94, 0.1), abs=1e-3
    )
    assert cosine_lower_bound(0.0, mean=0.5) is None


def test_more_knowledge_makes_tighter_bounds():
    bounds = [
        cosine_lower_bound(1.0, mean=0.961, method="fcsb"),
        cosine_lower_bound(1.0, mean=0.961, method="sharp"),
        cosine_lower_bound(1.0, mean=0.961, caps=CAPS),
        cosine_lower_bound(1.0, mean=0.961, caps=CAPS, perp=0.1),
    ]
    assert (np.diff(bounds) > 0.02).all()
    # Far out the mean alone certifies nothing.
    assert cosine_lower_bound(2.0, mean=0.961, method="sharp") is None
    assert cosine_lower_bound(2.0, mean=0.961, caps=CAPS) > 0.45


@pytest.mark.parametrize("mean", [0.5 + 1e-9, 1.0 - 1e-12, 1.0])
@pytest.mark.parametrize("d", [0.0, 1e-9, 1.0, 6.0, 8.2, 9.0, 1e6])
def test_extremes_give_bounds_or_none(mean, d):
    for known in ({}, {"caps": [(0.5, 1.0), (1.0, 1.0)]}, {"caps": [(0.9, 1e-9)], "perp": 0.0}):
        bound = cosine_lower_bound(d, mean=mean, **known)
        assert bound is None or 0.0 < bound < 1.0
        if d > 8.3:
            assert bound is None


@pytest.mark.parametrize("method", CERTIFIED[:3])
@pytest.mark.parametrize("target", [0.3, 0.8])
def test_radius_is_the_inverse_of_the_bound(method, target):
    known = {"mean": 0.961, "caps": CAPS, "perp": 0.1, "method": method}
    epsilon = radius(target, sigma=0.25, **known)
    assert cosine_lower_bound(epsilon / 0.25, **known) >= target
    assert cosine_lower_bound(epsilon / 0.25 + 1e-4, **known) < target
    assert radius(target, sigma=0.5, **known) == pytest.approx(2.0 * epsilon, rel=1e-4)
    assert radius(0.999, sigma=0.25, **known) == 0.0


def test_joint_reaches_farther():
    radii = [radius(0.5, sigma=0.25, mean=0.961, caps=CAPS, method=m) for m in ("fcsb", "sharp", "joint")]
    assert radii[0] < radii[1] - 0.05 < radii[2] - 0.1


def test_inner_products():
    """Without caps it is Theorem 1; with caps the worst encoder is a step function, and attains it."""
    assert inner_product_lower_bound(1.0, mean=0.97) == cosine_lower_bound(1.0, mean=0.97, method="fcsb")
    # z_u = 1 up to q₀, .6 up to q₁, −1 beyond.
    quantiles = np.array([0.5, 1.5])
    encoder = Steps(quantiles, np.array([[1.0], [0.6], [-1.0]]))
    caps = encoder.caps([0.6])
    for d in (0.2, 0.7):
        bound = inner_product_lower_bound(d, mean=encoder.mean_score(), caps=caps)
        true = float(encoder.smoothed(d)[0])
        assert true - 1e-6 < bound <= true
    assert inner_product_lower_bound(3.0, mean=encoder.mean_score(), caps=caps) is None
    assert inner_product_lower_bound(0.0, mean=1.0, caps=[(1.0, 1.0)]) > 0.99


def test_inner_products_of_random_encoders():
    rng = np.random.default_rng(3)
    for _ in range(60):
        encoder = random_steps(rng)
        caps = encoder.caps(rng.uniform(0.05, 1.0, 3))
        for d in (0.1, 0.7, 1.5):
            bound = inner_product_lower_bound(d, mean=encoder.mean_score(), caps=caps)
            assert bound is None or bound <= encoder.smoothed(d)[0] + 1e-9
