"""quick_gelu in Triton against float64, in the interpreter or on a GPU."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from fsfast.kernels import cuda
from fsfast.kernels.cuda.settings import Setting

pytestmark = [
    pytest.mark.triton,
    pytest.mark.gpu,
    # NumPy, the interpreter's arithmetic, warns where an exponential is beyond float32; a GPU does not.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

SMALL = Setting(block=64, num_warps=1)
# dtype → relative tolerance. float16: half a unit in the last place; bfloat16: a whole one, since the interpreter's
# cast cuts off.
TOLERANCES = {torch.float32: 1e-6, torch.float16: 2**-11 + 1e-6, torch.bfloat16: 2**-7}


def make(dtype, rows=5, dim=33):
    x = 4 * torch.randn(rows, dim, generator=torch.Generator().manual_seed(0))
    x[0, :4] = torch.tensor([0.0, 100.0, -100.0, -1e-3])
    return x.to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_is_close_to_float64(device, dtype):
    x = make(dtype)
    got = cuda.quick_gelu(x.to(device), tuning=SMALL).cpu()
    assert got.dtype == dtype
    exact = x.double() * torch.sigmoid(1.702 * x.double())
    torch.testing.assert_close(got.double(), exact, rtol=TOLERANCES[dtype], atol=6e-8)


@pytest.mark.parametrize("tuning", [Setting(16, 1), Setting(256, 8), None])
def test_no_block_size_changes_a_bit(device, tuning):
    x = make(torch.float32).to(device)
    assert torch.equal(cuda.quick_gelu(x, tuning=tuning), cuda.quick_gelu(x, tuning=SMALL))


def test_the_result_may_replace_the_input(device):
    x = make(torch.float16).to(device)
    wanted = cuda.quick_gelu(x, tuning=SMALL)
    assert cuda.quick_gelu(x, out=x, tuning=SMALL) is x
    assert torch.equal(x, wanted)


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (torch.zeros(2, 3, dtype=torch.float64), TypeError, "x: wanted float32"),
        (torch.zeros(6), ValueError, "x: wanted shape"),
        (torch.zeros(3, 2).T, ValueError, "x: wanted a contiguous tensor"),
    ],
)
def test_wrong_arguments_are_refused(device, x, error, words):
    with pytest.raises(error, match=words):
        cuda.quick_gelu(x.to(device))
