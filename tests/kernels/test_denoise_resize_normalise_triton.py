"""denoise_resize_normalise in Triton: the bits of the C++ kernel, in the interpreter or on a GPU."""

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from fsfast.kernels import cpu, cuda, reference, resize_tables
from fsfast.kernels.casts import from_float32, to_float32
from fsfast.kernels.cuda.settings import Setting
from fsfast.kernels.tensors import ResizeTensors, column_tiles

pytestmark = [pytest.mark.triton, pytest.mark.gpu]

MEAN, STD = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
AB = (1.07, 0.38)
SMALL = Setting(block=16, num_warps=2)
# As in test_denoise_resize_normalise.py: float32 sums of a few hundred weighted pixels, divided by std.
ATOL = 4e-6
# (source, target, why)
SIZES = [
    ((33, 47), (20, 61), "odd; one axis down, the other up; more than one band of rows"),
    ((9, 130), (9, 114), "several tiles of columns, one axis without a change"),
    ((12, 12), (12, 12), "no change"),
    ((37, 41), (1, 1), "everything into one pixel"),
    ((1, 1), (5, 3), "one pixel into many"),
    ((2, 3), (7, 8), "fewer pixels than taps"),
    ((11, 300), (4, 17), "so many taps that a tile spans 128 columns"),
]


def inputs(source, batch=1, channels=3, dtype="float32"):
    rng = np.random.default_rng(0)
    x_t = rng.standard_normal((batch, 3, *source), dtype=np.float32)
    eps_hat = rng.standard_normal((batch, channels, *source), dtype=np.float32)
    return from_float32(x_t, dtype), from_float32(eps_hat, dtype)


def on(device, array):
    """Return a tensor of any strides; uint16 holds bfloat16."""
    if array is None or isinstance(array, torch.Tensor):
        return array
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).to(device)
    return torch.from_numpy(array).to(device)


def run(device, x_t, eps_hat, tables, *, ab=AB, mean=MEAN, std=STD, tuning=SMALL, **options) -> np.ndarray:
    """Return what the kernel makes of arrays, [M, 3, h, w]."""
    resize = ResizeTensors.from_arrays(tables, device)
    got = cuda.denoise_resize_normalise(
        on(device, x_t),
        on(device, eps_hat),
        ab,
        resize,
        on(device, mean),
        on(device, std),
        tuning=tuning,
        **options,
    ).cpu()
    return got.view(torch.int16).numpy().view(np.uint16) if got.dtype == torch.bfloat16 else got.numpy()


@pytest.mark.parametrize(("source", "target", "why"), SIZES)
def test_equals_the_other_kernels(device, source, target, why):
    x_t, eps_hat = inputs(source)
    tables = resize_tables(source, target)
    got = run(device, x_t, eps_hat, tables)
    exact = reference.denoise_resize_normalise(x_t, eps_hat, AB, tables, MEAN, STD)
    np.testing.assert_allclose(got, exact, rtol=0, atol=ATOL, err_msg=why)
    wanted = cpu.denoise_resize_normalise(x_t, eps_hat, AB, tables, MEAN, STD)
    np.testing.assert_array_equal(got, wanted, err_msg=why)


