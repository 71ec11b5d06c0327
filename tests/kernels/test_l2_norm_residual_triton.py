"""l2_norm_residual in Triton against float64, in the interpreter or on a GPU."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from fsfast.kernels import cuda
from fsfast.kernels.cuda.settings import Setting

pytestmark = [pytest.mark.triton, pytest.mark.gpu]

SMALL = Setting(block=2, num_warps=1)
# dtype → relative and absolute tolerance. float32: a sum of up to 200 squares. float16: half a unit in the last place.
# bfloat16: a whole one, since the interpreter's cast cuts off.
TOLERANCES = {
    torch.float32: (1e-6, 1e-6),
    torch.float16: (2**-11 + 1e-6, 1e-6),
    torch.bfloat16: (2**-7, 1e-6),
}
# (M, L, D, attention, why)
SHAPES = [
    (2, 1, 64, True, "pooled features"),
    (1, 5, 70, True, "a program that is not full, numbers that are no power of two"),
    (2, 3, 200, False, "a later block: no attention"),
    (3, 1, 1, False, "one number: h/‖h‖ is its sign"),
]


@pytest.fixture(autouse=True)
def _memory_full_of_nans(monkeypatch):
    monkeypatch.setattr(torch, "empty_like", lambda x: torch.full_like(x, float("nan")))


def make(m, tokens, dim, attention=True, dtype=torch.float32):
    """z, mlp, attn, convolved [M, L, D]; gain and shift [D]."""
    generator = torch.Generator().manual_seed(0)
    z, mlp, attn, convolved = torch.randn(4, m, tokens, dim, generator=generator).to(dtype)
    gain, shift = torch.randn(2, dim, generator=generator).to(dtype)
    return [z, mlp, attn if attention else None, convolved, gain, shift]


def run(device, given, *, eps=1e-6, tuning=SMALL):
    placed = [None if tensor is None else tensor.to(device) for tensor in given]
    return cuda.l2_norm_residual(*placed, eps=eps, tuning=tuning).cpu()


def exact(z, mlp, attn, convolved, gain, shift, eps=1e-6):
    """The formula in float64."""
    h = mlp.double() + convolved.double() + (0.0 if attn is None else attn.double())
    norm = (h**2).sum(-1, keepdim=True).sqrt()
    return z.double() + h / norm.clamp_min(eps) * gain.double() + shift.double()


def assert_close(got, wanted, why=""):
    rtol, atol = TOLERANCES[got.dtype]
    torch.testing.assert_close(got.double(), wanted, rtol=rtol, atol=atol, msg=lambda text: f"{why}: {text}")


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(("m", "tokens", "dim", "attention", "why"), SHAPES)
def test_is_close_to_float64(device, m, tokens, dim, attention, why, dtype):
    given = make(m, tokens, dim, attention, dtype)
    assert_close(run(device, given), exact(*given), why)


@pytest.mark.parametrize("length", [0.0, 1e-8, 1e-3, 1e15])
def test_short_and_long_updates(device, length):
    z, mlp, _, _, gain, shift = make(1, 3, 40)
    given = [z, length * mlp, None, torch.zeros_like(mlp), gain, shift]
    assert_close(run(device, given), exact(*given))


def test_eps(device):
    given = make(1, 2, 16)
    assert_close(run(device, given, eps=100.0), exact(*given, eps=100.0))


@pytest.mark.parametrize("tuning", [Setting(1, 4), Setting(8, 2), None])
def test_no_block_size_changes_a_bit(device, tuning):
    given = make(2, 5, 70)
    assert torch.equal(run(device, given, tuning=tuning), run(device, given))


def test_neighbours_change_no_bit(device):
    *terms, gain, shift = make(3, 3, 40)
    whole = run(device, [*terms, gain, shift])
    for row in range(3):
        alone = [term[row : row + 1] for term in terms]
        assert torch.equal(run(device, [*alone, gain, shift]), whole[row : row + 1])


def test_a_nan_stays_in_its_token(device):
    given = make(1, 4, 20)
    clean = run(device, given)
    given[1][0, 2, 5] = float("nan")
    out = run(device, given)
    assert out[0, 2].isnan().all()
    out[0, 2] = clean[0, 2]
    assert torch.equal(out, clean)


@pytest.mark.parametrize("shape", [(0, 3, 8), (2, 0, 8)])
def test_empty(device, shape):
    assert run(device, make(*shape)).shape == shape


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"z": torch.zeros(1, 2, 4, dtype=torch.float64)}, TypeError, "z: wanted float32"),
        ({"z": torch.zeros(2, 4)}, ValueError, "z: wanted shape"),
        ({"z": torch.zeros(1, 2, 4097)}, ValueError, "4096"),
        ({"mlp": torch.zeros(1, 3, 4)}, ValueError, "mlp"),
        ({"attn": torch.zeros(1, 2, 4, dtype=torch.float16)}, TypeError, "attn"),
        ({"convolved": torch.zeros(1, 4, 2).mT}, ValueError, "convolved: wanted a contiguous"),
        ({"gain": torch.zeros(5)}, ValueError, "gain"),
        ({"shift": torch.zeros(4, dtype=torch.bfloat16)}, TypeError, "shift"),
    ],
)
def test_wrong_arguments_are_refused(device, change, error, words):
    names = ("z", "mlp", "attn", "convolved", "gain", "shift")
    given = dict(zip(names, make(1, 2, 4), strict=True)) | change
    with pytest.raises(error, match=words):
        cuda.l2_norm_residual(**{name: tensor.to(device) for name, tensor in given.items()})
