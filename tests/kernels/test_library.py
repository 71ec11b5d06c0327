"""The kernels as torch operators: registered as torch demands, whole under torch.compile and torch.export."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from export.thresholds import gaussian_thresholds
from fsfast.kernels import FeatureSums, Rows, cpu, library, noise_tables, resize_tables
from fsfast.kernels.tensors import NoiseTensors, ResizeTensors, RowTensors, SumTensors

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
MEAN, STD = np.array([0.48, 0.46, 0.41]), np.array([0.27, 0.26, 0.28])
DENOISE = (1.07, 0.38)
NOISE = noise_tables(gaussian_thresholds(0.25), np.full(3, 2 / 255), np.full(3, -1.0), "float32")
RESIZE = resize_tables((9, 7), (5, 6))
ROWS = Rows(
    np.array([0, 1, 1], np.int32), np.array([1, 2**63, 3], np.uint64), np.array([0, 2**31, 2], np.uint32)
)
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 9, 7, 3), dtype=np.uint8)


@pytest.fixture(params=DEVICES)
def where(request) -> str:
    """A device that torch has."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    return request.param


def unit_anchor(device) -> torch.Tensor:
    anchor = np.random.default_rng(1).standard_normal((2, 30, 3))
    return torch.from_numpy(anchor / np.linalg.norm(anchor, axis=-1, keepdims=True)).to(device)


class Chain(torch.nn.Module):
    """The three kernels in a row, with a little of torch in between."""

    def __init__(self, device: str, layout: str = "nchw") -> None:
        super().__init__()
        self.noise, self.resize = (
            NoiseTensors.from_arrays(NOISE, device),
            ResizeTensors.from_arrays(RESIZE, device),
        )
        self.mean, self.std = (torch.from_numpy(v).to(device) for v in (MEAN, STD))
        self.layout = layout

    def forward(self, images, rows, sums, anchor):
        row_tensors = RowTensors(*rows)
        x_t = library.noisy_batch(images, row_tensors, 3, self.noise, layout=self.layout)
        pixels = library.denoise_resize_normalise(
            x_t, x_t * 0.5, DENOISE, self.resize, self.mean, self.std, layout=self.layout
        )
        tokens = pixels.flatten(2).transpose(1, 2).contiguous()
        return library.cosine_mean(tokens, row_tensors, SumTensors(*sums), anchor=anchor)


def arguments(device):
    rows, sums = RowTensors.from_arrays(ROWS, 2, device), SumTensors.zeros(2, 30, 3, device, raw=True)
    given = (sums.unit, sums.norm, sums.count, sums.raw)
    return (
        torch.from_numpy(IMAGES).to(device),
        (rows.image, rows.seed, rows.sample),
        given,
        unit_anchor(device),
    )


def expected() -> tuple[np.ndarray, FeatureSums]:
    """What the C++ kernels make of it."""
    x_t = cpu.noisy_batch(IMAGES, ROWS, 3, NOISE)
    pixels = cpu.denoise_resize_normalise(x_t, x_t * np.float32(0.5), DENOISE, RESIZE, MEAN, STD)
    tokens = np.ascontiguousarray(pixels.reshape(3, 3, 30).transpose(0, 2, 1))
    sums = FeatureSums.zeros(2, 30, 3, raw=True)
    scores = cpu.cosine_mean(tokens, ROWS, sums, anchor=unit_anchor("cpu").numpy())
    return scores, sums


