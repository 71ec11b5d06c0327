"""What counts as an image: every way in gives known pixels, every refusal says what to do."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile, ImageOps, features

from fsfast.errors import ImageError
from fsfast.images import decoding
from fsfast.images.arrays import from_pixel_values
from fsfast.images.grid import Grid, as_list, to_grid, to_grid_image

H, W = 8, 6
GRID = Grid(H, W)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, depth, colour, rows, *extra):
    """A PNG written by hand, for what Pillow cannot write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def refused(image, match, grid=GRID, error=ImageError):
    with pytest.raises(error, match=match) as caught:
        to_grid_image(image, grid)
    message = str(caught.value)
    assert "wanted" in message
    assert "got" in message
    return message


def test_every_container_of_the_same_pixels_gives_the_same_bits(pixels, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    floats = pixels.astype(np.float32) / np.float32(255)
    inputs = {
        "file": [path, str(path)],
        "pil": [Image.fromarray(pixels)],
        "array": [pixels, np.asfortranarray(pixels), floats, pixels / 255.0, floats.astype(">f4")],
        "tensor": [torch.from_numpy(pixels), torch.from_numpy(floats).requires_grad_()],
    }
    for kind, variants in inputs.items():
        for variant in variants:
            result = to_grid_image(variant, GRID)
            np.testing.assert_array_equal(result.pixels, pixels)
            assert result.source["kind"] == kind
            assert result.source["size"] == [H, W]
            assert result.grid_sha256 == hashlib.sha256(pixels.tobytes()).hexdigest()
            json.dumps(result.source)


def test_files_are_named_and_hashed(pixels, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    result = to_grid_image(path, GRID)
    assert result.name == str(path)
    assert result.source == {
        "kind": "file",
        "size": [H, W],
        "mode": "RGB",
        "steps": [],
        "format": "PNG",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    assert to_grid_image(path, GRID, name="cat").name == "cat"
    assert to_grid_image(pixels, GRID).name is None


@pytest.mark.parametrize("wrap", [lambda x: x, Image.fromarray, torch.from_numpy])
def test_pixels_are_a_read_only_copy(pixels, wrap):
    original = pixels.copy()
    source = wrap(pixels)
    result = to_grid_image(source, GRID)
    pixels[:] = 0
    np.testing.assert_array_equal(result.pixels, original)
    assert result.pixels.flags.c_contiguous
    with pytest.raises(ValueError, match="read-only"):
        result.pixels[0, 0, 0] = 1


def test_other_array_libraries_come_through_their_protocols(pixels):
    class WithArray:
        ndim, shape = pixels.ndim, pixels.shape

        def __array__(self, dtype=None, copy=None):
            return pixels

    class WithDlpack:
        def __dlpack__(self, **kwargs):
            return pixels.__dlpack__(**kwargs)

        def __dlpack_device__(self):
            return pixels.__dlpack_device__()

    for image in (WithArray(), WithDlpack()):
        np.testing.assert_array_equal(to_grid_image(image, GRID).pixels, pixels)


def test_the_module_does_not_import_torch():
    code = "import sys; sys.modules['torch'] = None; import numpy as np; from fsfast.images.grid import *; "
    code += "from fsfast.images.arrays import from_pixel_values; "
    code += "to_grid(np.zeros((4, 4, 3), np.uint8), Grid(2, 2)); "
    code += "from_pixel_values(np.zeros((3, 1, 1)), (0, 0, 0), (1, 1, 1))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_image_or_several(pixels, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    for single in (path, str(path), Image.fromarray(pixels), pixels, torch.from_numpy(pixels)):
        result, is_single = to_grid(single, GRID)
        assert is_single
        assert len(result) == 1
    batch = np.stack([pixels, 255 - pixels])
    for several in (batch, torch.from_numpy(batch), list(batch), tuple(batch), batch / 255.0):
        result, is_single = to_grid(several, GRID)
        assert not is_single
        np.testing.assert_array_equal(np.stack([item.pixels for item in result]), batch)
    assert not to_grid([pixels], GRID)[1]
    assert not to_grid(batch[:1], GRID)[1]


def test_lists_mix_kinds_sizes_and_batches(pixels, tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (40, 30), (9, 8, 7)).save(path)
    batch = np.stack([pixels, 255 - pixels])
    result, _ = to_grid([path, batch, Image.new("L", (3, 3), 50), torch.from_numpy(pixels) / 255], GRID)
    assert [item.source["kind"] for item in result] == ["file", "array", "array", "pil", "tensor"]
    assert result[0].pixels[0, 0].tolist() == [9, 8, 7]
    np.testing.assert_array_equal(result[2].pixels, 255 - pixels)
    np.testing.assert_array_equal(result[4].pixels, pixels)


def test_lists_that_are_refused(pixels):
    with pytest.raises(ImageError, match="at least one image, got an empty list"):
        as_list([])
    with pytest.raises(ImageError, match=r"empty batch of shape \[0, 8, 6, 3\]"):
        as_list(np.zeros((0, H, W, 3), np.uint8))
    with pytest.raises(TypeError, match=r"got a list inside it.*np\.asarray"):
        as_list(pixels.tolist())
    with pytest.raises(ImageError, match=r"image 1 of 2 \(counted from 0\): wanted the path"):
        to_grid([pixels, "/nonexistent.png"], GRID)
    with pytest.raises(TypeError, match=r"image 1 of 2 .*got NoneType"):
        to_grid([pixels, None], GRID)
    with pytest.raises(
        ImageError, match=r"got float32 of shape \[2, 3, 8, 6\]; .*permute\(0, 2, 3, 1\).*from_pixel"
    ):
        as_list(torch.zeros(2, 3, H, W))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(pixels, tmp_path, orientation):
    path = tmp_path / "a.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    flip, turn = np.fliplr, np.rot90
    expected = {
        1: pixels,
        2: flip(pixels),
        3: turn(pixels, 2),
        4: np.flipud(pixels),
        5: pixels.transpose(1, 0, 2),
        6: turn(pixels, -1),
        7: turn(pixels, 2).transpose(1, 0, 2),
        8: turn(pixels, 1),
    }[orientation]
    result = to_grid_image(path, Grid(*expected.shape[:2]))
    np.testing.assert_array_equal(result.pixels, expected)
    assert result.source["size"] == [H, W]
    steps = [f"exif orientation {orientation} applied"] if orientation > 1 else []
    assert result.source["steps"] == steps


def test_jpeg_with_orientation(tmp_path):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    gradient = np.repeat(np.arange(0, 256, 8, dtype=np.uint8)[:, None, None], 3, axis=2)
    Image.fromarray(np.repeat(gradient, 16, axis=1)).save(path, exif=exif, quality=95)
    result = to_grid_image(path, Grid(16, 32))
    # Dark at the top, turned clockwise: dark on the right.
    assert result.pixels[:, -1].mean() < 10 < 240 < result.pixels[:, 0].mean()
    assert result.source["format"] == "JPEG"
    # An image that was turned already is not turned again.
    turned = ImageOps.exif_transpose(Image.open(path))
    np.testing.assert_array_equal(to_grid_image(turned, Grid(16, 32)).pixels, result.pixels)


@pytest.mark.parametrize("rational", [(1, 0), (-1, 0), (1, 2)])
def test_an_odd_number_in_exif_does_not_refuse_a_photograph_that_is_turned(tmp_path, rational):
    """Some versions of Pillow read it, and refuse to write it again."""
    ifd = struct.pack("<HHHIHH", 2, 0x0112, 3, 1, 6, 0) + struct.pack("<HHIII", 0x8769, 4, 1, 38, 0)
    inner = struct.pack("<HHHIII", 1, 0x9204, 10, 1, 56, 0) + struct.pack("<ii", *rational)
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + ifd + inner
    photograph = np.random.default_rng(0).integers(0, 255, (16, 32, 3), dtype=np.uint8)
    Image.fromarray(photograph).save(tmp_path / "a.jpg", exif=exif, quality=95)
    result = to_grid_image(tmp_path / "a.jpg", Grid(32, 16))
    assert result.source["steps"] == ["exif orientation 6 applied"]
    stored = np.asarray(Image.open(tmp_path / "a.jpg"))
    np.testing.assert_array_equal(result.pixels, np.rot90(stored, -1))


def test_heic_where_its_plugin_is_registered(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    Image.new("RGB", (W, H), (200, 30, 30)).save(tmp_path / "a.heic", quality=-1)
    result = to_grid_image(tmp_path / "a.heic", GRID)
    assert np.abs(result.pixels.astype(int) - (200, 30, 30)).max() <= 8


def test_unreadable_exif_is_ignored_and_recorded(pixels, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path, exif=b"Exif\0\0not a TIFF header")
    result = to_grid_image(path, GRID)
    np.testing.assert_array_equal(result.pixels, pixels)
    assert result.source["steps"] == ["exif unreadable: not rotated"]


@pytest.mark.parametrize(
    ("suffix", "mode"), [("png", "I;16"), ("tif", "I;16"), ("tif", "I;16B"), ("pgm", "I")]
)
def test_16_bit_grey_is_rounded(tmp_path, suffix, mode):
    levels = np.array([[0, 128, 129, 257, 32767, 32768], [65535, 65407, 65406, 1, 256, 40000]])
    dtype = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]
    image = Image.frombytes(mode, (6, 2), levels.astype(dtype).tobytes())
    if suffix:
        image.save(tmp_path / f"a.{suffix}")
        image = tmp_path / f"a.{suffix}"
    result = to_grid_image(image, Grid(2, 6))
    expected = np.rint(levels / 257).astype(np.uint8)
    np.testing.assert_array_equal(result.pixels, np.repeat(expected[..., None], 3, axis=2))
    assert result.source["steps"] == ["16-bit grey scaled to 8 bits"]


def tiff(bits, photometric, raw, width):
    """A grey TIFF of one row in one strip."""
    tags = {256: width, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1, 278: 1, 279: len(raw)}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + raw


@pytest.mark.parametrize(
    ("bits", "raw"),
    [
        (1, bytes([0b01_000000])),
        (2, bytes([0b00_11_0000])),
        (4, bytes([0x0F])),
        (8, bytes([0, 255])),
        (16, bytes([0, 0, 255, 255])),
    ],
)
def test_grey_tiffs_whose_zero_is_white(tmp_path, bits, raw):
    path = tmp_path / "a.tif"
    for photometric, expected in ((1, [0, 255]), (0, [255, 0])):
        path.write_bytes(tiff(bits, photometric, raw, 2))
        result = to_grid_image(path, Grid(1, 2))
        assert result.pixels[0, :, 1].tolist() == expected
    assert ("0 was white" in result.source["steps"]) == (bits == 16)


def test_12_bit_grey_is_scaled_by_its_own_range(tmp_path):
    path = tmp_path / "a.tif"
    # 4095, 2048
    path.write_bytes(tiff(12, 1, bytes([0xFF, 0xF8, 0x00]), 2))
    result = to_grid_image(path, Grid(1, 2))
    assert result.pixels[0, :, 0].tolist() == [255, 128]
    assert result.source["steps"] == ["12-bit grey scaled to 8 bits"]


def test_16_bit_grey_with_a_transparent_level(tmp_path):
    rows = [struct.pack(">3H", 500, 501, 65535)]
    path = tmp_path / "a.png"
    path.write_bytes(png(3, 1, 16, 0, rows, chunk(b"tRNS", struct.pack(">H", 500))))
    result = to_grid_image(path, Grid(1, 3))
    assert result.pixels[0, :, 0].tolist() == [255, 2, 255]


def test_16_bit_colour_keeps_the_high_byte(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(1, 1, 16, 2, [struct.pack(">3H", 0x12FF, 0x8000, 0xFFFF)]))
    assert to_grid_image(path, Grid(1, 1)).pixels[0, 0].tolist() == [0x12, 0x80, 0xFF]
    path.write_bytes(png(1, 1, 16, 2, [bytes(6)], chunk(b"tRNS", struct.pack(">3H", 0x1234, 0, 0))))
    refused(path, "one transparent colour; convert it to RGBA")


def over_white(colour, alpha):
    return np.rint((np.asarray(colour) * alpha + 255.0 * (255 - alpha)) / 255)


@pytest.mark.parametrize("alpha", [0, 1, 100, 254, 255])
def test_alpha_is_composed_on_white(tmp_path, alpha):
    indexed = Image.new("PA", (W, H), (0, alpha))
    indexed.putpalette([10, 200, 90])
    cases = {
        "RGBA": (Image.new("RGBA", (W, H), (10, 200, 90, alpha)), (10, 200, 90)),
        "LA": (Image.new("LA", (W, H), (60, alpha)), (60, 60, 60)),
        "PA": (indexed, (10, 200, 90)),
    }
    for mode, (image, colour) in cases.items():
        for source in (image, tmp_path / "a.png"):
            if source is not image:
                if mode == "PA":
                    continue
                image.save(source)
            result = to_grid_image(source, GRID)
            assert np.abs(result.pixels - over_white(colour, alpha)).max() <= 1.0
            assert result.source["mode"] == mode
            assert result.source["steps"] == ["alpha composed on white"]
            if alpha in (0, 255):
                np.testing.assert_array_equal(result.pixels[0, 0], over_white(colour, alpha))


def test_premultiplied_alpha_is_composed_on_white():
    for mode, colour in (("RGBA", (200, 100, 0)), ("LA", (200,))):
        image = Image.new(mode, (W, H), (*colour, 128)).convert({"RGBA": "RGBa", "LA": "La"}[mode])
        result = to_grid_image(image, GRID)
        assert np.abs(result.pixels[0, 0] - over_white(colour, 128)).max() <= 2.0


def test_a_transparent_colour_becomes_white(tmp_path):
    path = tmp_path / "a.png"
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    cases = [
        (palette, {"transparency": 0}, [40, 50, 60]),
        (palette, {"transparency": bytes([0, 255])}, [40, 50, 60]),
        (Image.fromarray(np.array([[7, 8]], np.uint8)), {"transparency": 7}, [8, 8, 8]),
        (
            Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)),
            {"transparency": (1, 2, 3)},
            [4, 5, 6],
        ),
    ]
    for image, options, other in cases:
        image.save(path, **options)
        result = to_grid_image(path, Grid(1, 2))
        assert result.pixels[0].tolist() == [[255, 255, 255], other]
        assert result.source["steps"] == ["alpha composed on white"]
    # Partly transparent palette entries are mixed.
    palette.save(path, transparency=bytes([128, 255]))
    assert np.abs(to_grid_image(path, Grid(1, 2)).pixels[0, 0] - over_white([10, 20, 30], 128)).max() <= 1


def test_other_colour_models_become_rgb(tmp_path):
    colour = (200, 100, 50)
    rgb = Image.new("RGB", (W, H), colour)
    for mode, tolerance in (("YCbCr", 2), ("HSV", 3), ("LAB", 3), ("CMYK", 1), ("RGBX", 0), ("P", 0)):
        if mode == "LAB" and not features.check("littlecms2"):
            continue
        image = rgb.quantize(4) if mode == "P" else rgb.convert(mode)
        result = to_grid_image(image, GRID)
        assert np.abs(result.pixels - np.array(colour, float)).max() <= tolerance, mode
        assert result.source["steps"] == [f"{mode} converted to RGB"]
    for mode, level in (("1", 255), ("L", 77)):
        result = to_grid_image(Image.new(mode, (W, H), level), GRID)
        np.testing.assert_array_equal(result.pixels, np.full((H, W, 3), level))


def test_cmyk_jpeg(tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(path, quality=95)
    result = to_grid_image(path, Grid(16, 16))
    assert np.abs(result.pixels - np.array([255.0, 0.0, 0.0])).max() <= 4
    assert result.source["mode"] == "CMYK"


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_animations_give_their_first_frame(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    frames = [Image.new("RGB", (W, H), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    result = to_grid_image(path, GRID)
    assert result.pixels[0, 0].tolist() == [255, 0, 0]
    assert result.source["steps"][0] == "frame 0 only"
    # A PIL image stands at a frame of the caller's choice.
    with Image.open(path) as image:
        image.seek(2)
        later = to_grid_image(image, GRID)
    assert later.pixels[0, 0].tolist() == [0, 0, 255]
    assert later.source["steps"][0] == "frame 2 only"


def test_paths_that_are_no_images(tmp_path):
    assert "check the path" in refused(tmp_path / "missing.png", "missing.png: no such file")
    refused(tmp_path, "a directory; name the files")
    refused("a\0b.png", "null byte")
    refused("", "no such file")
    text = tmp_path / "notes.jpg"
    text.write_text("not an image")
    os.mkfifo(tmp_path / "pipe")
    # Reading it would wait for ever.
    refused(tmp_path / "pipe", "not a regular file")
    refused("/dev/zero", "not a regular file")


def test_large_files_are_refused_unread(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(bytes(101))
    monkeypatch.setattr(decoding, "MAX_FILE_BYTES", 100)
    refused(path, "at most 100 bytes, got .*101")


def test_vector_formats_are_refused(tmp_path):
    # Rendering them would start another program.
    path = tmp_path / "a.eps"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    refused(path, "a.eps: a PostScript document; render it to PNG first")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.png: an empty file; get it again"),
        (b"not an image", "a.png: text that begins with 'not an image'; convert it to PNG"),
        (b"<!DOCTYPE html><title>Sign in", "a web page: the download failed; download the file itself"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of git-lfs.*; run: git lfs pull"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x">', "an SVG drawing; render it to PNG first"),
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF document; render it to PNG first"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC photograph; it needs pillow-heif"),
        (b"\x93NUMPY\x01\0v\0{'descr'", "a NumPy array; load it with numpy.load"),
        (b'{"format": "fsfast-certificate"', "a certificate of fsfast"),
        (
            b"\x89PNG\r\n\x1a\n" + bytes(9),
            "a PNG image that Pillow cannot identify; fetch or export it again",
        ),
        (bytes(range(1, 99)), "Pillow cannot identify it as one of these; convert it to PNG"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_image_is_named(tmp_path, content, message):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    refused(path, message)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tif"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_truncated_files_are_refused(tmp_path, suffix, kept):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    refused(path, "truncated or damaged.*again|cannot identify")
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_the_global_switch_for_truncated_files_is_refused(pixels, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    refused(Image.fromarray(pixels), "LOAD_TRUNCATED_IMAGES to be False, got True; set it")


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_raise_nothing_but_image_errors(tmp_path):
    rng = np.random.default_rng(3)
    path = tmp_path / "a"
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path, kind)
        good = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(40):
            bad = good.copy()
            bad[rng.integers(0, len(bad), 4)] = rng.integers(0, 256, 4)
            path.write_bytes(bad.tobytes())
            with contextlib.suppress(ImageError):
                assert to_grid_image(path, GRID).pixels.shape == (H, W, 3)


def test_decompression_bombs_are_refused_by_their_header(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(50_000, 50_000, 8, 2, [b""]))
    refused(path, "at most 67108864 pixels, got .*scale it down.*FSFAST_MAX_PIXELS")


def test_our_own_cap_holds_where_pillows_is_off(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(png(50_000, 50_000, 8, 2, [b""]))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    refused(path, "at most 67108864 pixels, got .*50000×50000")
    with Image.open(path) as lazy:
        refused(lazy, "the PIL image: 50000×50000")


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_pillows_bomb_warning_as_an_error_is_an_image_error(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.new("RGB", (20, 10)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)
    refused(path, "at most .* pixels, got .*200 pixels")


def test_pil_images_that_are_refused(pixels, tmp_path):
    refused(Image.new("RGB", (0, 5)), "5×0")
    refused(Image.new("F", (W, H)), "mode F.*mode L")
    refused(Image.new("I", (W, H), 200), "32 bits .mode I., whose range is unknown; scale them to 0 … 255")
    Image.new("I", (W, H), -1).save(tmp_path / "a.tif")
    refused(tmp_path / "a.tif", "whose range is unknown")
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    closed = Image.open(path)
    closed.close()
    refused(closed, "truncated or damaged")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, H, W), r"\[3, 8, 6\]; channels come last: x.permute\(1, 2, 0\)"),
        ((H, W), r"\[8, 6\]; for a grey image.*np.stack"),
        ((H, W, 4), r"\[8, 6, 4\]; drop the alpha.*\[..., :3\]"),
        ((H, W, 1), r"\[8, 6, 1\]; for a grey image.*np.repeat"),
        ((H, W, 2), r"\[8, 6, 2\]; the last axis"),
        ((5,), r"\[5\]; pass one image"),
        ((), r"\[\]; pass one image"),
        ((1, 1, H, W, 3), r"\[1, 1, 8, 6, 3\]; pass one image"),
        ((1, H, W), r"uint8 of shape \[1, 8, 6\]; channels come last"),
        ((0, W, 3), r"with pixels, got shape \[0, 6, 3\]"),
    ],
)
def test_wrong_shapes(shape, message):
    refused(np.zeros(shape, np.uint8), message)
    refused(torch.zeros(shape, dtype=torch.uint8), message)


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        ("int32", r"got int32; .*astype\(np.uint8\)"),
        ("int8", "got int8"),
        ("uint16", "got uint16"),
        ("complex64", "got complex64"),
        ("bool", "got bool; for a black and white image"),
        ("float16", "got float16; half precision"),
    ],
)
def test_wrong_dtypes(dtype, message):
    refused(np.zeros((H, W, 3), dtype), message)


def test_half_precision_tensors_are_refused():
    for dtype in ("float16", "bfloat16"):
        tensor = torch.zeros((H, W, 3), dtype=getattr(torch, dtype))
        refused(tensor, f"got {dtype}.*; half precision cannot hold")
        with pytest.raises(ImageError, match=f"got {dtype} .*channels come last.*half precision cannot hold"):
            to_grid(tensor.permute(2, 0, 1)[None], GRID)


def test_arrays_of_paths_are_passed_as_a_list():
    refused(np.array(["a.png", "b.png"]), r"<U5 of shape \[2\]; .*x\.tolist\(\)")


def test_wrong_values(pixels):
    floats = pixels / 255.0
    refused(pixels.astype(np.float32), r"floats in \[0, 1\], got .* … 2..*uint8")
    refused(floats * 4 - 2, "floats in .*from_pixel_values")
    spoiled = floats.copy()
    spoiled[1, 2, 0] = np.nan
    spoiled[0, 0, 1] = -np.inf
    refused(spoiled, "finite pixels, got 2 of 144 NaN or infinite")
    floats[2, 2] = (100.25 / 255, 7.9 / 255, 255.5 / 255)
    refused(floats, r"3 of 144 values off the grid, the worst by 0.5 levels; round them yourself")


@pytest.mark.parametrize(
    ("offset", "accepted"), [(0.9e-3, True), (-0.9e-3, True), (1.1e-3, False), (-1.1e-3, False)]
)
def test_the_tolerance_is_a_thousandth_of_a_level(pixels, offset, accepted):
    shifted = (pixels + offset) / 255.0
    if accepted:
        np.testing.assert_array_equal(to_grid_image(shifted, GRID).pixels, pixels)
    else:
        refused(shifted, "144 of 144 values off the grid, the worst by 0.0011 levels")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "got NoneType"),
        (5, "got int"),
        ({"a": 1}, "got dict; pass the images in it as a list"),
        ({"image": 1, "label": 2}, "got dict; pass its entry 'image'"),
        ({"bytes": b"", "path": "a.png"}, "got dict; pass its entry 'bytes'"),
        ({"bytes": None, "path": "a.png"}, "got dict; pass its entry 'path'"),
        ({"pixel_values": 1}, "got dict; .*'pixel_values' through fsfast.from_pixel_values"),
        ({"a.png", "b.png"}, "got set, which has no order; pass a list"),
        (iter([1]), r"got list_iterator; pass list\(images\)"),
        ((i for i in "ab"), r"got generator; pass list\(images\)"),
        (range(3), r"got range; pass list\(images\)"),
        (io.StringIO("a"), r"got str from StringIO; open\(path, 'rb'\)"),
        (torch.zeros(4, 4, 3).to_sparse(), "dense array or tensor"),
    ],
)
def test_things_that_hold_no_image(image, message):
    refused(image, message, error=TypeError)


