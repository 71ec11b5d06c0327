"""Encoded images in memory and behind open files: what a file with the same bytes would be, with its limits."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from fsfast.errors import ImageError
from fsfast.images.grid import Grid, to_grid, to_grid_image

GRID = Grid(8, 6)


def refused(image, match):
    with pytest.raises(ImageError, match=f"wanted {match}"):
        to_grid_image(image, GRID)


def test_encoded_images_are_the_file_that_they_would_be(picture, tmp_path):
    """As bytes, in memory, as an open file, as a stream that cannot be rewound: the same pixels and sha256."""
    path = tmp_path / "a.png"
    Image.fromarray(picture).save(path)
    data, wanted = path.read_bytes(), to_grid_image(path, GRID)
    at_its_end = io.BytesIO()
    at_its_end.write(data)

    class Stream(io.RawIOBase):
        """Gives a few bytes at a time, as sockets do."""

        def __init__(self):
            self.rest = io.BytesIO(data)

        def read(self, size=-1):
            return self.rest.read(min(size, 100))

    with open(path, "rb") as file:
        given = [data, bytearray(data), memoryview(data), at_its_end, file, file, Stream()]
        found, single = to_grid(given, GRID)
        assert not single
        assert not file.closed
    assert [item.source["kind"] for item in found] == ["bytes"] * 3 + ["stream"] * 4
    for item in found:
        np.testing.assert_array_equal(item.pixels, wanted.pixels)
        assert item.source | {"kind": "file"} == wanted.source
    assert to_grid(data, GRID)[1]
    assert repr(found[0]) == "GridImage(bytes: 8×6, squashed to 8×6, bicubic)"


def test_encoded_images_are_refused_as_files_are(tmp_path, monkeypatch):
    closed = io.BytesIO()
    closed.close()
    refused(closed, "a readable image file, got BytesIO: .*closed file; open it again")
    with open(tmp_path / "new", "wb") as written:
        refused(written, "a readable image file, got .*new: ")
    refused(b"no image at all", "an image .*, got bytes of length 15: text that begins")
    refused(io.BytesIO(), "an image .*, got BytesIO: an empty file")
    monkeypatch.setattr("fsfast.images.streams.MAX_FILE_BYTES", 10)
    refused(b"a" * 11, "an image file of at most 10 bytes, got bytes of length 11: more")
    refused(io.BytesIO(b"a" * 11), "an image file of at most 10 bytes, got BytesIO: more")
