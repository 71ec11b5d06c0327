"""A certified nearest neighbour against brute force: within the angle none is nearer, just beyond it one may be."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fsfast.integrations.neighbours import certified_neighbour, kept_within


def unit(rng, *shape):
    vectors = rng.normal(size=shape)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def turned(u, towards, angle):
    """The unit vectors at an angle from u, on the side of `towards`, [..., D]."""
    across = towards - (towards @ u)[..., None] * u
    across /= np.linalg.norm(across, axis=-1, keepdims=True)
    return math.cos(angle) * u + math.sin(angle) * across


@pytest.mark.parametrize("dim", [2, 5, 64])
def test_the_angle_of_a_whole_index_is_exact(dim):
    rng = np.random.default_rng(dim)
    for _ in range(20):
        index, u = unit(rng, 40, dim), unit(rng, dim)
        nearest, cosine, angle = kept_within(u, 3.0 * index, complete=True)
        assert nearest == (index @ u).argmax()
        assert cosine == pytest.approx((index @ u).max())
        near = turned(u, rng.normal(size=(2000, dim)), 0.999999 * angle)
        # The worst directions, too: straight across the hyperplane to every other vector.
        worst = turned(u, np.delete(index, nearest, 0) - index[nearest], 0.999999 * angle)
        for directions in (near, worst):
            assert ((directions @ index.T).argmax(1) == nearest).all()
        beyond = turned(u, np.delete(index, nearest, 0) - index[nearest], angle + 1e-6)
        assert ((beyond @ index.T).argmax(1) != nearest).any()


@pytest.mark.parametrize("dim", [2, 5, 64])
def test_what_an_exact_search_left_out_is_never_nearer(dim):
    """In float32, as FAISS searches; the angle is never wider than that of the whole index."""
    rng = np.random.default_rng(dim)
    narrower = 0
    for _ in range(20):
        index, u = unit(rng, 200, dim), unit(rng, dim)
        found = np.argsort(-(index.astype(np.float32) @ u.astype(np.float32)))
        whole = kept_within(u, index, complete=True)
        for k in (2, 5, 50):
            nearest, cosine, angle = kept_within(u, index[found[:k]], complete=False)
            assert (found[nearest], pytest.approx(cosine)) == whole[:2]
            assert angle <= whole[2]
            narrower += angle < 0.99 * whole[2]
            directions = turned(u, index - index[whole[0]] + 1e-9, 0.999999 * angle)
            assert ((directions @ index.T).argmax(1) == whole[0]).all()
    assert narrower, "without the vectors that were left out the angle is smaller somewhere"


def test_vectors_that_were_left_out_may_lie_on_the_other_side():
    """The worst case of the triangle inequality: query, neighbour and what was left out in one plane."""
    u = np.array([1.0, 0.0])
    index = np.array([[math.cos(a), math.sin(a)] for a in (0.1, 0.5, -0.5000001)])
    _, _, two = kept_within(u, index[:2], complete=False)
    assert two == pytest.approx(0.2, abs=1e-5)
    assert kept_within(u, index, complete=True)[2] == pytest.approx(0.2, abs=1e-6)
    assert kept_within(u, index[:2], complete=True)[2] == pytest.approx(0.3, abs=1e-6)


def test_equal_neighbours_are_not_certified():
    assert kept_within(np.eye(3)[0], np.eye(3)[[0, 0, 1]], complete=True)[2] == 0.0
    # Of two that were found, others may be as near as the last.
    assert kept_within(np.eye(3)[0], np.eye(3)[[1, 2]], complete=False)[2] == 0.0


def test_a_query_is_certified_up_to_the_radius_of_its_angle(small, pictures):
    rng = np.random.default_rng(0)
    # Two pictures have nearly the same features here: the weights are random.
    index = np.concatenate([unit(rng, 5, small.dim).astype(np.float32), small.encode(pictures[2]).unit])
    # The third picture with some noise of its own.
    query = np.clip(pictures[2] + rng.integers(-9, 10, pictures[2].shape), 0, 255).astype(np.uint8)
    served = small.encode(query)
    certificate = small.certify(query, n=300, alpha=0.1, served=served)
    found = certified_neighbour(certificate, served, index, complete=True)
    assert found.index == (index @ served.unit[0]).argmax()
    assert found.radius > 0.0
    assert certificate.cosine(found.radius) > math.cos(found.angle)
    beyond = certificate.cosine(found.radius + 1e-3)
    assert beyond is None or beyond < math.cos(found.angle)
    # What predict says of the same vectors as directions of classes.
    predicted = certificate.predict(index)
    assert (predicted.index, predicted.radius) == (found.index, pytest.approx(found.radius, abs=1e-5))


def test_what_cannot_be_certified_is_refused(small, demo, pictures):
    served = small.encode(pictures[:2])
    certificate = small.certify(pictures[0], n=60, served=served[0])
    index = unit(np.random.default_rng(0), 4, small.dim)
    with pytest.raises(ValueError, match="another one"):
        certified_neighbour(certificate, served[1], index, complete=True)
    with pytest.raises(ValueError, match=f"wanted candidates .K, {small.dim}. with K ≥ 2, got shape .1,"):
        certified_neighbour(certificate, served[0], index[:1], complete=True)
    for wrong in (0.0, np.nan, np.inf):
        index[1] = wrong
        with pytest.raises(ValueError, match="finite candidates"):
            certified_neighbour(certificate, served[0], index, complete=True)
    tokens = demo.encode(pictures[0])
    with pytest.raises(ValueError, match=r"one vector per image.*--output pooled"):
        certified_neighbour(demo.certify(pictures[0], n=60, served=tokens), tokens, index, complete=True)
