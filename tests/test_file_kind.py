"""What a file is, by its first bytes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

import fsfast
from fsfast.file_kind import HEAD_BYTES, recognise, recognise_file
from fsfast.report.examples import load_examples


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_images(format):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, format)
    kind = recognise(buffer.getvalue()[:HEAD_BYTES])
    assert kind is not None
    assert kind.image
    assert format in kind.what.upper()


def test_files_of_ours(tmp_path, demo_path):
    with fsfast.SmoothedEncoder("demo", threads=1) as encoder:
        image = load_examples()[0].image
        encoder.certify(image, 5).save(tmp_path / "certificate")
        features = encoder.encode(image, 1)
    features.save(tmp_path / "f.npz")
    features.save(tmp_path / "f.safetensors")
    said = {name: recognise_file(path) for path in tmp_path.iterdir() if (name := path.name)}
    assert said["certificate"].what == "a certificate of fsfast"
    assert said["f.npz"].what == said["f.safetensors"].what == "a file of smoothed features"
    assert recognise_file(demo_path / "engine.json").what == "the manifest of an engine"
    assert recognise_file(demo_path / "noise.npy").what == "a NumPy array"


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"my notes\nof two lines", "text that begins with 'my notes'"),
        # Half a character at the end of the head, and characters that steer a terminal.
        ("a\u202e犬".encode()[:-1], "text that begins with 'a\\u202e�'"),
        (b"\n \n", "text that begins with ''"),
        (b"\x89 is no PNG\x00", None),
        (b"\0\0\0\x18ftypavif", "an AVIF image"),
        (b"\0\0\0\x18ftypmp42", "a film"),
        # The version of the format, then the producer, as torch writes it.
        (b"\x08\n\x12\x07pytorch", "an ONNX graph"),
        (b"\x08\n\x00", None),
        (b"GGUF\x03\0\0\0", "a GGUF file of llama.cpp"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (np.random.default_rng(0).bytes(HEAD_BYTES), None),
    ],
)
def test_the_rest(head, what):
    kind = recognise(head)
    assert (kind and kind.what) == what


def test_what_cannot_be_read_is_nothing(tmp_path):
    assert recognise_file(tmp_path) is None
    assert recognise_file(tmp_path / "missing") is None
