"""What certificates say together: counts and medians that claim nothing that one of them does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import fsfast
from fsfast.certificates.data_set import Source, certified, data_set, median
from fsfast.engine.classes import ClassHead
from tests.written_before import ENGINE


@pytest.fixture(scope="module")
def certificates():
    rng = np.random.default_rng(0)
    with fsfast.SmoothedEncoder(ENGINE, backend="onnxruntime") as encoder:
        return encoder.certify(list(rng.integers(0, 256, (3, 8, 8, 3), np.uint8)), 50)


def sources(certificates):
    return [Source(f"line {i}", certificate) for i, certificate in enumerate(certificates, 1)]


def test_radii_are_those_of_the_certificates(certificates):
    found = data_set(sources(certificates), 0.6)
    assert list(found.radii) == sorted(certificate.radius(0.6) for certificate in certificates)
    assert (len(found), found.cosine, found.alpha) == (3, 0.6, 1e-3)


def test_an_image_without_a_certificate_is_never_counted():
    radii = np.array([0.0, 0.1, 0.1, 0.2])
    assert [certified(radii, epsilon) for epsilon in (0, 0.1, np.nextafter(0.1, 1), 0.2, 0.3)] == [
        3,
        3,
        1,
        1,
        0,
    ]


def test_the_median_is_the_smaller_of_two():
    assert [median(np.array(radii)) for radii in ([0.3], [0.1, 0.2], [0.0, 0.1, 0.2])] == [0.3, 0.1, 0.1]


def test_classes_need_the_directions_that_were_certified(certificates):
    with fsfast.SmoothedEncoder(ENGINE, backend="onnxruntime") as encoder:
        image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
        served = encoder.encode(image)
        certificate = encoder.certify(image, 50, served=served)
    directions = np.random.default_rng(1).normal(size=(2, served.unit.shape[-1]))
    classes = ClassHead(("a", "b"), directions.astype(np.float32))
    found = data_set([Source("line 1", replace(certificate, direction=None), served)], 0.5, classes)
    assert list(found.class_radii) == [certificate.predict(classes).radius]
    with pytest.raises(ValueError, match="this certificate's direction alone"):
        data_set([Source("line 1", certificates[0], served)], 0.5, classes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"function_id": "f" * 64}, "line 2 has another engine or profile"),
        ({"alpha": 0.01}, r"another alpha \(0.01\) than line 1 \(0.001\)"),
        ({"grid_sha256": None}, "line 2 is about the same image as line 1"),
    ],
    ids=str,
)
def test_what_does_not_belong_together_is_refused(certificates, change, said):
    first = certificates[0]
    other = replace(certificates[1], **{k: v or first.grid_sha256 for k, v in change.items()})
    with pytest.raises(fsfast.CertificateError, match=said):
        data_set(sources([first, other]), 0.5)


def test_nothing_is_refused():
    with pytest.raises(fsfast.CertificateError, match="at least one"):
        data_set([], 0.5)