@pytest.mark.parametrize("module", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pixel_values_come_back_exactly(module, dtype):
    # Every level in every channel.
    levels = np.stack([np.roll(np.arange(256, dtype=np.uint8).reshape(16, 16), k) for k in range(6)])
    batch = levels.reshape(2, 3, 16, 16)
    if module == "torch":
        mean = torch.tensor(CLIP_MEAN, dtype=getattr(torch, dtype))[:, None, None]
        std = torch.tensor(CLIP_STD, dtype=getattr(torch, dtype))[:, None, None]
        x = (torch.from_numpy(batch).to(mean.dtype) / 255 - mean) / std
    else:
        mean = np.array(CLIP_MEAN, dtype)[:, None, None]
        std = np.array(CLIP_STD, dtype)[:, None, None]
        x = (batch.astype(dtype) * mean.dtype.type(1 / 255) - mean) / std
    result = from_pixel_values(x, CLIP_MEAN, CLIP_STD)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, batch.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(from_pixel_values(x[0], CLIP_MEAN, CLIP_STD), result[0])
    values = np.asarray(x, np.float64) * np.reshape(CLIP_STD, (3, 1, 1)) + np.reshape(CLIP_MEAN, (3, 1, 1))
    assert np.abs(255 * values - batch).max() < 1e-4


@pytest.mark.parametrize(
    ("mean", "std"),
    [(CLIP_MEAN, CLIP_STD), ((0.5,) * 3, (0.5,) * 3), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))],
)
def test_pixel_values_survive_float16(mean, std):
    levels = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(16, 16, 3)
    x = ((levels / 255.0 - mean) / std).transpose(2, 0, 1).astype(np.float32).astype(np.float16)
    np.testing.assert_array_equal(from_pixel_values(x, mean, std), levels)
    back = 255 * (x.transpose(1, 2, 0).astype(np.float64) * std + mean)
    assert np.abs(back - levels).max() < 0.07


