"""layer_norm_conv in Triton against float64, in the interpreter or on a GPU."""

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton", reason="Triton is not installed")

from fsfast.kernels import cuda
from fsfast.kernels.cuda.settings import Setting

pytestmark = [pytest.mark.triton, pytest.mark.gpu]

SMALL = Setting(block=4, num_warps=1)
# dtype → relative and absolute tolerance. float32: sums of up to 200 numbers, of which the convolution adds three.
# float16: half a unit in the last place. bfloat16: a whole one, since the interpreter's cast cuts off.
TOLERANCES = {
    torch.float32: (2e-6, 4e-6),
    torch.float16: (2**-11 + 2e-6, 4e-6),
    torch.bfloat16: (2**-7, 4e-6),
}
# (M, L, D, why)
SHAPES = [
    (3, 1, 64, "pooled features: the middle tap alone"),
    (1, 4, 16, "as many tokens as a program has"),
    (2, 5, 70, "a program with one token, numbers that are no power of two"),
    (2, 9, 1, "one number: every token is normalised to the bias"),
    (1, 3, 200, "fewer tokens than a program has"),
]


@pytest.fixture(autouse=True)
def _memory_full_of_nans(monkeypatch):
    monkeypatch.setattr(torch, "empty_like", lambda x: torch.full_like(x, float("nan")))


def make(m, tokens, dim, dtype=torch.float32, *, mean=0.0, std=1.0):
    """z [M, L, D], weight and bias of the norm [D], of the convolution [D, 1, 3] and [D]."""
    generator = torch.Generator().manual_seed(0)
    z = mean + std * torch.randn(m, tokens, dim, generator=generator)
    affine = torch.randn(3, dim, generator=generator)
    taps = torch.randn(dim, 1, 3, generator=generator)
    return tuple(tensor.to(dtype) for tensor in (z, affine[0], affine[1], taps, affine[2]))


def run(device, *given, eps=1e-5, tuning=SMALL):
    f, convolved = cuda.layer_norm_conv(*(tensor.to(device) for tensor in given), eps=eps, tuning=tuning)
    return f.cpu(), convolved.cpu()


def exact_norm(z, weight, bias, eps=1e-5):
    """LayerNorm in float64."""
    z = z.double()
    mean = z.mean(2, keepdim=True)
    variance = ((z - mean) ** 2).mean(2, keepdim=True)
    return (z - mean) / (variance + eps).sqrt() * weight.double() + bias.double()


def exact_conv(f, weight, bias):
    """Every token and its neighbours, in float64; zeros beyond the ends."""
    before, after = F.pad(f.double(), (0, 0, 1, 0))[:, :-1], F.pad(f.double(), (0, 0, 0, 1))[:, 1:]
    left, middle, right = weight.double()[:, 0].unbind(1)
    return left * before + middle * f.double() + right * after + bias.double()


def assert_close(got, wanted, why=""):
    rtol, atol = TOLERANCES[got.dtype]
    torch.testing.assert_close(got.double(), wanted, rtol=rtol, atol=atol, msg=lambda text: f"{why}: {text}")


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(("m", "tokens", "dim", "why"), SHAPES)
def test_is_close_to_float64(device, m, tokens, dim, why, dtype):
    given = make(m, tokens, dim, dtype)
    f, convolved = run(device, *given)
    assert_close(f, exact_norm(*given[:3]), why)
    # Of the rounded f, which the mapper's other branches read.
    assert_close(convolved, exact_conv(f, *given[3:]), why)


def test_a_large_mean_beside_a_small_variance(device):
    given = make(1, 3, 64, mean=1000.0, std=0.05)
    f, _ = run(device, *given)
    wanted = exact_norm(*given[:3])
    # A float32 near 1000 has steps of a thousandth of the spread.
    assert (f.double() - wanted).abs().max() < 2e-3 * wanted.abs().max()


@pytest.mark.parametrize("tuning", [Setting(1, 1), Setting(2, 4), Setting(16, 8), None])
def test_no_block_size_changes_a_bit(device, tuning):
    given = make(2, 7, 70)
    for got, wanted in zip(run(device, *given, tuning=tuning), run(device, *given), strict=True):
        assert torch.equal(got, wanted)


def test_neighbours_change_no_bit(device):
    z, *weights = make(3, 5, 40)
    whole = run(device, z, *weights)
    for row in range(3):
        alone = run(device, z[row : row + 1], *weights)
        for got, wanted in zip(alone, whole, strict=True):
            assert torch.equal(got, wanted[row : row + 1])


def test_a_nan_reaches_its_neighbours_and_no_further(device):
    z, *weights = make(2, 7, 20)
    clean = run(device, z, *weights)
    z[0, 3, 4] = float("nan")
    f, convolved = run(device, z, *weights)
    assert f[0, 3].isnan().all()
    assert convolved[0, 2:5].isnan().all()
    f[0, 3], convolved[0, 2:5] = clean[0][0, 3], clean[1][0, 2:5]
    assert torch.equal(f, clean[0])
    assert torch.equal(convolved, clean[1])


def test_constant_tokens_and_eps(device):
    _, *weights = make(1, 1, 24)
    f, _ = run(device, torch.full((1, 3, 24), -7.0), *weights)
    assert torch.equal(f, weights[1].expand(1, 3, 24))
    z = make(1, 2, 24)[0]
    assert_close(run(device, z, *weights, eps=1.0)[0], exact_norm(z, *weights[:2], eps=1.0))


@pytest.mark.parametrize("shape", [(0, 3, 8), (2, 0, 8)])
def test_empty(device, shape):
    for result in run(device, *make(*shape)):
        assert result.shape == shape


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"z": torch.zeros(1, 2, 4, dtype=torch.float64)}, TypeError, "z: wanted float32"),
        ({"z": torch.zeros(1, 2, 8)[..., ::2]}, ValueError, "contiguous"),
        ({"z": torch.zeros(2, 4)}, ValueError, "z: wanted shape"),
        ({"z": torch.zeros(1, 1, 4097)}, ValueError, "4096"),
        ({"z": torch.zeros(1, 1, 0)}, ValueError, "4096"),
        ({"norm_weight": torch.zeros(5)}, ValueError, "norm_weight"),
        ({"norm_bias": torch.zeros(4, dtype=torch.float16)}, TypeError, "norm_bias"),
        ({"conv_weight": torch.zeros(4, 1, 5)}, ValueError, "conv_weight"),
        ({"conv_bias": torch.zeros(1)}, ValueError, "conv_bias"),
    ],
)
def test_wrong_arguments_are_refused(device, change, error, words):
    names = ("z", "norm_weight", "norm_bias", "conv_weight", "conv_bias")
    given = dict(zip(names, make(1, 2, 4), strict=True)) | change
    with pytest.raises(error, match=words):
        cuda.layer_norm_conv(**{name: tensor.to(device) for name, tensor in given.items()})