def assert_expected(scores, sums) -> None:
    wanted_scores, wanted = expected()
    np.testing.assert_array_equal(scores.cpu().numpy(), wanted_scores)
    for tensor, name in zip(sums, ("unit", "norm", "count", "raw"), strict=True):
        np.testing.assert_array_equal(tensor.cpu().numpy(), getattr(wanted, name), err_msg=name)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_eager(where, layout):
    images, rows, sums, anchor = arguments(where)
    assert_expected(Chain(where, layout)(images, rows, sums, anchor), sums)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_layouts_and_types(where, layout, dtype):
    tables = noise_tables(NOISE.thresholds, np.full(3, 2 / 255), np.full(3, -1.0), dtype)
    rows = RowTensors.from_arrays(ROWS, 2, where)
    order = torch.channels_last if layout == "nhwc" else torch.contiguous_format
    noise = NoiseTensors.from_arrays(tables, where)
    x_t = library.noisy_batch(torch.from_numpy(IMAGES).to(where), rows, 0, noise, layout=layout)
    assert x_t.dtype == getattr(torch, dtype)
    assert x_t.is_contiguous(memory_format=order)
    wanted = cpu.noisy_batch(IMAGES, ROWS, 0, tables)
    words = torch.int16 if x_t.element_size() == 2 else torch.int32
    np.testing.assert_array_equal(x_t.view(words).cpu().numpy(), wanted.view(f"i{x_t.element_size()}"))
    mean, std = (torch.from_numpy(v).to(where) for v in (MEAN, STD))
    pixels = library.denoise_resize_normalise(
        x_t, None, DENOISE, ResizeTensors.from_arrays(RESIZE, where), mean, std, dtype=dtype, layout=layout
    )
    assert pixels.is_contiguous(memory_format=order)
    same = cpu.denoise_resize_normalise(wanted, None, DENOISE, RESIZE, MEAN, STD, dtype=dtype)
    np.testing.assert_array_equal(pixels.view(words).cpu().numpy(), same.view(f"i{x_t.element_size()}"))


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_opcheck_of_noisy_batch(where, layout):
    noise, rows = NoiseTensors.from_arrays(NOISE, where), RowTensors.from_arrays(ROWS, 2, where)
    images = torch.from_numpy(IMAGES).to(where)
    tables = (noise.thresholds, noise.guide, noise.values, noise.tail)
    torch.library.opcheck(
        torch.ops.fsfast.noisy_batch.default, (images, rows.image, rows.seed, rows.sample, 1, *tables, layout)
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_opcheck_of_denoise_resize_normalise(where, dtype):
    resize = ResizeTensors.from_arrays(RESIZE, where)
    tables = (resize.row_start, resize.row_weights, resize.column_start, resize.column_weights)
    mean, std = (torch.from_numpy(v).to(where) for v in (MEAN, STD))
    x_t = torch.randn(2, 3, 9, 7, device=where)
    for eps_hat in (None, torch.randn(2, 6, 9, 7, device=where)):
        torch.library.opcheck(
            torch.ops.fsfast.denoise_resize_normalise.default,
            (x_t, eps_hat, *DENOISE, *tables, (9, 7, resize.span, resize.outputs), mean, std, dtype, "nhwc"),
        )


@pytest.mark.parametrize("per_token", [False, True])
def test_opcheck_of_cosine_mean(where, per_token):
    rows, sums = RowTensors.from_arrays(ROWS, 2, where), SumTensors.zeros(2, 30, 3, where)
    features, given = torch.randn(3, 30, 3, device=where), (sums.unit, sums.norm, sums.count, None)
    for sums_given in (given, (None,) * 4):
        for anchor in (None, unit_anchor(where)):
            if anchor is not None or sums_given[0] is not None:
                torch.library.opcheck(
                    torch.ops.fsfast.cosine_mean.default,
                    (features, rows.image, *sums_given, anchor, per_token),
                )


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_as_one_graph(where, backend):
    images, rows, sums, anchor = arguments(where)
    compiled = torch.compile(Chain(where), fullgraph=True, backend=backend)
    assert_expected(compiled(images, rows, sums, anchor), sums)


def test_exports(where):
    given = arguments(where)
    program = torch.export.export(Chain(where), given)
    called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    for name in ("noisy_batch", "denoise_resize_normalise", "cosine_mean"):
        assert called.count(f"fsfast.{name}.default") == 1
    images, rows, sums, anchor = arguments(where)
    assert_expected(program.module()(images, rows, sums, anchor), sums)


def test_wrong_arguments_are_refused_by_the_kernels(where):
    images, rows, sums, anchor = arguments(where)
    with pytest.raises(TypeError, match="uint8"):
        Chain(where)(images.float(), rows, sums, anchor)
    with pytest.raises(ValueError, match="sums"):
        Chain(where)(images, rows, (sums[0][:1].contiguous(), *sums[1:]), anchor)


@pytest.mark.parametrize("missing", ["torch", "triton"])
def test_without_torch_or_triton_the_gpu_kernels_say_so_and_the_rest_works(missing):
    script = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "import fsfast, fsfast.kernels\n"
        "fsfast.kernels.noisy_batch\n"
        "from fsfast.errors import BackendUnavailable\n"
        "try:\n    import fsfast.kernels.cuda\n"
        "except BackendUnavailable as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "need torch and Triton" in done.stdout
    assert "pip install" in done.stdout
