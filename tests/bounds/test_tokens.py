"""The share of tokens that turned: no features exceed it, and some attain it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fsfast.bounds.tokens import token_share_below


def shares(features, anchor, t):
    """The share of tokens below t, the cosine and the inner product of the whole."""
    norms = np.linalg.norm(features, axis=1)
    inner = (features * anchor).sum(1)
    cosines = inner / np.maximum(norms, 1e-300) * math.sqrt(len(anchor))
    whole = inner.sum() / np.linalg.norm(features)
    return float((cosines < t).mean()), float(whole), float(inner.sum())


def test_random_features_never_exceed_it():
    rng = np.random.default_rng(0)
    tokens = 12
    anchor = np.tile([1.0, 0.0, 0.0], (tokens, 1)) / math.sqrt(tokens)
    said = 0
    for _ in range(500):
        angle = rng.uniform(0.0, rng.uniform(0.2, 3.1), tokens)
        features = np.stack([np.cos(angle), np.sin(angle), np.zeros(tokens)], axis=1)
        features *= rng.random((tokens, 1)) ** rng.uniform(0.0, 2.0) / math.sqrt(tokens)
        features[rng.random(tokens) < 0.05] = 0.0
        t = rng.uniform(0.0, 0.99)
        share, cosine, inner = shares(features, anchor, t)
        for b, b_ip in ((cosine, None), (None, inner), (cosine, inner)):
            limit = token_share_below(*(v if v is None or v >= 0.0 else None for v in (b, b_ip)), t)
            said += limit < 1.0
            assert share <= limit + 1e-12
    assert said > 200


@pytest.mark.parametrize("t", [0.0, 0.5, 0.9])
def test_it_is_attained(t):
    """A quarter of the tokens just below t: norms ∝ the cosines for the first bound, equal norms for the second."""
    cosines = np.array([1.0, 1.0, 1.0, t])
    b = math.sqrt((cosines**2).mean())
    assert token_share_below(b, None, t) == pytest.approx(0.25, abs=1e-12)
    assert token_share_below(None, float(cosines.mean()), t) == pytest.approx(0.25, abs=1e-12)
    # Never rounded down.
    assert token_share_below(None, 0.75, 0.0) >= 0.25


def test_without_a_certificate_nothing_is_said():
    assert token_share_below(None, None, 0.5) == 1.0
    assert token_share_below(0.1, 0.1, 0.9) == 1.0
    assert token_share_below(1.0, None, 0.5) == pytest.approx(0.0, abs=1e-300)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.9, 0.9, 1.0), "t in .*1.0"),
        ((0.9, 0.9, -0.1), "t in .*-0.1"),
        ((1.1, 0.9, 0.5), "1.1"),
        ((0.9, -0.2, 0.5), "-0.2"),
        ((math.nan, None, 0.5), "nan"),
    ],
)
def test_wrong_use_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        token_share_below(*arguments)
