"""cosine_mean: within 1e-12 of exact sums, scores never above the exact ones, bits that depend on nothing."""

from fractions import Fraction
from math import fsum, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fsfast.kernels import FeatureSums, cosine_mean, reference
from fsfast.kernels.casts import from_float32, to_float32
from tests.kernels.features import make_anchor, make_features, make_rows

DTYPES = ["float32", "float16", "bfloat16"]
# Relative to the exact sum of unit tokens: float64 sums of up to some thousand terms. The inputs are read
# exactly whatever their type.
RTOL = dict.fromkeys(DTYPES, 1e-12)
# (M, L, D, why)
SHAPES = [
    (1, 1, 1, "one number"),
    (3, 1, 5, "fewer dimensions than lanes"),
    (4, 3, 16, "exactly the lanes"),
    (5, 7, 63, "a rest of 15"),
    (6, 2, 1000, "a rest of 8"),
    (8, 13, 768, "ViT-B/16"),
]


def exact_unit(token: np.ndarray) -> tuple[list[float], float]:
    """Return a unit token and its norm, correct to about one unit in the last place of float64."""
    values = [float(v) for v in to_float32(token)]
    norm = sqrt(sum((Fraction(v) ** 2 for v in values), Fraction(0)))
    return [v / norm for v in values], norm


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "tokens", "dim", "why"), SHAPES)
def test_sums_are_exact_to_1e_12(m, tokens, dim, why, dtype):
    features = make_features(m, tokens, dim, dtype)
    image = [i % 2 for i in range(m)]
    sums = FeatureSums.zeros(2, tokens, dim, raw=True)
    assert cosine_mean(features, make_rows(image), sums) is None
    for b in range(2):
        mine = [i for i in range(m) if image[i] == b]
        assert sums.count[b] == len(mine)
        for j in range(tokens):
            units = [exact_unit(features[i, j]) for i in mine]
            unit = np.array([fsum(u[k] for u, _ in units) for k in range(dim)])
            raw = np.array([fsum(float(to_float32(features[i, j])[k]) for i in mine) for k in range(dim)])
            scale = max(len(mine), 1)
            np.testing.assert_allclose(sums.unit[b, j], unit, rtol=0, atol=RTOL[dtype] * scale, err_msg=why)
            np.testing.assert_allclose(sums.norm[b, j], fsum(n for _, n in units), rtol=RTOL[dtype])
            np.testing.assert_allclose(sums.raw[b, j], raw, rtol=0, atol=RTOL[dtype] * scale * 10)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "tokens", "dim", "why"), SHAPES)
def test_equals_the_reference(m, tokens, dim, why, dtype):
    features, anchor = make_features(m, tokens, dim, dtype), make_anchor(3, tokens, dim)
    rows = make_rows([(i * 2) % 4 - 1 for i in range(m)])
    ours, theirs = (FeatureSums.zeros(3, tokens, dim, raw=True) for _ in range(2))
    for per_token in (False, True):
        got = cosine_mean(features, rows, ours, anchor=anchor, per_token=per_token)
        wanted = reference.cosine_mean(features, rows, theirs, anchor=anchor, per_token=per_token)
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-15, err_msg=why)
    for name in ("unit", "norm", "count", "raw"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-12, atol=1e-12)


def exact_scores(features, anchor) -> np.ndarray:
    """Return (1 + ⟨unit token, anchor⟩)/2 per token as float64 rounded from at least 18 digits."""
    t = to_float32(features).astype(np.longdouble)
    norm = np.sqrt((t**2).sum(-1, keepdims=True))
    return (1 + (t / norm * anchor.astype(np.longdouble)).sum(-1)) / 2


