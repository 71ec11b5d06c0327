"""group_norm_silu in Triton against float64, in the interpreter or on a GPU."""

from importlib import import_module

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton", reason="Triton is not installed")

from fsfast.kernels import cuda
from fsfast.kernels.cuda.settings import Setting

pytestmark = [
    pytest.mark.triton,
    pytest.mark.gpu,
    # NumPy, the interpreter's arithmetic, warns of infinities; a GPU does not.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

SMALL = (Setting(block=64, num_warps=1), Setting(block=64, num_warps=1))
# dtype → relative and absolute tolerance. float32: sums of up to a thousand numbers. float16: half a unit in the last
# place. bfloat16: a whole one, since the interpreter's cast cuts off.
TOLERANCES = {
    torch.float32: (2e-6, 2e-6),
    torch.float16: (2**-11 + 2e-6, 2e-6),
    torch.bfloat16: (2**-7, 2e-6),
}
# (M, C, H, W, groups, why)
SHAPES = [
    (2, 8, 4, 4, 2, "one part of the pixels"),
    (1, 6, 3, 5, 3, "channels that are no power of two, groups that no block divides into"),
    (2, 40, 5, 13, 4, "two parts of unequal length, channel blocks across groups and beyond the last"),
    (1, 64, 8, 16, 32, "whole parts, small groups, several programs per row"),
    (2, 12, 2, 1, 12, "a group of one channel"),
    (1, 600, 8, 8, 1, "more partial moments than are held at once"),
    (1, 72, 16, 11, 1, "more numbers than are taken at once"),
]


@pytest.fixture(autouse=True, params=["a group per program", "three kernels"])
def _kernels(request, monkeypatch):
    """Small images take one kernel, whatever is tested; larger ones three."""
    if request.param == "three kernels":
        # The function hides the module of its name.
        monkeypatch.setattr(import_module("fsfast.kernels.cuda.group_norm_silu"), "_SMALL_PIXELS", 0)


@pytest.fixture(autouse=True)
def _memory_full_of_nans(monkeypatch):
    # The interpreter asks for memory of size 0, which is no tuple.
    def full(x, size, **options):
        return x.new_full(size if isinstance(size, tuple) else (size,), float("nan"), **options)

    monkeypatch.setattr(torch.Tensor, "new_empty", full)


def make(m, channels, height, width, dtype=torch.float32, *, mean=0.0, std=1.0):
    """x [M, C, H, W], weight and bias [C]; the affine of a folded scale and shift has any sign."""
    generator = torch.Generator().manual_seed(0)
    x = mean + std * torch.randn(m, channels, height, width, generator=generator)
    weight, bias = torch.randn(2, channels, generator=generator)
    return x.to(dtype), weight.to(dtype), bias.to(dtype)


def run(device, x, weight, bias, groups, *, silu=True, tunings=SMALL):
    x = x.to(device).contiguous(memory_format=torch.channels_last)
    out = torch.full_like(x, float("nan"))
    affine = weight.to(device), bias.to(device)
    assert cuda.group_norm_silu(x, *affine, groups, silu=silu, out=out, tunings=tunings) is out
    return out.cpu()


def exact(x, weight, bias, groups, silu=True):
    """The formula in float64."""
    grouped = x.double().unflatten(1, (groups, -1)).flatten(2)
    mean = grouped.mean(2, keepdim=True)
    variance = ((grouped - mean) ** 2).mean(2, keepdim=True)
    y = ((grouped - mean) / (variance + 1e-5).sqrt()).view(x.shape)
    y = y * weight.double()[:, None, None] + bias.double()[:, None, None]
    return F.silu(y) if silu else y


def assert_close(got, wanted, why="", *, scale=1.0):
    rtol, atol = TOLERANCES[got.dtype]
    torch.testing.assert_close(
        got.double(), wanted, rtol=scale * rtol, atol=scale * atol, msg=lambda text: f"{why}: {text}"
    )


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(("m", "channels", "height", "width", "groups", "why"), SHAPES)
def test_is_close_to_float64(device, m, channels, height, width, groups, why, dtype):
    given = make(m, channels, height, width, dtype)
    assert_close(run(device, *given, groups), exact(*given, groups), why)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(
    ("own", "others"), [(8, 8), (24, 8), (10, 6)], ids=["halves", "parts", "within a group"]
)
def test_two_tensors_are_one(device, own, others, dtype):
    """Bit for bit: the skip connection's channels after the network's, and a constant for each channel."""
    x, weight, bias = make(2, own + others, 5, 13, dtype)
    offset = torch.linspace(-2, 2, own + others).to(dtype)
    order = {"memory_format": torch.channels_last}
    parts = [part.to(device).contiguous(**order) for part in x.split((own, others), dim=1)]
    affine = weight.to(device), bias.to(device)
    got = cuda.group_norm_silu(parts[0], *affine, 4, skip=parts[1], tunings=SMALL)
    assert torch.equal(got.cpu(), run(device, x, weight, bias, 4))
    got = cuda.group_norm_silu(parts[0], *affine, 4, skip=parts[1], offset=offset.to(device), tunings=SMALL)
    wanted = exact(x.double() + offset.double()[:, None, None], weight, bias, 4)
    assert_close(got.cpu(), wanted, scale=2.0)
    got = cuda.group_norm_silu(
        x.to(device).contiguous(**order), *affine, 4, offset=offset.to(device), tunings=SMALL
    )
    assert_close(got.cpu(), wanted, scale=2.0)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_without_silu(device, dtype):
    given = make(2, 8, 3, 5, dtype)
    assert_close(run(device, *given, 4, silu=False), exact(*given, 4, silu=False))


def test_a_large_mean_beside_a_small_variance(device):
    # A float32 near 1000 has steps of 6e-5, a thousandth of the spread; its square has steps of 0.06.
    given = make(2, 16, 5, 13, mean=1000.0, std=0.05)
    x = given[0].unflatten(1, (4, -1)).flatten(2)
    naive = (x**2).mean(2) - x.mean(2) ** 2
    assert ((naive - x.double().var(2, correction=0)).abs() > 1e-2).any()
    wanted = exact(*given, 4)
    assert (run(device, *given, 4).double() - wanted).abs().max() < 2e-3 * wanted.abs().max()


def test_one_outlier_does_not_spoil_the_first_pixels_moments(device):
    x, weight, bias = make(1, 4, 8, 8)
    x[0, 1, 0, 0] = 1e6
    assert_close(run(device, x, weight, bias, 2), exact(x, weight, bias, 2))


def test_the_largest_halves(device):
    x, weight, bias = make(1, 8, 4, 4, torch.float16)
    x = x.sign() * 65504
    assert_close(run(device, x, weight, bias, 2), exact(x, weight, bias, 2))


@pytest.mark.parametrize("value", [0.0, 3.0, -1e4])
def test_constant_groups_give_the_bias(device, value):
    _, weight, bias = make(1, 8, 1, 1)
    out = run(device, torch.full((1, 8, 4, 6), value), weight, bias, 2)
    assert_close(out, F.silu(bias.double())[None, :, None, None].expand(1, 8, 4, 6))


def test_silu_of_extreme_numbers(device):
    x, weight, bias = make(1, 2, 1, 2)
    weight, bias = torch.zeros(2), torch.tensor([-200.0, 200.0])
    out = run(device, x, weight, bias, 1)
    assert out[0, 0].abs().max() == 0.0
    assert (out[0, 1] == 200.0).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_in_its_group_and_row(device, value):
    x, weight, bias = make(2, 8, 3, 7)
    clean = run(device, x, weight, bias, 4)
    x[1, 2, 1, 1] = value
    out = run(device, x, weight, bias, 4)
    assert out[1, 2:4].isnan().all()
    out[1, 2:4] = clean[1, 2:4]
    assert torch.equal(out, clean)


@pytest.mark.parametrize(
    "tunings", [(Setting(16, 1), Setting(32, 2)), (Setting(1024, 4), Setting(2048, 8)), None]
)
def test_no_block_size_changes_a_bit(device, tunings):
    given = make(2, 40, 5, 13)
    assert torch.equal(run(device, *given, 4, tunings=tunings), run(device, *given, 4))


def test_neighbours_change_no_bit(device):
    x, weight, bias = make(3, 24, 5, 13)
    whole = run(device, x, weight, bias, 3)
    for row in range(3):
        assert torch.equal(run(device, x[row : row + 1], weight, bias, 3), whole[row : row + 1])


def test_the_result_may_replace_the_input(device):
    x, weight, bias = (tensor.to(device) for tensor in make(2, 8, 5, 13))
    x = x.contiguous(memory_format=torch.channels_last)
    wanted = cuda.group_norm_silu(x, weight, bias, 2, tunings=SMALL)
    assert cuda.group_norm_silu(x, weight, bias, 2, out=x, tunings=SMALL) is x
    assert torch.equal(x, wanted)


def test_a_new_result_has_the_memory_order_and_type_of_the_input(device):
    x, weight, bias = (tensor.to(device) for tensor in make(2, 8, 3, 5, torch.float16))
    x = x.contiguous(memory_format=torch.channels_last)
    out = cuda.group_norm_silu(x, weight, bias, 2, tunings=SMALL)
    assert out.dtype == torch.float16
    assert out.stride() == x.stride()
    assert torch.equal(out.cpu(), run(device, x, weight, bias, 2))


def test_eps(device):
    given = [t.to(device) for t in make(1, 4, 2, 3)]
    given[0] = given[0].contiguous(memory_format=torch.channels_last)
    out = cuda.group_norm_silu(*given, 2, eps=1.0, silu=False, tunings=SMALL)
    wanted = F.group_norm(given[0].double(), 2, *(t.double() for t in given[1:]), eps=1.0)
    assert_close(out.cpu(), wanted.cpu())


def test_empty_batch(device):
    assert run(device, *make(0, 8, 4, 4), 2).shape == (0, 8, 4, 4)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"x": torch.zeros(2, 4, 3, 3)}, ValueError, "channels_last"),
        ({"x": torch.zeros(2, 3, 3, 4).permute(0, 3, 1, 2)[:, :, ::2]}, ValueError, "channels_last"),
        ({"x": torch.zeros(2, 4, 9)}, ValueError, "x: wanted shape"),
        ({"x": torch.zeros(1, 4, 1, 1, dtype=torch.float64)}, TypeError, "x: wanted float32"),
        ({"x": torch.zeros(1, 4, 0, 1)}, ValueError, "1 to 2"),
        ({"weight": torch.zeros(5)}, ValueError, "weight"),
        ({"bias": torch.zeros(4, dtype=torch.float16)}, TypeError, "bias"),
        ({"groups": 3}, ValueError, "divisor of the 4 channels"),
        ({"groups": 0}, ValueError, "divisor"),
        ({"skip": torch.zeros(1, 4, 3, 2)}, ValueError, "skip: wanted shape"),
        ({"skip": torch.zeros(1, 4, 2, 3)}, ValueError, "skip: wanted a packed tensor"),
        ({"skip": torch.zeros(1, 2, 3, 4).permute(0, 3, 1, 2)}, ValueError, "weight: wanted shape .8."),
        ({"offset": torch.zeros(3)}, ValueError, "offset"),
        ({"out": torch.zeros(1, 4, 3, 2)}, ValueError, "out"),
    ],
)
def test_wrong_arguments_are_refused(device, change, error, words):
    given = {
        "x": torch.zeros(1, 4, 2, 3).contiguous(memory_format=torch.channels_last),
        "weight": torch.zeros(4),
        "bias": torch.zeros(4),
        "groups": 2,
    } | change
    given = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in given.items()}
    with pytest.raises(error, match=words):
        cuda.group_norm_silu(**given)
