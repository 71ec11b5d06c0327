"""How far a feature may turn before its class changes: exact from both sides; and the bisection for a radius."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest

from fsfast.bounds.angles import keeps_class, largest_radius, prediction_radius, safe_angle
from fsfast.bounds.cosine import cosine_lower_bound, radius


def unit(rng, *shape):
    vectors = rng.normal(size=shape)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize("norms", ["unit", "different"])
def test_it_is_exact(norms):
    """No direction within the angle changes the class; the one towards the nearest hyperplane does, just beyond."""
    rng = np.random.default_rng(0)
    for _ in range(30):
        classes, u = unit(rng, 5, 6), unit(rng, 6)
        if norms == "different":
            classes *= rng.uniform(0.5, 2.0, (5, 1))
        scores = classes @ u
        k = int(scores.argmax())
        angle = safe_angle(scores, classes)
        assert 0.0 < angle < math.pi / 2
        for _ in range(50):
            side = unit(rng, 6)
            side -= (side @ u) * u
            side /= np.linalg.norm(side)
            turned = math.cos(angle) * u + math.sin(angle) * side
            assert (classes @ turned).argmax() == k
        # Towards −v of the nearest hyperplane, which is found among all.
        changed = False
        for j in set(range(5)) - {k}:
            v = classes[k] - classes[j]
            side = -(v - (v @ u) * u)
            side /= np.linalg.norm(side)
            beyond = angle + 1e-6
            changed |= (classes @ (math.cos(beyond) * u + math.sin(beyond) * side)).argmax() != k
        assert changed


def test_two_classes_at_a_right_angle():
    """u on the first of two orthonormal classes: the hyperplane is 45° away."""
    angle = safe_angle(np.array([1.0, 0.0]), np.eye(2))
    assert math.pi / 4 - 1e-9 < angle <= math.pi / 4
    # Opposite classes: everything up to 90°.
    opposite = safe_angle(np.array([1.0, -1.0]), np.array([[1.0], [-1.0]]))
    assert math.pi / 2 - 3e-5 < opposite <= math.pi / 2


def test_a_tie_is_not_safe():
    assert safe_angle(np.array([0.5, 0.5, 0.1]), np.eye(3)) == 0.0
    # The same class twice, and closer than rounding.
    assert safe_angle(np.array([0.9, 0.9, 0.0]), np.eye(2)[[0, 0, 1]]) == 0.0
    assert safe_angle(np.array([0.9, 0.9 - 1e-11, 0.0]), np.eye(3)) == 0.0


def test_the_certified_cosine_decides():
    assert keeps_class(math.cos(0.3), 0.31)
    assert not keeps_class(math.cos(0.3), 0.29)
    assert not keeps_class(math.cos(0.3), 0.3)
    assert not keeps_class(None, 1.5)


def test_a_prediction_radius_is_where_the_bound_meets_the_angle():
    scores, rows = np.array([0.9, 0.2, 0.1]), np.eye(3)
    angle = safe_angle(scores, rows)
    bound = partial(cosine_lower_bound, mean=0.97, method="sharp")
    found = prediction_radius(scores, rows, bound, ceiling=8.3)
    expected = radius(math.cos(angle), sigma=1.0, mean=0.97, method="sharp")
    assert found == pytest.approx(expected, abs=1e-4)
    assert keeps_class(bound(found), angle)
    assert prediction_radius(np.array([0.5, 0.5]), np.eye(2), bound, ceiling=8.3) == 0.0


def test_the_largest_radius():
    assert largest_radius(lambda r: r <= 0.7, ceiling=2.0) == pytest.approx(0.7, abs=1e-6)
    assert largest_radius(lambda r: r <= 0.7, ceiling=2.0) <= 0.7
    assert largest_radius(lambda r: True, ceiling=2.0) == 2.0
    assert largest_radius(lambda r: False, ceiling=2.0) == 0.0


@pytest.mark.parametrize(
    ("scores", "rows", "message"),
    [
        (np.ones(1), np.eye(1), "K ≥ 2.*shape"),
        (np.ones((2, 2)), np.eye(2), "K ≥ 2.*shape"),
        (np.ones(3), np.eye(2), r"rows \[3, D\], got shape \(2, 2\)"),
        (np.array([1.0, math.nan]), np.eye(2), "finite"),
        (np.ones(2), np.full((2, 2), math.inf), "finite"),
    ],
)
def test_wrong_classes_are_refused(scores, rows, message):
    with pytest.raises(ValueError, match=message):
        safe_angle(scores, rows)


@pytest.mark.parametrize(
    ("ceiling", "tolerance"), [(0.0, 1e-6), (math.inf, 1e-6), (1.0, 0.0), (1.0, math.nan)]
)
def test_wrong_limits_are_refused(ceiling, tolerance):
    with pytest.raises(ValueError, match="positive and finite"):
        largest_radius(lambda r: True, ceiling=ceiling, tolerance=tolerance)