def normalised(levels):
    return ((levels / 255.0 - CLIP_MEAN) / CLIP_STD).transpose(2, 0, 1).astype(np.float32)


def test_pixel_values_off_the_grid_are_refused(pixels):
    x = normalised(pixels)
    for spoiled, message in (
        (normalised(pixels + np.float64(0.002)), "144 of 144 values off the grid, the worst by 0.00"),
        (x * 1.01, "off the grid.*mean and std that the image processor used"),
        (x + 3, "off the grid"),
        (np.where(x == x.max(), np.nan, x), "NaN or infinite"),
        ((x + 0.01).astype(np.float16), r"within 0\.1 levels, got \d+ of 144 values off the grid"),
        (torch.from_numpy(x).bfloat16(), "half precision"),
        ((100 * x).astype(np.int64), "got int64"),
        (x.transpose(1, 2, 0), r"channels come first"),
        (x[None, None], r"channels come first"),
        (x[:, :0], r"no axis of length 0, got shape \[3, 0, 6\]"),
    ):
        with pytest.raises(ImageError, match=message):
            from_pixel_values(spoiled, CLIP_MEAN, CLIP_STD)
    with pytest.raises(TypeError, match="got list"):
        from_pixel_values(x.tolist(), CLIP_MEAN, CLIP_STD)


@pytest.mark.parametrize(
    ("mean", "std"),
    [(CLIP_MEAN[:2], CLIP_STD), (CLIP_MEAN, (1, 1, 0)), (CLIP_MEAN, (1, 1, -1)), ((0, 0, np.nan), CLIP_STD)],
)
def test_wrong_normalisation_constants_are_refused(mean, std):
    with pytest.raises(ValueError, match="wanted mean and std as 3 finite numbers"):
        from_pixel_values(np.zeros((3, 4, 4)), mean, std)
