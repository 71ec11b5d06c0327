"""Compile the GPU kernels to machine code without a GPU: `python -m benchmarks.cpu.machine_code`.

Prints registers and spilled bytes per thread, shared memory and the number of instructions. The launches are those that
the public functions make for the tensors below; only the last step, running them, is left out.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime import JITFunction

from export.thresholds import gaussian_thresholds
from fsfast.kernels import Rows, cuda, noise_tables, resize_tables
from fsfast.kernels.cuda.launch import OPTIONS, Launch
from fsfast.kernels.tensors import NoiseTensors, ResizeTensors, RowTensors, SumTensors
from fsfast.kernels.types import Dtype
from fsfast.report.text import table

# A100, L4 and RTX 40, H100 and H200, B200.
CAPABILITIES = (80, 89, 90, 100)

_POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float64: "*fp64",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int16: "*i16",
    torch.uint8: "*u8",
}


@dataclass(frozen=True)
class Build:
    """A kernel in machine code.

    Attributes:
        kernel: its name.
        capability: 90 for sm_90.
        registers: per thread.
        spilled: bytes of local memory per thread; 0 unless registers ran out.
        shared: bytes per program.
        ptx: the portable assembly that the machine code was made from.
        sass: the machine code's instructions, one per line.
    """

    kernel: str
    capability: int
    registers: int
    spilled: int
    shared: int
    ptx: str
    sass: tuple[str, ...]


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Collect launches instead of running them."""
    launches: list[Launch] = []
    with mock.patch.object(Launch, "run", lambda launch: launches.append(launch)):
        yield launches


