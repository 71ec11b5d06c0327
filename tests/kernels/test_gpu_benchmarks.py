"""The benchmarks of the GPU kernels, the tuner and its tables. No timing is asserted."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from benchmarks.gpu import kernels as gpu
from benchmarks.gpu import parts as gpu_parts
from benchmarks.gpu import tune
from benchmarks.gpu.device import served
from benchmarks.gpu.device.place import Place
from benchmarks.measuring.harness import Timing
from fsfast.kernels import cuda, reference
from fsfast.kernels.cuda import settings
from fsfast.models.unet import UNetConfig


@pytest.fixture
def once(monkeypatch):
    """Every call once, no clock."""

    def measure(call, **_):
        call()
        return Timing(1.0, 1.0, 1.0)

    for module in (gpu, gpu_parts, tune):
        monkeypatch.setattr(module, "measure_gpu", measure)


def as_it_is(function):
    return function


@pytest.mark.parametrize(
    ("case", "sizes"),
    [
        (gpu.noise, {"m": 4, "side": 5}),
        (gpu.resize, {"m": 1, "sizes": ((9, 8),)}),
        (gpu.reduction, {"shapes": ((4, 2, 20, 4, "float32"), (4, 2, 20, 1, "bfloat16"))}),
    ],
)
@pytest.mark.triton
@pytest.mark.gpu
def test_every_kernel_has_a_case_with_its_ceiling(once, device, case, sizes):
    rows = list(case(device, **sizes, compile=as_it_is))
    assert {row.case for row in rows} <= {"noisy_batch", "denoise_resize_normalise", "cosine_mean"}
    assert any(row.variant.startswith("torch.compile") for row in rows)
    shares = [row for row in rows if row.share is not None]
    assert shares
    assert {row.of for row in shares} <= {"bare Philox and store", "copy bandwidth"}


@pytest.mark.parametrize(
    ("case", "name", "shape"),
    [
        (gpu_parts.norms, "group_norm_silu", (1, 32, 32, 4, 4)),
        (gpu_parts.norms, "group_norm_silu", (1, 32, 0, 4, 4)),
        (gpu_parts.norm_convolutions, "layer_norm_conv", (1, 3, 20)),
        (gpu_parts.residuals, "l2_norm_residual", (1, 3, 20)),
    ],
)
@pytest.mark.triton
@pytest.mark.gpu
def test_every_part_of_a_network_has_a_case_with_its_ceiling(once, device, case, name, shape):
    rows = list(case(device, [(*shape, torch.float32), (*shape, torch.bfloat16)], compile=as_it_is))
    assert [(row.case, row.of) for row in rows] == [(name, "copy bandwidth")] * 6
    sizes = "×".join(map(str, shape)).replace("32×32", "32+32").replace("32×0", "32")
    assert [row.variant for row in rows[3:]] == [
        f"{variant}{sizes} bfloat16" for variant in ("torch, ", "torch.compile, ", "")
    ]


@pytest.mark.triton
@pytest.mark.gpu
def test_kernels_are_measured_as_they_are_served(once, device):
    """Without torch.compile; a case that fails would be a row with an error."""
    norms = [(1, 32, 32, 4, 4, torch.bfloat16)]
    place = Place(torch.device(device))
    rows = list(served.served(place, sizes=[4], sides=(5, 4), tokens=(2, 20), norms=norms))
    ours = [(row.case, row.variant) for row in rows if row.share is not None and "torch" not in row.variant]
    assert ours == [
        ("noisy_batch", "exact, float32, nhwc"),
        ("denoise_resize_normalise", "5→4"),
        ("cosine_mean", "4×2×20 bfloat16, 1 image"),
        ("group_norm_silu", "1×32+32×4×4 bfloat16"),
    ]
    assert not [row for row in rows if "compile" in row.variant]


def small_networks(device="cpu"):
    config = UNetConfig(base=16, multipliers=(1, 2), res_blocks=1, groups=4)
    return gpu_parts.networks(device, (1, 2), config, side=8, tokens=3, dim=64, compile=as_it_is)


def test_networks_are_compared_with_those_of_torch_compile(once):
    rows = list(small_networks())
    assert len(rows) == 2 * 2 * 4
    assert {row.case for row in rows} == {"network: unet-light", "network: mapper"}
    assert {row.of for row in rows} == {"torch.compile"}


def test_a_wrong_network_is_not_measured(once, monkeypatch):
    monkeypatch.setattr(gpu_parts, "for_device", lambda module: lambda x: module(x) * 2)
    with pytest.raises(AssertionError, match="unet-light: the fused network deviates"):
        list(small_networks())


@pytest.mark.triton
@pytest.mark.gpu
def test_a_wrong_part_is_not_measured(once, device, monkeypatch):
    right = cuda.l2_norm_residual
    monkeypatch.setattr(cuda, "l2_norm_residual", lambda *a, **k: right(*a, **k) + 0.1)
    with pytest.raises(AssertionError, match="l2_norm_residual: deviates from torch"):
        list(gpu_parts.residuals(device, [(1, 2, 8, torch.float32)], compile=as_it_is))


@pytest.mark.triton
@pytest.mark.gpu
def test_a_wrong_kernel_is_not_measured(once, device, monkeypatch):
    right = cuda.noisy_batch
    monkeypatch.setattr(cuda, "noisy_batch", lambda *a, **k: right(*a, **k) + 1)
    with pytest.raises(AssertionError, match="noisy_batch: the GPU's bits"):
        list(gpu.noise(device, m=4, side=5, compile=as_it_is))


@pytest.mark.triton
@pytest.mark.gpu
def test_the_bare_kernel_draws_the_words(device):
    from benchmarks.gpu.philox_store import philox_store

    out = torch.empty(30, dtype=torch.int32, device=device)
    philox_store(out, torch.tensor([7], device=device))
    words = reference.uniform_bits(7, 7, 7, 30) >> np.uint64(32)
    np.testing.assert_array_equal(out.cpu().numpy().view(np.uint32), words)


@pytest.mark.triton
@pytest.mark.gpu
def test_the_tuner_tries_settings_and_writes_a_table(once, device, monkeypatch, tmp_path):
    monkeypatch.setattr(tune, "WARPS", (1,))
    monkeypatch.setattr(tune, "BLOCKS", dict.fromkeys(tune.BLOCKS, (16, 32)))
    calls = tune.calls(device, m=4, side=7, tokens=2, dim=20, channels=32)
    assert set(calls) == set(tune.BLOCKS)
    table = {kernel: tune.best(kernel, call) for kernel, call in calls.items()}
    path = tmp_path / "table.json"
    path.write_text(json.dumps(table))
    assert settings.read(path) == {kernel: settings.Setting(16, 1) for kernel in tune.BLOCKS}


def test_a_measured_table_takes_the_place_of_the_default(monkeypatch, tmp_path):
    default = settings.read(settings.FOLDER / "default.json")
    assert set(default) == set(tune.BLOCKS)
    for entry in default.values():
        assert entry.block & (entry.block - 1) == 0
    (tmp_path / "default.json").write_text((settings.FOLDER / "default.json").read_text())
    (tmp_path / "nvidia-h100-pcie.json").write_text('{"noisy_batch": {"block": 2048, "num_warps": 8}}')
    monkeypatch.setattr(settings, "FOLDER", tmp_path)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 PCIe")
    settings._table.cache_clear()
    try:
        on_gpu = torch.device("cuda", 0)
        assert settings.setting("noisy_batch", on_gpu) == settings.Setting(2048, 8)
        assert settings.setting("cosine_mean.sums", on_gpu) == default["cosine_mean.sums"]
        assert settings.setting("noisy_batch", torch.device("cpu")) == default["noisy_batch"]
    finally:
        settings._table.cache_clear()
