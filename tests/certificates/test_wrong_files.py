"""A file of another kind in the place of certificates or features: the message says what it is."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import fsfast
from fsfast.errors import EngineError, FsfastError
from fsfast.report.examples import load_examples


@pytest.fixture(scope="module")
def kept(tmp_path_factory, demo_path):
    """One file of each kind."""
    folder = tmp_path_factory.mktemp("kept")
    image = load_examples()[0].image
    with fsfast.SmoothedEncoder("demo", threads=1) as encoder:
        certificate = encoder.certify(image, 5)
        encoder.encode(image, 1).save(folder / "f.npz")
        encoder.encode(image, 1).save(folder / "f.safetensors")
    certificate.save(folder / "one.json")
    (folder / "many.jsonl").write_text(2 * (json.dumps(certificate.to_record()) + "\n"))
    (folder / "engine.json").write_bytes((demo_path / "engine.json").read_bytes())
    (folder / "notes.txt").write_text("my notes\n")
    (folder / "empty").touch()
    np.savez(folder / "other.npz", a=np.zeros(3))
    Image.new("RGB", (4, 4)).save(folder / "a.png")
    return folder


@pytest.mark.parametrize(
    ("read", "name", "said"),
    [
        (fsfast.load_certificate, "many.jsonl", "holds several certificates, .* with load_certificates"),
        (fsfast.load_certificate, "a.png", "is not a certificate but a PNG image"),
        (fsfast.load_certificate, "empty", "is not a certificate but an empty file"),
        (fsfast.load_certificate, "f.npz", "is not a certificate but a file of smoothed features"),
        (fsfast.load_certificate, "engine.json", "not an fsfast certificate; it declares .* 'fsfast-engine'"),
        (fsfast.load_certificates, "a.png", "is not a file of certificates but a PNG image"),
        (fsfast.load_certificates, "notes.txt", "certificates but text that begins with 'my notes'"),
        (fsfast.load_certificates, "f.safetensors", "certificates but a file of smoothed features"),
        (fsfast.load_features, "one.json", "is not a file of smoothed features but a certificate of fsfast"),
        (fsfast.load_features, "a.png", "is not a file of smoothed features but a PNG image"),
        (fsfast.load_features, "other.npz", "is not a file of smoothed features but a zip archive"),
        (fsfast.load_features, "empty", "is not a file of smoothed features but an empty file"),
        (fsfast.SmoothedEncoder, "a.png", "wanted an engine, which is a directory; .*a.png is a PNG image"),
        (fsfast.SmoothedEncoder, "engine.json", "is the manifest of an engine; name its directory, .*kept"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_what_a_file_is_instead(kept, read, name, said):
    with pytest.raises(FsfastError, match=said) as caught:
        read(kept / name)
    assert isinstance(caught.value, EngineError) == (read is fsfast.SmoothedEncoder)


def test_one_certificate_is_read_by_both(kept):
    assert (
        fsfast.load_certificates(kept / "one.json")[0].n == fsfast.load_certificate(kept / "one.json").n == 5
    )
