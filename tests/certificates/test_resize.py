"""A certificate says how its image came onto the grid, and is verified in that way."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import PIL
import pytest
from PIL import Image

import fsfast
from fsfast.errors import CertificateError
from fsfast.images.grid import to_grid_image
from tests.written_before import ENGINE


@pytest.fixture(scope="module")
def encoder():
    with fsfast.SmoothedEncoder(ENGINE, backend="onnxruntime", threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def portrait(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "portrait.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 50, 3), dtype=np.uint8)).save(path)
    return path


def certified(encoder, image):
    return encoder.certify(image, 24, 0.05, n0=1, seeds=[3], progress=False)


def test_it_is_recorded_and_comes_back(encoder, portrait, tmp_path):
    certificate = certified(encoder, portrait)
    assert certificate.resize == certificate.source["resize"] == 2
    assert certificate.versions["pillow"] == PIL.__version__
    certificate.save(tmp_path / "c.json")
    assert encoder.verify(fsfast.load_certificate(tmp_path / "c.json"), portrait)


def test_old_certificates_are_verified_with_pillows_resize(encoder, portrait, tmp_path):
    """As version 0.1 wrote them: no field, and Pillow's pixels, which are others."""
    grid = encoder.manifest.grid
    old = certified(encoder, to_grid_image(portrait, grid, resize=1))
    assert "resize" not in old.source
    assert old.resize == 1
    assert old.grid_sha256 != to_grid_image(portrait, grid).grid_sha256
    assert encoder.verify(old, portrait)
    # The file is right, and only Pillow made other pixels then.
    other = replace(old, grid_sha256="0" * 64, versions={"pillow": "12.1.1"})
    found = encoder.verify(other, portrait)
    assert found.verdict == "different"
    assert "Pillow 12.1.1 did, which also resized it; verify with that version" in found.details[0]


@pytest.mark.parametrize("resize", [3, 0, "2", 2.0, None, True])
def test_ways_that_are_not_known_are_refused(encoder, portrait, tmp_path, resize):
    record = certified(encoder, portrait).to_record()
    record["image"]["source"]["resize"] = resize
    (tmp_path / "c.json").write_text(json.dumps(record))
    certificate = fsfast.load_certificate(tmp_path / "c.json")
    with pytest.raises(CertificateError, match=r"by resize .* this fsfast knows 1 to 2; upgrade fsfast"):
        encoder.verify(certificate, portrait)