@settings(max_examples=40)
@given(
    tokens=st.integers(1, 5),
    dim=st.integers(1, 70),
    seed=st.integers(0, 10**6),
    spread=st.sampled_from([0.0, 1e-7, 1.0]),
    exponent=st.sampled_from([-30, 0, 30]),
)
def test_scores_are_lower_bounds_and_tight(tokens, dim, seed, spread, exponent):
    # Small spread: features nearly parallel to the anchor, where a score above 1 would be easiest to get.
    anchor = make_anchor(1, tokens, dim, seed)
    noise = np.random.default_rng(seed).standard_normal((3, tokens, dim))
    features = ((anchor + spread * noise) * 10.0**exponent).astype(np.float32)
    exact = exact_scores(features, anchor)
    per_token = cosine_mean(features, make_rows([0] * 3), None, anchor=anchor, per_token=True)
    assert (per_token <= exact).all()
    assert (exact - per_token <= 2 * (dim + 8) * 2.0**-52).all()
    together = cosine_mean(features, make_rows([0] * 3), None, anchor=anchor)
    assert (together <= exact.mean(-1)).all()
    assert (exact.mean(-1) - together <= 2 * (tokens * dim + 8) * 2.0**-52).all()


def test_scores_span_zero_to_one():
    anchor = make_anchor(1, 2, 33)
    along = anchor.astype(np.float32)
    scores = cosine_mean(np.concatenate([along, -along]), make_rows([0, 0]), None, anchor=anchor)
    assert 1 - 1e-6 < scores[0] <= 1
    assert 0 <= scores[1] < 1e-6
    # Opposite to the last bit: the slack would make it negative.
    axis = np.zeros((1, 2, 33))
    axis[..., 3] = 1
    assert cosine_mean(-axis.astype(np.float32), make_rows([0]), None, anchor=axis).tolist() == [0.0]


