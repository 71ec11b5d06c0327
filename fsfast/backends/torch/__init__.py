"""torch runs the networks on a GPU: folded modules from the engine's float32 weights, in one of three precisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from fsfast.backends.device.lane import Lane
from fsfast.backends.device.place import version
from fsfast.backends.device.stages import GpuBackend, Stage, Stages
from fsfast.backends.narrower import STORED, with_precision
from fsfast.backends.torch.attention import with_token_attention
from fsfast.engine.engine import Engine
from fsfast.engine.manifest import Manifest
from fsfast.engine.profile import Work
from fsfast.kernels.tensors import FLOATS
from fsfast.kernels.types import Dtype
from fsfast.models.folded import load_folded

PRECISIONS: tuple[Dtype, ...] = ("float32", "bfloat16", "float16")
MOST_ROWS = 1024
# torch.compile times candidates anew in each process, and the faster one adds in another order: deterministic leaves
# only choices that change no bits. The others can be set by variables of the environment.
_COMPILED = {
    "deterministic": True,
    "max_autotune": False,
    "max_autotune_gemm": False,
    "max_autotune_pointwise": False,
    "coordinate_descent_tuning": False,
    "benchmark_fusion": False,
    "use_fast_math": False,
    "emulate_precision_casts": False,
}


@dataclass(frozen=True)
class TorchModules:
    """The back end: modules from the engine's float32 weights, in a precision of its own.

    Attributes:
        compiled: through torch.compile, which fuses their elementwise work; opening takes minutes the first time.
    """

    compiled: bool

    def problems(self) -> list[str]:
        """As `GpuBackend.problems`."""
        return []

    def precisions(self, manifest: Manifest) -> tuple[str, ...]:
        """As `GpuBackend.precisions`."""
        return PRECISIONS

    def rows(self, manifest: Manifest, precision: str) -> tuple[int, int]:
        """As `GpuBackend.rows`: modules take any number."""
        return 1, MOST_ROWS

    def tested(self, engine: Engine, precision: str) -> Engine:
        """As `GpuBackend.tested`."""
        return with_precision(engine, precision)

    def open(self, engine: Engine, work: Work, lane: Lane) -> Stages:
        """As `GpuBackend.open`; EngineError where the architecture is unknown or does not fit its weights, too."""
        modules = load_folded(engine, STORED)
        chosen = {stage: modules[stage] for stage in work.stages}
        return place_modules(chosen, cast(Dtype, work.precision), lane.device, compiled=self.compiled)


def gpu_backend(name: str) -> GpuBackend:
    """Return the back end "torch" or "torch-compile"."""
    return TorchModules(compiled=name == "torch-compile")


def place_modules(
    modules: Mapping[str, nn.Module], precision: Dtype, device: torch.device, *, compiled: bool = False
) -> Stages:
    """Put modules, which become the result's own, on a device: one dtype, images and weights channels_last.

    Args:
        modules: stage → folded module.
        precision: what they compute in.
        device: where.
        compiled: through torch.compile.
    """
    # Only now: what is missing here is asked where the kernels do not load, too.
    from fsfast.backends.torch.networks import for_device

    placed: dict[str, Stage] = {}
    for stage, module in modules.items():
        # torch.compile fuses by itself, but for attention.
        whole = with_token_attention(module) if compiled else for_device(module)
        whole = whole.to(device, FLOATS[precision])
        for weight in whole.parameters():
            if weight.ndim == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        placed[stage] = whole
    run = placed
    if compiled:
        run = {
            stage: cast(nn.Module, torch.compile(m, dynamic=False, options=dict(_COMPILED)))
            for stage, m in placed.items()
        }
    # Memory is planned without torch.compile, which would compile anew for every number of rows.
    return Stages(run, version(), precision, "nhwc", capturable=True, plain=placed)