def source(launch: Launch) -> ASTSource:
    """Return what Triton compiles for a launch, specialised as it does: for 1, and for multiples of 16."""
    kernel = launch.kernel
    assert isinstance(kernel, JITFunction)
    signature: dict[str, str] = {}
    constants: dict[str, object] = {}
    attributes = {}
    for parameter in kernel.params:
        value = launch.arguments[parameter.name]
        special = not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (special and type(value) is int and value == 1):
            signature[parameter.name] = "constexpr"
            constants[parameter.name] = value
        elif isinstance(value, Tensor):
            signature[parameter.name] = _POINTERS[value.dtype]
            if value.data_ptr() % 16 == 0:
                attributes[(parameter.num,)] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
        else:
            signature[parameter.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if special and value % 16 == 0:
                attributes[(parameter.num,)] = [["tt.divisibility", 16]]
    return ASTSource(kernel, signature, constants, attributes)


def build(launch: Launch, capability: int) -> Build:
    """Compile a launch for a compute capability."""
    compiled = triton.compile(
        source(launch),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": launch.num_warps, **OPTIONS},
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _cuobjdump("--dump-resource-usage", file.name)
        sass = _cuobjdump("--dump-sass", file.name)
    found = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", usage))
    return Build(
        kernel=launch.kernel.__name__.removesuffix("_kernel"),
        capability=capability,
        registers=int(found["REG"]),
        spilled=int(found["STACK"]) + int(found["LOCAL"]),
        shared=compiled.metadata.shared,
        ptx=compiled.asm["ptx"],
        sass=tuple(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(.+?)\s*;", sass, re.MULTILINE)),
    )


def _cuobjdump(option: str, file: str) -> str:
    # It comes with Triton.
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    return subprocess.run([str(tool), option, file], capture_output=True, text=True, check=True).stdout


def noisy_batch(
    dtype: Dtype = "float32", *, size: tuple[int, int] = (224, 224), packed: bool = True, layout: str = "nchw"
) -> list[Launch]:
    """16 rows."""
    noise = noise_tables(gaussian_thresholds(0.25), np.ones(3), np.zeros(3), dtype)
    height, width = size
    images = torch.zeros((4, height, width if packed else width + 16, 3), dtype=torch.uint8)[:, :, :width]
    with recorded() as launches:
        cuda.noisy_batch(images, _rows(), 0, NoiseTensors.from_arrays(noise, "cpu"), layout=layout)  # type: ignore[arg-type]
    return launches


def denoise_resize_normalise(
    dtype: Dtype = "float32", *, eps: bool = True, target: int = 224, layout: str = "nchw"
) -> list[Launch]:
    """16 images of 256×256 with noise estimates of six channels."""
    given = cuda.checks.FLOATS[dtype]
    x_t, eps_hat = (torch.zeros((16, c, 256, 256), dtype=given) for c in (3, 6))
    resize = ResizeTensors.from_arrays(resize_tables((256, 256), (target, target)), "cpu")
    three = torch.ones(3, dtype=torch.float64)
    with recorded() as launches:
        cuda.denoise_resize_normalise(
            x_t, eps_hat if eps else None, (1.03, 0.25), resize, three, three, dtype=dtype, layout=layout
        )  # type: ignore[call-overload]
    return launches


def cosine_mean(dtype: Dtype = "float32", *, raw: bool = False, per_token: bool = False) -> list[Launch]:
    """16 rows of ViT-L/14 at 336: 577 tokens of 1024 numbers."""
    features = torch.zeros((16, 577, 1024), dtype=cuda.checks.FLOATS[dtype])
    sums = SumTensors.zeros(4, 577, 1024, "cpu", raw=raw)
    anchor = torch.zeros((4, 577, 1024), dtype=torch.float64)
    with recorded() as launches:
        cuda.cosine_mean(features, _rows(), sums, anchor=anchor, per_token=per_token)
    return launches


def group_norm_silu(
    dtype: Dtype = "bfloat16",
    *,
    channels: int = 256,
    side: int = 256,
    groups: int = 32,
    silu: bool = True,
    skip: bool = False,
) -> list[Launch]:
    """A row of adm256's first level; with `skip` as many channels more and an offset, as in its second half."""
    given = cuda.checks.FLOATS[dtype]
    x = torch.zeros((1, channels, side, side), dtype=given).contiguous(memory_format=torch.channels_last)
    weight, bias, offset = torch.zeros((3, channels * (1 + skip)), dtype=given)
    more = {"skip": torch.zeros_like(x), "offset": offset} if skip else {}
    with recorded() as launches:
        cuda.group_norm_silu(x, weight, bias, groups, silu=silu, **more)
    return launches


def quick_gelu(dtype: Dtype = "bfloat16", *, tokens: int = 577, dim: int = 4096) -> list[Launch]:
    """16 rows of ViT-L/14 at 336."""
    x = torch.zeros((16 * tokens, dim), dtype=cuda.checks.FLOATS[dtype])
    with recorded() as launches:
        cuda.quick_gelu(x)
    return launches


def layer_norm_conv(dtype: Dtype = "bfloat16", *, tokens: int = 577, dim: int = 1024) -> list[Launch]:
    """16 rows of ViT-L/14 at 336."""
    z = torch.zeros((16, tokens, dim), dtype=cuda.checks.FLOATS[dtype])
    with recorded() as launches:
        cuda.layer_norm_conv(z, z[0, 0], z[0, 0], z.new_zeros((dim, 1, 3)), z[0, 0])
    return launches


def l2_norm_residual(
    dtype: Dtype = "bfloat16", *, attn: bool = True, tokens: int = 577, dim: int = 1024
) -> list[Launch]:
    """16 rows of ViT-L/14 at 336; a mapper's first block has attention."""
    z = torch.zeros((16, tokens, dim), dtype=cuda.checks.FLOATS[dtype])
    with recorded() as launches:
        cuda.l2_norm_residual(z, z, z if attn else None, z, z[0, 0], z[0, 0])
    return launches


def _rows() -> RowTensors:
    image = np.repeat(np.arange(4, dtype=np.int32), 4)
    rows = Rows(image, image.astype(np.uint64), np.arange(16, dtype=np.uint32))
    return RowTensors.from_arrays(rows, 4, "cpu")


def show(builds: list[Build]) -> str:
    """Return the builds as a table."""
    cells = [
        (b.kernel, f"sm_{b.capability}", str(b.registers), str(b.spilled), str(b.shared), str(len(b.sass)))
        for b in builds
    ]
    return table(cells, ("kernel", "target", "registers", "spilled bytes", "shared bytes", "instructions"))


def main(argv: list[str] | None = None) -> int:
    """Compile every kernel for every target and print what they need."""
    argparse.ArgumentParser(prog="python -m benchmarks.cpu.machine_code", description=__doc__).parse_args(
        argv
    )
    cases = (
        noisy_batch, denoise_resize_normalise, cosine_mean, group_norm_silu, quick_gelu, layer_norm_conv,
        l2_norm_residual,
    )  # fmt: skip
    launches = [launch for case in cases for launch in case()]
    print(f"Triton {triton.__version__}")
    print(show([build(launch, capability) for launch in launches for capability in CAPABILITIES]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
