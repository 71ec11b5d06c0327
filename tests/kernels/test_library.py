"""The kernels as torch operators: registered as torch demands, whole under torch.compile and torch.export."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from export.thresholds import gaussian_thresholds
from fsfast.backends.device.arithmetic import fixed_arithmetic
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


@pytest.fixture(autouse=True)
def _no_tf32():
    """Convolutions of float32 are compared at its precision."""
    with fixed_arithmetic():
        yield


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
    tables = (noise.thresholds, noise.guide, noise.values)
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


class Parts(torch.nn.Module):
    """The parts of the networks in a row: a convolution between them, as there is in the networks."""

    def __init__(self, device: str) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.conv = torch.randn(8, 8, 1, 1, generator=generator).to(device)
        self.affine = torch.randn(7, 8, generator=generator).to(device)
        self.taps = torch.randn(8, 1, 3, generator=generator).to(device)

    def forward(self, x):
        y = library.group_norm_silu(x, self.affine[0], self.affine[1], 2)
        y = library.group_norm_silu(F.conv2d(y, self.conv), self.affine[2], self.affine[3], 4, silu=False)
        z = y.flatten(2).mT.contiguous()
        z = library.quick_gelu(z.flatten(0, 1)).view_as(z)
        f, convolved = library.layer_norm_conv(z, *self.affine[4:6], self.taps, self.affine[6])
        for attn in (f * f, None):
            z = library.l2_norm_residual(z, f, attn, convolved, self.affine[0], self.affine[1])
        return z

    def expected(self, x):
        """The same of torch's own operators, in float64."""
        affine, taps = self.affine.double(), self.taps.double()
        y = F.silu(F.group_norm(x.double(), 2, affine[0], affine[1]))
        y = F.group_norm(F.conv2d(y, self.conv.double()), 4, affine[2], affine[3])
        z = y.flatten(2).mT
        z = z * torch.sigmoid(1.702 * z)
        f = F.layer_norm(z, (8,), affine[4], affine[5])
        convolved = F.conv1d(f.mT, taps, affine[6], padding=1, groups=8).mT
        for h in (f + f * f + convolved, f + convolved):
            z = z + F.normalize(h, dim=-1) * affine[0] + affine[1]
        return z


def picture(device, dtype=torch.float32):
    x = torch.randn(2, 8, 5, 3, generator=torch.Generator().manual_seed(1))
    return x.to(device, dtype).contiguous(memory_format=torch.channels_last)


def assert_parts(parts, x, got):
    torch.testing.assert_close(got.double(), parts.expected(x), rtol=1e-5, atol=1e-5)


def test_parts_of_networks(where):
    parts, x = Parts(where), picture(where)
    assert_parts(parts, x, parts(x))


def test_parts_of_networks_far_from_zero(where):
    x = (1000 + 0.05 * picture("cpu")).to(where)
    weight, bias = torch.ones(8, device=where), torch.zeros(8, device=where)
    y = library.group_norm_silu(x, weight, bias, 2, silu=False)
    wanted = F.group_norm(x.double(), 2, weight.double(), bias.double())
    torch.testing.assert_close(y.double(), wanted, rtol=0, atol=5e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_parts_of_networks_round_once(where, dtype):
    x, (weight, bias, gain) = picture(where, dtype), Parts(where).affine[:3].to(dtype)
    taps = Parts(where).taps.to(dtype)
    y = library.group_norm_silu(x, weight, bias, 2)
    assert y.stride() == x.stride()
    in_float64 = F.silu(F.group_norm(x.double(), 2, weight.double(), bias.double()))
    z = x.flatten(2).mT.contiguous()
    f, convolved = library.layer_norm_conv(z, weight, bias, taps, gain)
    normalised = F.layer_norm(z.double(), (8,), weight.double(), bias.double())
    out = library.l2_norm_residual(z, f, None, convolved, gain, bias)
    h = F.normalize(f.double() + convolved.double(), dim=-1) * gain.double() + bias.double()
    for got, wanted in ((y, in_float64), (f, normalised), (out, z.double() + h)):
        assert got.dtype == dtype
        unit = torch.finfo(dtype).eps / 2
        torch.testing.assert_close(got.double(), wanted, rtol=unit + 1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opchecks_of_parts_of_networks(where, dtype):
    x, affine, taps = picture(where, dtype), Parts(where).affine.to(dtype), Parts(where).taps.to(dtype)
    z = x.flatten(2).mT.contiguous()
    for silu in (True, False):
        torch.library.opcheck(
            torch.ops.fsfast.group_norm_silu.default, (x, affine[0], affine[1], None, None, 4, 1e-5, silu)
        )
    twice = affine.repeat(1, 2)
    torch.library.opcheck(
        torch.ops.fsfast.group_norm_silu.default, (x, twice[0], twice[1], x, twice[0], 4, 1e-5, True)
    )
    torch.library.opcheck(torch.ops.fsfast.quick_gelu.default, (z[0],))
    torch.library.opcheck(
        torch.ops.fsfast.layer_norm_conv.default, (z, affine[0], affine[1], taps, affine[2], 1e-5)
    )
    for attn in (z, None):
        torch.library.opcheck(
            torch.ops.fsfast.l2_norm_residual.default, (z, z, attn, z, affine[0], affine[1], 1e-6)
        )


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_parts_of_networks_compile_as_one_graph(where, backend):
    parts, x = Parts(where), picture(where)
    assert_parts(parts, x, torch.compile(parts, fullgraph=True, backend=backend)(x))


def test_parts_of_networks_export(where):
    parts, x = Parts(where), picture(where)
    program = torch.export.export(parts, (x,))
    called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    for name, times in (("group_norm_silu", 2), ("layer_norm_conv", 1), ("l2_norm_residual", 2)):
        assert called.count(f"fsfast.{name}.default") == times
    assert_parts(parts, x, program.module()(x))


def test_another_memory_order_is_refused(where):
    ones = torch.ones(8, device=where)
    with pytest.raises(ValueError, match="channels_last"):
        library.group_norm_silu(picture(where).contiguous(), ones, ones, 2)


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
