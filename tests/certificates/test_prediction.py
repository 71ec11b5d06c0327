"""A certified class against brute force: within the radius none is another, just beyond it one is."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import fsfast
from fsfast.certificates.prediction import predict
from fsfast.engine.classes import ClassHead
from fsfast.engine.writer import save_engine
from fsfast.errors import CertificateError

NAMES = tuple("abcdef")


def certified_angle(head, u):
    """The radius of a certificate whose angle at ε is ε itself."""
    return predict(math.cos, 1.0, head, u[None].astype(np.float32))


def turned(u, side, angle):
    side = side - (side @ u) * u
    return math.cos(angle) * u + math.sin(angle) * side / np.linalg.norm(side)


@pytest.mark.parametrize("kind", ["directions", "linear"])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_radius_is_exact(kind, scale):
    """Also for rows of tiny and huge norms, where roundings are counted in units of the longest row."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        # Of different norms, a row of zeros among those of the classifier, and two equal rows.
        rows = rng.normal(size=(6, 5)) * rng.uniform(0.3, 3.0, (6, 1)) * scale
        rows[4] = rows[3]
        rows[5] *= kind == "directions"
        head = ClassHead(NAMES, rows.astype(np.float32), kind)
        u = rng.normal(size=5)
        u = (u / np.linalg.norm(u)).astype(np.float32).astype(np.float64)
        found = certified_angle(head, u)
        assert found.index == head.scores(u[None]).argmax()
        if found.index in (3, 4):
            assert found.radius == 0.0
            continue
        assert found.radius > 1e-4
        for _ in range(40):
            near = turned(u, rng.normal(size=5), found.radius * rng.uniform())
            assert (head.rows @ near).argmax() == found.index
        beyond = [
            turned(u, head.rows[b] - head.rows[found.index], found.radius + 1e-4)
            for b in set(range(6)) - {found.index}
        ]
        assert any((head.rows @ vector).argmax() != found.index for vector in beyond)


def test_the_norms_of_a_classifiers_rows_move_the_hyperplane():
    """u at 30° from the first of two orthogonal rows: unit rows part at 45°, rows of norms 2 and 1 at arctan 2."""
    u = np.array([math.cos(math.pi / 6), math.sin(math.pi / 6)])
    rows = np.array([[2, 0], [0, 1]], np.float32)
    angles = {
        kind: certified_angle(ClassHead(("a", "b"), rows, kind), u).radius
        for kind in ("directions", "linear")
    }
    assert angles["directions"] == pytest.approx(math.pi / 4 - math.pi / 6, abs=1e-5)
    assert angles["linear"] == pytest.approx(math.atan(2) - math.pi / 6, abs=1e-5)


def test_rows_of_zeros_alone_certify_nothing():
    assert (
        certified_angle(ClassHead(("a", "b"), np.zeros((2, 3), np.float32), "linear"), np.eye(3)[0]).radius
        == 0
    )


def test_a_certificate_is_bound_to_the_kind_of_its_classes(demo_path, tmp_path):
    """By the engine's digest: rows and kind stand in the manifest."""
    record = json.loads((demo_path / "engine.json").read_text())
    files = {name: demo_path / name for name in record.pop("files")}
    record["classes"]["kind"] = "linear"
    save_engine(tmp_path / "linear", record, files)
    image = np.full((64, 64, 3), 90, np.uint8)
    with fsfast.SmoothedEncoder(tmp_path / "linear") as encoder:
        certificate = encoder.certify(image, 50)
        assert encoder.verify(certificate, image)
    with fsfast.SmoothedEncoder(demo_path) as encoder, pytest.raises(CertificateError, match="digest"):
        encoder.verify(certificate, image)
