"""noisy_batch in Triton: the bits of the reference, in the interpreter or on a GPU."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

import triton
import triton.language as tl

from export.thresholds import gaussian_thresholds
from fsfast.kernels import NoiseTables, Rows, cuda, noise_tables, reference
from fsfast.kernels.cuda.noisy_batch import philox
from fsfast.kernels.cuda.settings import Setting
from fsfast.kernels.tensors import NoiseTensors, RowTensors

pytestmark = [pytest.mark.triton, pytest.mark.gpu]

SCALE, OFFSET = np.array([0.0146, 0.0150, 0.0142]), np.array([-1.79, -1.75, -1.48])
SMALL = Setting(block=128, num_warps=1)
# (H, W, dtype, layout, why)
CASES = [
    (1, 1, "float32", "nchw", "one pixel: three elements in one Philox block"),
    (3, 5, "float32", "nchw", "channels begin inside of a Philox block"),
    (9, 15, "float16", "nhwc", "channels begin inside of a Philox block, several programs"),
    (8, 16, "float32", "nhwc", "as many elements as a program has"),
    (
        1,
        127,
        "float32",
        "nchw",
        "one element less, but a channel begins inside of a Philox block: one program more",
    ),
    (10, 16, "float32", "nchw", "the last program of a channel repeats what another one writes"),
    (12, 15, "float16", "nhwc", "the same, channels last"),
    (4, 4, "bfloat16", "nchw", "16 bits"),
    (4, 4, "bfloat16", "nhwc", "16 bits, channels last"),
    (4, 4, "float16", "nchw", "the other 16 bits"),
]


@cache
def thresholds(sigma: float) -> np.ndarray:
    return gaussian_thresholds(sigma)


def tables(sigma: float = 0.25, dtype: str = "float32") -> NoiseTables:
    return noise_tables(thresholds(sigma), SCALE, OFFSET, dtype)


def images(batch: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


def make_rows(image, seed, sample) -> Rows:
    return Rows(np.array(image, np.int32), np.array(seed, np.uint64), np.array(sample, np.uint32))


ROWS = make_rows([0, -1, 1], [2**64 - 1, 5, 2**63 + 2**32], [2**32 - 1, 1, 0])


def bits(array: np.ndarray) -> np.ndarray:
    return array.view(np.dtype(f"u{array.itemsize}"))


def run(device, pictures, rows, stream, noise, *, layout="nchw", tuning=SMALL) -> np.ndarray:
    """Return the bits that the kernel writes into memory full of ones."""
    given = NoiseTensors.from_arrays(noise, device)
    m, (_, height, width, _) = len(rows), pictures.shape
    order = torch.channels_last if layout == "nhwc" else torch.contiguous_format
    out = torch.empty((m, 3, height, width), dtype=given.values.dtype, device=device, memory_format=order)
    words = torch.int16 if out.element_size() == 2 else torch.int32
    out.view(words).fill_(-1)
    pictures = torch.from_numpy(pictures).to(device) if isinstance(pictures, np.ndarray) else pictures
    row_tensors = RowTensors.from_arrays(rows, len(pictures), device)
    got = cuda.noisy_batch(pictures, row_tensors, stream, given, layout=layout, out=out, tuning=tuning)
    assert got is out
    return bits(got.view(words).cpu().numpy())


@triton.jit
def philox_kernel(counters_ptr, keys_ptr, words_ptr):
    case = tl.program_id(0) * 4 + tl.arange(0, 1)
    key = tl.program_id(0) * 2 + tl.arange(0, 1)
    w0, w1, w2, w3 = philox(
        tl.load(counters_ptr + case).to(tl.uint32, bitcast=True),
        tl.load(counters_ptr + case + 1).to(tl.uint32, bitcast=True),
        tl.load(counters_ptr + case + 2).to(tl.uint32, bitcast=True),
        tl.load(counters_ptr + case + 3).to(tl.uint32, bitcast=True),
        tl.load(keys_ptr + key).to(tl.uint32, bitcast=True),
        tl.load(keys_ptr + key + 1).to(tl.uint32, bitcast=True),
    )
    tl.store(words_ptr + case, w0.to(tl.int32, bitcast=True))
    tl.store(words_ptr + case + 1, w1.to(tl.int32, bitcast=True))
    tl.store(words_ptr + case + 2, w2.to(tl.int32, bitcast=True))
    tl.store(words_ptr + case + 3, w3.to(tl.int32, bitcast=True))


def test_philox_gives_the_known_answers(device):
    # Random123, tests/kat_vectors: counter, key, answer.
    known = """
        00000000 00000000 00000000 00000000 00000000 00000000 6627e8d5 e169c58d bc57ac4c 9b00dbd8
        ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff 408f276d 41c83b0e a20bc7c6 6d5451fd
        243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0 d16cfe09 94fdcceb 5001e420 24126ea1
    """
    words = np.array([int(word, 16) for word in known.split()], np.uint32).reshape(3, 10).view(np.int32)
    cases = torch.from_numpy(words).to(device)
    answers = torch.empty((3, 4), dtype=torch.int32, device=device)
    philox_kernel[(3,)](cases[:, :4].contiguous(), cases[:, 4:6].contiguous(), answers)
    assert torch.equal(answers, cases[:, 6:])


@pytest.mark.parametrize(("height", "width", "dtype", "layout", "why"), CASES)
def test_equals_the_reference(device, height, width, dtype, layout, why):
    noise, pictures = tables(dtype=dtype), images(2, height, width)
    # From 2^31 on the stream is a negative number on its way to the kernel.
    wanted = reference.noisy_batch(pictures, ROWS, 2**32 - 3, noise)
    got = run(device, pictures, ROWS, 2**32 - 3, noise, layout=layout)
    np.testing.assert_array_equal(got, bits(wanted), err_msg=why)


@pytest.mark.parametrize("sigma", [0.0005, 0.12, 1.0, 4.0])
def test_equals_the_reference_for_every_sigma(device, sigma):
    # The guide has another resolution for each; at 4.0 some elements need bisection.
    noise, pictures = tables(sigma), images(2, 8, 12)
    wanted = reference.noisy_batch(pictures, ROWS, 0, noise)
    np.testing.assert_array_equal(run(device, pictures, ROWS, 0, noise), bits(wanted))


def crafted(uniform: np.ndarray, change: dict[int, int]) -> NoiseTables:
    """Tables with thresholds at the uniform numbers of some elements plus a small change."""
    spread = np.linspace(2**40, 2**64 - 2**40, 40 - len(change)).astype(np.uint64)
    exact = np.array([int(uniform[e]) + d for e, d in change.items()], np.uint64)
    return noise_tables(np.sort(np.concatenate([spread, exact])), np.ones(3), np.zeros(3), "float32")


def test_the_low_word_decides(device):
    pictures = np.zeros((1, 8, 8, 3), np.uint8)
    rows, elements = make_rows([0], [99], [4]), [0, 17, 63, 64, 130, 191]
    uniform = reference.uniform_bits(99, 4, 2, 192)
    results = {}
    # A threshold that equals U counts, one that is larger by 1 in the low word does not.
    for change in (0, 1, -1):
        noise = crafted(uniform, dict.fromkeys(elements, change))
        assert len(noise.guide)
        results[change] = run(device, pictures, rows, 2, noise).ravel()
        wanted = reference.noisy_batch(pictures, rows, 2, noise)
        np.testing.assert_array_equal(results[change], bits(wanted).ravel())
    np.testing.assert_array_equal(results[0], results[-1])
    np.testing.assert_array_equal(np.flatnonzero(results[0] != results[1]), elements)


def test_bisection_finds_what_the_guide_finds(device):
    # Thresholds that lie too densely have an empty guide.
    noise, pictures = tables(), images(2, 5, 7)
    given = NoiseTensors.from_arrays(noise, device)
    searched = replace(given, guide=given.guide[:0])
    rows = RowTensors.from_arrays(ROWS, 2, device)
    got = cuda.noisy_batch(torch.from_numpy(pictures).to(device), rows, 1, searched, tuning=SMALL)
    wanted = reference.noisy_batch(pictures, ROWS, 1, noise)
    np.testing.assert_array_equal(got.cpu().numpy(), wanted)


def test_any_strides_without_copying(device):
    noise, rows = tables(), make_rows([1, 0], [3, 4], [5, 6])
    base = torch.from_numpy(np.random.default_rng(2).integers(0, 256, (4, 3, 24, 30), dtype=np.uint8))
    planar = base.to(device).permute(0, 2, 3, 1)
    views = {
        "planar": planar[:, :4],
        "steps": planar[::2, 5:20:3, 2:27:2],
        "crop": planar.contiguous()[:, 7:13, 3:14],
        "broadcast": planar[:1, :1, :20].expand(2, 6, 20, 3),
    }
    for name, view in views.items():
        wanted = reference.noisy_batch(view.cpu().numpy(), rows, 0, noise)
        np.testing.assert_array_equal(run(device, view, rows, 0, noise), bits(wanted), err_msg=name)


@pytest.mark.parametrize("tuning", [Setting(16, 1), Setting(4096, 8)])
def test_no_block_size_changes_a_bit(device, tuning):
    noise, pictures = tables(), images(2, 5, 7)
    wanted = reference.noisy_batch(pictures, ROWS, 0, noise)
    np.testing.assert_array_equal(run(device, pictures, ROWS, 0, noise, tuning=tuning), bits(wanted))
    # The table's own setting, too.
    np.testing.assert_array_equal(run(device, pictures, ROWS, 0, noise, tuning=None), bits(wanted))


def test_rows_are_read_when_the_kernel_runs(device):
    noise, pictures = NoiseTensors.from_arrays(tables(), device), images(2, 5, 5)
    given = torch.from_numpy(pictures).to(device)
    rows = RowTensors.from_arrays(ROWS, 2, device)
    others = make_rows([1, 1, -1], [7, 8, 9], [10, 11, 12])
    before = [tensor.data_ptr() for tensor in (rows.image, rows.seed, rows.sample)]
    rows.fill(others, 2)
    assert [tensor.data_ptr() for tensor in (rows.image, rows.seed, rows.sample)] == before
    got = cuda.noisy_batch(given, rows, 0, noise, tuning=SMALL).cpu().numpy()
    np.testing.assert_array_equal(got, reference.noisy_batch(pictures, others, 0, tables()))
    with pytest.raises(ValueError, match="wanted 3 rows"):
        rows.fill(make_rows([0], [0], [0]), 2)


def test_rows_that_name_no_image_read_nothing(device):
    noise, pictures = NoiseTensors.from_arrays(tables(), device), torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
    rows = RowTensors.from_arrays(make_rows([-1, 0], [1, 1], [1, 1]), 1, device)
    rows.image.copy_(torch.tensor([1, 2**31 - 1]))
    assert not cuda.noisy_batch(pictures.to(device), rows, 0, noise, tuning=SMALL).any()


def test_empty_batches(device):
    noise, pictures = tables(), images(1, 4, 4)
    assert run(device, pictures, make_rows([], [], []), 0, noise).shape == (0, 3, 4, 4)
    assert not run(device, pictures[:0], make_rows([-1], [1], [1]), 0, noise).any()
    assert run(device, pictures[:, :0], make_rows([0], [1], [1]), 0, noise).shape == (1, 3, 0, 4)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"images": torch.zeros(1, 4, 4, 3)}, TypeError, "uint8"),
        ({"images": torch.zeros(1, 4, 4, 2, dtype=torch.uint8)}, ValueError, "shape"),
        ({"images": images(1, 4, 4)}, TypeError, "torch tensor"),
        ({"rows": RowTensors(*(torch.zeros(1, dtype=torch.int64),) * 3)}, TypeError, "int32"),
        ({"stream": -1}, ValueError, "stream"),
        ({"stream": 2**32}, ValueError, "stream"),
        ({"layout": "chwn"}, ValueError, "layout"),
        ({"out": torch.empty(1, 3, 4, 5)}, ValueError, "out"),
        ({"out": torch.empty(1, 3, 4, 4, dtype=torch.float16)}, TypeError, "float32"),
        ({"out": torch.empty(1, 3, 4, 8)[..., ::2]}, ValueError, "packed"),
        ({"out": torch.empty(1, 3, 4, 4), "layout": "nhwc"}, ValueError, "packed"),
    ],
)
def test_wrong_arguments_are_refused(device, change, error, words):
    def moved(value):
        return value.to(device) if isinstance(value, torch.Tensor) else value

    change = {name: moved(value) for name, value in change.items()}
    if "rows" in change:
        change["rows"] = RowTensors(*(moved(t) for t in vars(change["rows"]).values()))
    arguments = {
        "images": torch.zeros(1, 4, 4, 3, dtype=torch.uint8, device=device),
        "rows": RowTensors.from_arrays(make_rows([0], [0], [0]), 1, device),
        "stream": 0,
        "noise": NoiseTensors.from_arrays(tables(), device),
    } | change
    if not isinstance(arguments["images"], torch.Tensor):
        arguments["images"] = change["images"]
    with pytest.raises(error, match=words):
        cuda.noisy_batch(**arguments)


def test_a_guide_of_another_size_is_refused(device):
    good = NoiseTensors.from_arrays(tables(), device)
    rows = RowTensors.from_arrays(make_rows([0], [0], [0]), 1, device)
    pictures = torch.zeros(1, 4, 4, 3, dtype=torch.uint8, device=device)
    for guide in (good.guide[:-1].contiguous(), good.guide[:256].contiguous()):
        with pytest.raises(ValueError, match="guide"):
            cuda.noisy_batch(pictures, rows, 0, replace(good, guide=guide))


def test_a_captured_graph_replays_with_new_noise(gpu):
    noise, pictures = NoiseTensors.from_arrays(tables(), gpu), images(2, 9, 15)
    given, rows = torch.from_numpy(pictures).to(gpu), RowTensors.from_arrays(ROWS, 2, gpu)
    # Compiles before the capture.
    out = cuda.noisy_batch(given, rows, 0, noise)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        cuda.noisy_batch(given, rows, 0, noise, out=out)
    for seed in (1, 2):
        others = make_rows([1, 0, -1], [seed, seed, 0], [3, 4, 5])
        rows.fill(others, 2)
        graph.replay()
        np.testing.assert_array_equal(out.cpu().numpy(), reference.noisy_batch(pictures, others, 0, tables()))