@pytest.mark.parametrize("given", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_types_in_and_out(device, given, dtype):
    x_t, eps_hat = inputs((10, 11), dtype=given)
    tables = resize_tables((10, 11), (9, 13))
    wanted = cpu.denoise_resize_normalise(x_t, eps_hat, AB, tables, MEAN, STD, dtype=dtype)
    got = run(device, x_t, eps_hat, tables, dtype=dtype)
    assert got.dtype == wanted.dtype
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rounding_is_to_nearest_even(device, dtype):
    # The identity resize without noise estimate is x ↦ (x + 1)/2, then the cast: exact in float32 for these. Small
    # deviations give subnormal numbers, large ones infinities.
    pixels = (np.arange(-512, 512, dtype=np.float32) / 512).reshape(1, 1, 16, 64).repeat(3, axis=1)
    tables, middle = resize_tables((16, 64), (16, 64)), np.full(3, 0.5)
    for exponent in (0, 15, -16, 18):
        std = np.full(3, 2.0**exponent)
        got = run(device, pixels, None, tables, ab=(1.0, 0.0), mean=middle, std=std, dtype=dtype)
        wanted = cpu.denoise_resize_normalise(pixels, None, (1, 0), tables, middle, std, dtype=dtype)
        np.testing.assert_array_equal(got, wanted)


def test_any_strides_and_layouts(device):
    x_t, eps_hat = inputs((10, 12), batch=2, channels=6)
    tables = resize_tables((10, 12), (8, 13))
    wanted = cpu.denoise_resize_normalise(x_t, eps_hat, AB, tables, MEAN, STD)
    x, e = on(device, x_t), on(device, eps_hat)
    for name, (a, b) in {
        "six channels": (x, e),
        "channels last": [t.contiguous(memory_format=torch.channels_last) for t in (x, e)],
        "transposed": [t.transpose(2, 3).contiguous().transpose(2, 3) for t in (x, e)],
        "every other image": [t.repeat_interleave(2, dim=0)[::2] for t in (x, e)],
    }.items():
        np.testing.assert_array_equal(run(device, a, b, tables), wanted, err_msg=name)
    got = run(device, x, e, tables, layout="nhwc")
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("tuning", [Setting(1, 1), Setting(4, 4), Setting(32, 8), None])
def test_no_block_size_changes_a_bit(device, tuning):
    x_t, eps_hat = inputs((9, 10))
    tables = resize_tables((9, 10), (7, 8))
    wanted = cpu.denoise_resize_normalise(x_t, eps_hat, AB, tables, MEAN, STD)
    np.testing.assert_array_equal(run(device, x_t, eps_hat, tables, tuning=tuning), wanted)


@pytest.mark.parametrize("target", [(14, 14), (9, 9), (20, 20)])
def test_nan_stays_nan_where_its_taps_meet_it(device, target):
    # In column 0, which taps beyond the end of a row must not read, and inside.
    x_t, eps_hat = inputs((14, 14))
    # All ones, as a GPU writes it: rounding upwards would make it a number.
    eps_hat[0, 1, 5, 0] = eps_hat[0, 2, 7, 8] = np.uint32(0x7FFFFFFF).view(np.float32)
    tables = resize_tables((14, 14), target)
    for dtype in ("float32", "bfloat16"):
        got = to_float32(run(device, x_t, eps_hat, tables, dtype=dtype))
        wanted = reference.denoise_resize_normalise(x_t, eps_hat, AB, tables, MEAN, STD, dtype=dtype)
        assert np.isnan(got[0, 1:]).any(axis=(1, 2)).all()
        np.testing.assert_array_equal(np.isnan(got), np.isnan(to_float32(wanted)))


def test_values_beyond_the_range_are_clamped_and_infinities_too(device):
    x_t = np.array([-np.inf, -5, -1, 0, 1, 5, np.inf, 3e38], np.float32).reshape(1, 1, 1, 8).repeat(3, axis=1)
    got = run(
        device, x_t, None, resize_tables((1, 8), (1, 8)), ab=(1.0, 0.0), mean=np.zeros(3), std=np.ones(3)
    )
    assert got[0, 0, 0].tolist() == [0, 0, 0, 0.5, 1, 1, 1, 1]


def test_memory_is_overwritten_and_nothing_beyond_it(device):
    x_t, eps_hat = inputs((6, 7), batch=2)
    tables = resize_tables((6, 7), (5, 9))
    whole = torch.full((4, 3, 5, 9), torch.nan, device=device)
    run(device, x_t, eps_hat, tables, out=whole[1:3])
    wanted = cpu.denoise_resize_normalise(x_t, eps_hat, AB, tables, MEAN, STD)
    np.testing.assert_array_equal(whole[1:3].cpu().numpy(), wanted)
    assert whole[[0, 3]].isnan().all()


def test_empty_batch(device):
    x_t, eps_hat = inputs((8, 8), batch=0)
    assert run(device, x_t, eps_hat, resize_tables((8, 8), (4, 5))).shape == (0, 3, 4, 5)


@pytest.mark.parametrize(
    ("size", "out"), [(256, 224), (256, 336), (224, 224), (300, 17), (4000, 3), (1, 1), (3, 500)]
)
def test_tiles_read_within_their_span(size, out):
    table = resize_tables((1, size), (1, out)).columns
    span, outputs = column_tiles(table)
    assert span & (span - 1) == 0
    assert outputs <= span
    last = np.minimum(table.start + table.weights.shape[1], size)
    for begin in range(0, out, outputs):
        assert last[begin : begin + outputs].max() - table.start[begin : begin + outputs].min() <= span
    # The usual sizes waste little: two columns per lane.
    assert outputs == out or outputs >= 16
    assert span == 64 or size > 256


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"x_t": torch.zeros(2, 3, 8, 8, dtype=torch.float64)}, TypeError, "x_t"),
        ({"x_t": torch.zeros(2, 2, 8, 8)}, ValueError, "x_t"),
        ({"x_t": torch.zeros(2, 3, 8, 9)}, ValueError, "x_t"),
        ({"eps_hat": torch.zeros(2, 3, 8, 9)}, ValueError, "eps_hat"),
        ({"eps_hat": torch.zeros(2, 2, 8, 8)}, ValueError, "eps_hat"),
        ({"mean": torch.zeros(2, dtype=torch.float64)}, ValueError, "mean"),
        ({"std": torch.ones(3)}, TypeError, "std"),
        ({"denoise": (float("nan"), 1.0)}, ValueError, "denoise"),
        ({"dtype": "float64"}, ValueError, "dtype"),
        ({"layout": "hwc"}, ValueError, "layout"),
        ({"out": torch.empty(2, 3, 4, 5)}, ValueError, "out"),
    ],
)
def test_wrong_arguments_are_refused(device, change, error, words):
    change = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in change.items()}
    three = torch.ones(3, dtype=torch.float64, device=device)
    arguments = {
        "x_t": torch.zeros(2, 3, 8, 8, device=device),
        "eps_hat": torch.zeros(2, 3, 8, 8, device=device),
        "denoise": AB,
        "resize": ResizeTensors.from_arrays(resize_tables((8, 8), (4, 4)), device),
        "mean": three,
        "std": three,
    }
    with pytest.raises(error, match=words):
        cuda.denoise_resize_normalise(**{**arguments, **change})
