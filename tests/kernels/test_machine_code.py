"""Every GPU kernel becomes machine code for every target, without a GPU, with the arithmetic that was written."""

import os
import re

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

from benchmarks.cpu import machine_code

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter stands in for the compiler"
)

# name → what launches the kernels.
LAUNCHES = {
    "noisy_batch, float32": machine_code.noisy_batch,
    "noisy_batch, float16, channels last, strided": lambda: machine_code.noisy_batch(
        "float16", packed=False, layout="nhwc"
    ),
    "noisy_batch, float32, odd sizes": lambda: machine_code.noisy_batch(size=(223, 225)),
    "noisy_batch, float32, one pixel": lambda: machine_code.noisy_batch(size=(1, 1)),
    "denoise_resize_normalise, float32, 256 to 224": machine_code.denoise_resize_normalise,
    "denoise_resize_normalise, bfloat16, 256 to 336, channels last": lambda: (
        machine_code.denoise_resize_normalise("bfloat16", target=336, layout="nhwc")
    ),
    "denoise_resize_normalise, float16, no estimate": lambda: machine_code.denoise_resize_normalise(
        "float16", eps=False, target=256
    ),
    "cosine_mean, float32": machine_code.cosine_mean,
    "cosine_mean, bfloat16, raw sums, per token": lambda: machine_code.cosine_mean(
        "bfloat16", raw=True, per_token=True
    ),
    "group_norm_silu, bfloat16": machine_code.group_norm_silu,
    "group_norm_silu, float32, no SiLU": lambda: machine_code.group_norm_silu("float32", silu=False),
    "group_norm_silu, float16, odd sizes": lambda: machine_code.group_norm_silu(
        "float16", channels=96, side=33
    ),
    "group_norm_silu, bfloat16, a skip connection": lambda: machine_code.group_norm_silu(skip=True),
    "group_norm_silu, bfloat16, a small image": lambda: machine_code.group_norm_silu(channels=1024, side=16),
    "group_norm_silu, bfloat16, a small image with a skip connection": lambda: machine_code.group_norm_silu(
        channels=1024, side=8, skip=True
    ),
    # Triton makes constants of arguments that are 1.
    "group_norm_silu, float32, one number": lambda: machine_code.group_norm_silu(
        "float32", channels=1, side=1, groups=1
    ),
    "quick_gelu, bfloat16": machine_code.quick_gelu,
    "quick_gelu, float32, odd sizes": lambda: machine_code.quick_gelu("float32", tokens=7, dim=33),
    "layer_norm_conv, bfloat16": machine_code.layer_norm_conv,
    "layer_norm_conv, float32, 768 numbers": lambda: machine_code.layer_norm_conv("float32", dim=768),
    "layer_norm_conv, float32, one token of 4096 numbers": lambda: machine_code.layer_norm_conv(
        "float32", tokens=1, dim=4096
    ),
    "l2_norm_residual, bfloat16": machine_code.l2_norm_residual,
    "l2_norm_residual, float32, no attention": lambda: machine_code.l2_norm_residual("float32", attn=False),
    "l2_norm_residual, float16, 4096 numbers": lambda: machine_code.l2_norm_residual("float16", dim=4096),
}
FLOAT = re.compile(
    r"\b(?:add|sub|mul|fma|div|sqrt|rcp|ex2|lg2|sin|cos|tanh)\.[a-z0-9.]*f(?:16|32|64)(?:x2)?\b"
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@pytest.fixture(scope="module")
def builds(report):
    """Collect what was built, and print it at the end."""
    found: list[machine_code.Build] = []
    yield found
    report.append(machine_code.show(found))


@pytest.mark.parametrize("capability", machine_code.CAPABILITIES)
@pytest.mark.parametrize("name", LAUNCHES)
def test_every_kernel_compiles_for_every_target(builds, name, capability):
    for launch in LAUNCHES[name]():
        build = machine_code.build(launch, capability)
        builds.append(build)
        assert build.spilled == 0
        # At least 14 warps fit on a multiprocessor, 16 in all but noisy_batch with Triton 3.6.
        assert 0 < build.registers <= 144
        arithmetic = {plain(op) for op in FLOAT.findall(build.ptx)}
        # Nothing is fused or approximated, and subnormal numbers are not flushed.
        inexact = {op for op in arithmetic if re.search(r"fma|approx|full|ftz", op)}
        assert inexact == INEXACT.get(name, {}).get(build.kernel, set())
        assert arithmetic - inexact <= ALLOWED[build.kernel], (build.kernel, arithmetic)
        # The assembler fuses nothing, either. Division and square root are made of fused operations.
        fused = [line for line in build.sass if "FFMA" in line or "DFMA" in line]
        if not any("div" in op for op in arithmetic):
            assert not fused
        if build.kernel == "denoise_resize_normalise":
            if capability == 100 and fuses_packed_products():
                pytest.xfail(
                    "CUDA 12.9 fuses packed products on sm_100 whatever it is told: other bits there"
                )
            assert sum("FFMA" in line for line in fused) <= 1


def plain(operation: str) -> str:
    """Leave out what versions and targets write differently.

    That rounding is to nearest, that two go together, and that an operand is widened on the way, which is exact.
    """
    widened = re.sub(r"\.f32\.(bf16|f16)$", ".f32", operation)
    return re.sub(r"^(mul|add|sub)\.rn\.", r"\1.", widened).removesuffix("x2")


def fuses_packed_products() -> bool:
    """Whether the assembler is that of Triton 3.6."""
    return tuple(map(int, machine_code.triton.__version__.split(".")[:2])) < (3, 7)


# All floating-point arithmetic that may be there; comparisons and conversions are not listed.
ALLOWED = {
    # An exact kernel computes in integers.
    "noisy_batch": set(),
    "denoise_resize_normalise": {"mul.f32", "add.f32", "sub.f32", "div.rn.f64"},
    "token_products": {"mul.f64", "add.f64", "div.rn.f64", "sqrt.rn.f64"},
    "token_sums": {"mul.f64", "add.f64"},
    "scores": {"mul.f64", "add.f64", "div.rn.f64"},
    "channel_moments": {"mul.f32", "add.f32", "sub.f32", "div.rn.f32"},
    "group_moments": {"mul.f32", "add.f32", "sub.f32", "div.rn.f32", "sqrt.rn.f32"},
    "normalise": {"mul.f32", "add.f32", "sub.f32"},
    "whole_group": {"mul.f32", "add.f32", "sub.f32", "div.rn.f32", "sqrt.rn.f32"},
    "quick_gelu": {"mul.f32", "add.f32"},
    "layer_norm_conv": {"mul.f32", "add.f32", "sub.f32", "div.rn.f32", "sqrt.rn.f32"},
    "l2_norm_residual": {"mul.f32", "add.f32", "div.rn.f32", "sqrt.rn.f32"},
}
# SiLU's exponential and quotient: 2 units in the last place, and stated where the kernel is.
SILU = {"ex2.approx.f32", "div.full.f32"}
INEXACT = {
    name: {"normalise": SILU, "whole_group": SILU, "quick_gelu": SILU}
    for name in LAUNCHES
    if ("group_norm" in name and "no SiLU" not in name) or "quick_gelu" in name
}


def test_fusion_would_be_noticed(monkeypatch):
    # The option that keeps the bits is one that the test above sees.
    monkeypatch.setitem(machine_code.OPTIONS, "enable_fp_fusion", True)
    (launch,) = machine_code.denoise_resize_normalise()
    fused = machine_code.build(launch, 90)
    assert sum("FFMA" in line for line in fused.sass) > 1


def test_wide_stores_and_loads():
    # 16 bytes at once, where memory order and alignment allow it.
    noise, _, products = (
        machine_code.build(launch, 90)
        for launch in (
            *machine_code.noisy_batch(),
            *machine_code.denoise_resize_normalise(),
            machine_code.cosine_mean()[0],
        )
    )
    assert any("STG.E.128" in line for line in noise.sass)
    assert any("LDG.E.128" in line for line in products.sass)
    parts = (
        machine_code.group_norm_silu,
        machine_code.quick_gelu,
        machine_code.layer_norm_conv,
        machine_code.l2_norm_residual,
    )
    for launch in (launch for part in parts for launch in part()):
        sass = machine_code.build(launch, 90).sass
        # Sums over a group's channels read what is there, four bytes at a time.
        if "group_moments" not in launch.kernel.__name__:
            assert any("LDG.E.128" in line for line in sass)
            assert any("STG.E.128" in line for line in sass)


def test_a_launch_on_the_cpu_is_refused_in_plain_words():
    import torch

    from fsfast.kernels.cuda.launch import Launch

    (launch,) = machine_code.noisy_batch()
    assert isinstance(launch, Launch)
    assert not torch.empty(0).is_cuda
    with pytest.raises(ValueError, match=r"wanted tensors on a CUDA GPU, got cpu.*fsfast\.kernels\.library"):
        launch.run()
