"""denoise_resize_normalise: against float64, torch and Pillow."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from fsfast.kernels import AxisTable, ResizeTables, denoise_resize_normalise, reference, resize_tables
from fsfast.kernels.casts import from_float32, to_float32

MEAN, STD = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
AB = (1.07, 0.38)
DTYPES = ["float32", "float16", "bfloat16"]

# Deviation from the float64 reference, before the cast: float32 sums of at most a few hundred weighted pixels
# in [0, 1] with Σ|w| ≤ 1.4 per axis, divided by std ≥ 0.26. Then half a unit in the last place of values
# below 4, and one more unit where the deviation moves a value across the middle between two floats.
ATOL = {"float32": 4e-6, "float16": 4e-6 + 2.0**-9, "bfloat16": 4e-6 + 2.0**-6}

# (source, target, why)
SIZES = [
    ((256, 256), (224, 224), "the usual way down"),
    ((32, 32), (40, 40), "up"),
    ((33, 47), (20, 61), "odd; one axis down, the other up"),
    ((64, 50), (64, 25), "one axis without a change"),
    ((50, 64), (25, 64), "the other axis without a change"),
    ((40, 40), (40, 40), "no change: the short way"),
    ((37, 41), (1, 1), "everything into one pixel"),
    ((1, 1), (5, 3), "one pixel into many"),
    ((1, 1), (1, 1), "one pixel"),
    ((2, 3), (7, 8), "fewer pixels than taps"),
    ((300, 11), (17, 16), "many taps, more than one band of rows"),
]


def inputs(source, batch=2, channels=3, dtype="float32"):
    rng = np.random.default_rng(0)
    x_t = rng.standard_normal((batch, 3, *source), dtype=np.float32)
    eps_hat = rng.standard_normal((batch, channels, *source), dtype=np.float32)
    return from_float32(x_t, dtype), from_float32(eps_hat, dtype)


@pytest.mark.parametrize(("source", "target", "why"), SIZES)
@pytest.mark.parametrize("kernel", ["bicubic", "bilinear"])
def test_equals_the_reference(source, target, why, kernel):
    x_t, eps_hat = inputs(source)
    tables = resize_tables(source, target, kernel)
    wanted = reference.denoise_resize_normalise(x_t, eps_hat, AB, tables, MEAN, STD)
    got = denoise_resize_normalise(x_t, eps_hat, AB, tables, MEAN, STD, out=np.full_like(wanted, np.nan))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=ATOL["float32"], err_msg=why)


@pytest.mark.parametrize("given_dtype", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_types_in_and_out(given_dtype, dtype):
    x_t, eps_hat = inputs((33, 35), dtype=given_dtype)
    tables = resize_tables((33, 35), (30, 41))
    wanted = reference.denoise_resize_normalise(x_t, eps_hat, AB, tables, MEAN, STD, dtype=dtype)
    got = denoise_resize_normalise(x_t, eps_hat, AB, tables, MEAN, STD, dtype=dtype)
    assert got.dtype == wanted.dtype
    np.testing.assert_allclose(to_float32(got), to_float32(wanted), rtol=0, atol=ATOL[dtype])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rounding_is_that_of_torch(dtype):
    # The identity resize without noise estimate is x ↦ (x + 1)/2, then the cast: exact in float32 for these.
    steps = np.arange(-(2**15), 2**15 + 1, dtype=np.float32)
    pixels = (steps / 2**15).reshape(1, 1, 1, -1).repeat(3, axis=1)
    tables = resize_tables((1, pixels.shape[-1]), (1, pixels.shape[-1]))
    for std in (1.0, 2.0**-20, 2.0**15, 2.0**-16, 2.0**18):
        got = denoise_resize_normalise(
            pixels, None, (1, 0), tables, np.full(3, 0.5), np.full(3, std), dtype=dtype
        )
        exact = torch.from_numpy((pixels / 2 / std).astype(np.float32))
        wanted = exact.to(getattr(torch, dtype)).view(torch.int16)
        assert torch.equal(torch.from_numpy(got.view(np.int16)), wanted)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_16_bit_number_is_read_as_torch_reads_it(dtype):
    # mean 0.5 and std 0.5 give back x itself, clamped.
    bits = np.arange(2**16, dtype=np.uint16).reshape(1, 1, 256, 256).repeat(3, axis=1)
    x_t = bits.view(np.float16) if dtype == "float16" else bits
    value = torch.from_numpy(bits.view(np.int16)).view(getattr(torch, dtype)).float()
    half = np.full(3, 0.5)
    got = denoise_resize_normalise(x_t, None, (1, 0), resize_tables((256, 256), (256, 256)), half, half)
    clamped = ((value.clamp(-1, 1) + 1) * 0.5 - 0.5) * 2
    np.testing.assert_array_equal(got, clamped.numpy())


@pytest.mark.parametrize(("source", "target", "why"), SIZES)
def test_resize_is_that_of_torch_and_pillow(source, target, why):
    x_t, _ = inputs(source, batch=1)
    x_t = np.clip(x_t, -1, 1)
    got = denoise_resize_normalise(x_t, None, (1, 0), resize_tables(source, target), np.zeros(3), np.ones(3))
    pixels = (x_t + 1) / 2
    # In float32 torch computes the weights themselves in float32.
    for dtype, atol in ((torch.float64, 2e-6), (torch.float32, 1e-4)):
        tensor = torch.from_numpy(pixels).to(dtype)
        by_torch = F.interpolate(tensor, target, mode="bicubic", antialias=True, align_corners=False)
        np.testing.assert_allclose(got, by_torch.numpy(), rtol=0, atol=atol, err_msg=why)
    for c in range(3):
        image = Image.fromarray(pixels[0, c]).resize(target[::-1], Image.Resampling.BICUBIC)
        np.testing.assert_allclose(got[0, c], np.asarray(image), rtol=0, atol=2e-6, err_msg=why)


def test_no_thread_layout_or_neighbour_changes_a_bit():
    x_t, eps_hat = inputs((70, 66), batch=3)
    tables = resize_tables((70, 66), (80, 61))
    wanted = denoise_resize_normalise(x_t, eps_hat, AB, tables, MEAN, STD)
    for threads in (2, 3, 16):
        got = denoise_resize_normalise(x_t, eps_hat, AB, tables, MEAN, STD, threads=threads)
        np.testing.assert_array_equal(got, wanted)
    nhwc = denoise_resize_normalise(x_t, eps_hat, AB, tables, MEAN, STD, layout="nhwc")
    np.testing.assert_array_equal(nhwc.transpose(0, 3, 1, 2), wanted)
    for i in range(3):
        alone = denoise_resize_normalise(x_t[i : i + 1], eps_hat[i : i + 1], AB, tables, MEAN, STD)
        np.testing.assert_array_equal(alone[0], wanted[i])


def test_any_strides():
    x_t, eps_hat = inputs((34, 30), channels=6)
    tables = resize_tables((34, 30), (29, 31))
    wanted = denoise_resize_normalise(x_t, np.ascontiguousarray(eps_hat[:, :3]), AB, tables, MEAN, STD)
    channels_last = [
        np.ascontiguousarray(v.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) for v in (x_t, eps_hat)
    ]
    reversed_memory = [np.ascontiguousarray(v[..., ::-1, ::-1])[..., ::-1, ::-1] for v in (x_t, eps_hat)]
    for name, (x, e) in {
        "six channels": (x_t, eps_hat),
        "channels last": channels_last,
        "slice of channels last": (channels_last[0], channels_last[1][:, :3]),
        "negative": reversed_memory,
    }.items():
        got = denoise_resize_normalise(x, e, AB, tables, MEAN, STD)
        np.testing.assert_array_equal(got, wanted, err_msg=name)


def test_values_beyond_the_range_are_clamped_and_infinities_too():
    x_t = np.array([-np.inf, -5, -1, 0, 1, 5, np.inf, 3e38], np.float32).reshape(1, 1, 1, 8).repeat(3, axis=1)
    tables = resize_tables((1, 8), (1, 8))
    got = denoise_resize_normalise(x_t, None, (1, 0), tables, np.zeros(3), np.ones(3))
    assert got[0, 0, 0].tolist() == [0, 0, 0, 0.5, 1, 1, 1, 1]


@pytest.mark.parametrize("target", [(40, 40), (30, 30), (60, 60)])
def test_nan_stays_nan(target):
    # A broken network must not be hidden: the clamp would turn NaN into a number if written the other way.
    x_t, eps_hat = inputs((40, 40))
    eps_hat[1, 2, 20, 21] = np.nan
    tables = resize_tables((40, 40), target)
    for dtype in DTYPES:
        got = to_float32(denoise_resize_normalise(x_t, eps_hat, AB, tables, MEAN, STD, dtype=dtype))
        wanted = to_float32(
            reference.denoise_resize_normalise(x_t, eps_hat, AB, tables, MEAN, STD, dtype=dtype)
        )
        assert np.isnan(got[1, 2]).any()
        np.testing.assert_array_equal(np.isnan(got), np.isnan(wanted))


def test_the_callers_floating_point_settings_do_not_matter():
    tiny = np.full((1, 3, 4, 4), 1e-40, np.float32)
    tables, arguments = resize_tables((4, 4), (4, 4)), (np.full(3, 0.5), np.full(3, 1e-38))
    wanted = denoise_resize_normalise(tiny, tiny, (1, -1e38), tables, *arguments)
    torch.set_flush_denormal(True)
    try:
        got = denoise_resize_normalise(tiny, tiny, (1, -1e38), tables, *arguments)
    finally:
        torch.set_flush_denormal(False)
    assert np.abs(wanted).max() > 0
    np.testing.assert_array_equal(got, wanted)


def test_empty_batch():
    x_t, eps_hat = inputs((8, 8), batch=0)
    got = denoise_resize_normalise(x_t, eps_hat, AB, resize_tables((8, 8), (4, 5)), MEAN, STD)
    assert got.shape == (0, 3, 4, 5)


@pytest.mark.parametrize("size", [1, 2, 5, 50, 257])
@pytest.mark.parametrize("out", [1, 3, 50, 224])
def test_weights_sum_to_one(size, out):
    table = resize_tables((size, 1), (out, 1)).rows
    assert len(table.start) == out
    inside = np.arange(table.weights.shape[1]) + table.start[:, None] < size
    np.testing.assert_allclose(table.weights.sum(1, dtype=np.float64), 1, rtol=0, atol=1e-6)
    assert not table.weights[~inside].any()


def wrong_table() -> ResizeTables:
    good = resize_tables((8, 8), (4, 4))
    return ResizeTables(AxisTable(good.rows.start + np.int32(8), good.rows.weights, 8), good.columns)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"x_t": inputs((8, 8))[0].astype(np.float64)}, TypeError, "x_t"),
        ({"x_t": inputs((8, 8))[0][:, :2]}, ValueError, "x_t"),
        ({"eps_hat": inputs((8, 9))[1]}, ValueError, "eps_hat"),
        ({"eps_hat": inputs((8, 8))[1][:, :2]}, ValueError, "eps_hat"),
        ({"resize": resize_tables((9, 8), (4, 4))}, ValueError, "resize_tables"),
        ({"resize": wrong_table()}, ValueError, "outside"),
        ({"mean": np.zeros(2)}, ValueError, "means"),
        ({"std": np.zeros(3)}, ValueError, "std"),
        ({"denoise": (np.nan, 1.0)}, ValueError, "denoise"),
        ({"dtype": "float64"}, ValueError, "dtype"),
        ({"layout": "hwc"}, ValueError, "layout"),
        ({"threads": 0}, ValueError, "threads"),
        ({"out": np.empty((2, 3, 4, 5), np.float32)}, ValueError, "out"),
    ],
)
def test_wrong_arguments_are_refused(change, error, words):
    x_t, eps_hat = inputs((8, 8))
    arguments = {
        "x_t": x_t,
        "eps_hat": eps_hat,
        "denoise": AB,
        "resize": resize_tables((8, 8), (4, 4)),
        "mean": MEAN,
    }
    with pytest.raises(error, match=words):
        denoise_resize_normalise(**{**arguments, "std": STD, **change})


def test_unknown_resize_kernels_and_sizes_are_refused():
    with pytest.raises(ValueError, match="bicubic"):
        resize_tables((8, 8), (4, 4), "lanczos")
    with pytest.raises(ValueError, match="pixel"):
        resize_tables((8, 8), (0, 4))