@pytest.mark.parametrize("value", [0.0, -0.0, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_and_non_finite_tokens_are_the_zero_vector(value, dtype):
    features, anchor = make_features(2, 3, 40, dtype), make_anchor(1, 3, 40)
    bad = to_float32(features).copy()
    if value == 0:
        bad[1, 1] = value
    else:
        bad[1, 1, 39] = value
    bad = from_float32(bad, dtype)
    sums, whole = (FeatureSums.zeros(1, 3, 40, raw=True) for _ in range(2))
    scores = cosine_mean(bad, make_rows([0, 0]), sums, anchor=anchor)
    per_token = cosine_mean(bad, make_rows([0, 0]), None, anchor=anchor, per_token=True)
    cosine_mean(features, make_rows([0, -1]), whole)
    for name in ("unit", "norm", "raw"):
        np.testing.assert_array_equal(getattr(sums, name)[0, 1], getattr(whole, name)[0, 1])
    assert sums.count.tolist() == [2]
    assert per_token[1, 1] == 0.5 - 48 * 2.0**-52
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("magnitude", [1e38, 3e38, 1e-38, 1.5e-45, 1e-42])
def test_huge_and_tiny_tokens_have_exact_directions(magnitude):
    # Squares would overflow or vanish in float32; denormal numbers must not be flushed to zero.
    features = np.full((1, 1, 100), magnitude, np.float32)
    sums = FeatureSums.zeros(1, 1, 100, raw=True)
    torch.set_flush_denormal(True)
    try:
        scores = cosine_mean(features, make_rows([0]), sums, anchor=np.full((1, 1, 100), 0.1))
    finally:
        torch.set_flush_denormal(False)
    exact = float(features[0, 0, 0])
    np.testing.assert_allclose(sums.unit, 0.1, rtol=1e-12)
    np.testing.assert_allclose(sums.norm, 10 * exact, rtol=1e-12)
    np.testing.assert_allclose(sums.raw, exact, rtol=1e-12)
    assert 1 - 1e-12 < scores[0] <= 1


@settings(max_examples=30)
@given(
    image=st.lists(st.integers(-1, 3), min_size=1, max_size=12),
    tokens=st.integers(1, 9),
    dim=st.sampled_from([1, 15, 16, 17, 40]),
    cut=st.integers(0, 12),
    threads=st.integers(1, 5),
)
def test_bits_depend_on_nothing_else(image, tokens, dim, cut, threads):
    features, anchor = make_features(len(image), tokens, dim), make_anchor(4, tokens, dim)
    whole, parts = (FeatureSums.zeros(4, tokens, dim, raw=True) for _ in range(2))
    scores = cosine_mean(features, make_rows(image), whole, anchor=anchor)
    pieces = [
        cosine_mean(features[piece], make_rows(image[piece]), parts, anchor=anchor, threads=threads)
        for piece in (slice(0, cut), slice(cut, None))
        if len(image[piece])
    ]
    np.testing.assert_array_equal(np.concatenate(pieces), scores)
    for name in ("unit", "norm", "count", "raw"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))
    for b in range(4):
        # Without the neighbours: only the rows of one image.
        mine = [i for i, owner in enumerate(image) if owner == b]
        alone = FeatureSums.zeros(1, tokens, dim, raw=True)
        if mine:
            got = cosine_mean(features[mine], make_rows([0] * len(mine)), alone, anchor=anchor[b : b + 1])
            np.testing.assert_array_equal(got, scores[mine])
        np.testing.assert_array_equal(alone.unit[0], whole.unit[b])


def test_padding_is_left_out():
    features = make_features(3, 2, 20)
    features[1] = np.nan
    sums = FeatureSums.zeros(1, 2, 20)
    scores = cosine_mean(features, make_rows([0, -1, 0]), sums, anchor=make_anchor(1, 2, 20))
    assert np.isnan(scores).tolist() == [False, True, False]
    assert sums.count.tolist() == [2]
    per_token = cosine_mean(
        features, make_rows([0, -1, 0]), None, anchor=make_anchor(1, 2, 20), per_token=True
    )
    assert np.isnan(per_token).all(1).tolist() == [False, True, False]


def test_zero_anchor_scores_one_half():
    scores = cosine_mean(make_features(2, 3, 8), make_rows([0, 0]), None, anchor=np.zeros((1, 3, 8)))
    assert scores.tolist() == [0.5 - 32 * 2.0**-52] * 2


def test_empty_batch():
    sums = FeatureSums.zeros(2, 3, 4)
    scores = cosine_mean(make_features(0, 3, 4), make_rows([]), sums, anchor=make_anchor(2, 3, 4))
    assert scores.shape == (0,)
    assert not sums.unit.any()


def test_raw_is_optional_and_changes_nothing_else():
    features = make_features(3, 4, 30)
    with_raw, without = FeatureSums.zeros(1, 4, 30, raw=True), FeatureSums.zeros(1, 4, 30)
    for sums in (with_raw, without):
        cosine_mean(features, make_rows([0] * 3), sums)
    np.testing.assert_array_equal(with_raw.unit, without.unit)
    assert without.raw is None


GOOD = FeatureSums.zeros(1, 3, 4)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"features": make_features(2, 3, 4).astype(np.float64)}, TypeError, "features"),
        ({"features": make_features(2, 3, 8)[..., ::2]}, ValueError, "contiguous"),
        ({"features": make_features(3, 3, 4)}, ValueError, "features"),
        ({"features": make_features(2, 3, 0)}, ValueError, "dimension"),
        ({"rows": make_rows([0, 1])}, ValueError, "indices"),
        ({"sums": None}, ValueError, "neither"),
        ({"sums": FeatureSums.zeros(1, 3, 5)}, ValueError, "unit"),
        ({"sums": FeatureSums(GOOD.unit.astype(np.float32), GOOD.norm, GOOD.count)}, TypeError, "float64"),
        ({"anchor": make_anchor(1, 2, 4)}, ValueError, "anchor"),
        ({"anchor": make_anchor(1, 3, 4).astype(np.float32)}, TypeError, "anchor"),
        ({"anchor": make_anchor(2, 3, 4)}, ValueError, "count"),
        ({"threads": 0}, ValueError, "threads"),
    ],
)
def test_wrong_arguments_are_refused(change, error, words):
    arguments = {
        "features": make_features(2, 3, 4),
        "rows": make_rows([0, 0]),
        "sums": FeatureSums.zeros(1, 3, 4),
    }
    with pytest.raises(error, match=words):
        cosine_mean(**{**arguments, **change})
