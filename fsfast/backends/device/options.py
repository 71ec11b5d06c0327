"""How an engine may be run on a GPU: who runs the networks, in what precision, with how many rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from fsfast.backends.device.lane import Lane
from fsfast.backends.device.stages import Stages
from fsfast.engine.engine import Engine
from fsfast.engine.manifest import Manifest
from fsfast.errors import BackendUnavailable
from fsfast.kernels.types import Dtype
from fsfast.options import (
    PrecisionError,
    check_micro_batch,
    choose_precision,
    choose_stages,
    default_micro_batch,
)
from fsfast.sampling import check_samples

# torch runs the engine's modules: "torch-compile" fuses their elementwise work, and opening takes minutes the first
# time. The others run the engine's ONNX graphs.
TORCH = ("torch", "torch-compile")
BACKENDS = (*TORCH, "tensorrt", "tensorrt_rtx", "onnxruntime")
MAX_MICRO_BATCH = 1024


def missing(backend: str) -> list[str]:
    """Return what keeps a back end of BACKENDS from running on a GPU that torch can use, or nothing.

    Raises:
        BackendUnavailable: there is no such back end.
    """
    if backend not in BACKENDS:
        raise BackendUnavailable(
            f"wanted a back end of {', '.join(BACKENDS)} for device='cuda', got {backend!r}"
        )
    if backend in TORCH:
        return []
    if backend == "onnxruntime":
        from fsfast.backends.device import onnxruntime

        return onnxruntime.problems()
    from fsfast.backends import tensorrt

    return tensorrt.problems(backend)


@dataclass(frozen=True)
class Settings:
    """Checked options.

    Attributes:
        backend: of BACKENDS.
        precision, micro_batch, stages: as in `fsfast.backends.Profile`.
    """

    backend: str
    precision: str
    micro_batch: int
    stages: tuple[str, ...]

    def tested(self, engine: Engine) -> Engine:
        """Return the engine whose tolerances hold in the self-test."""
        if self.backend not in TORCH:
            return engine
        from fsfast.backends.torch import with_precision

        return with_precision(engine, self.precision)


@dataclass(frozen=True)
class Options:
    """What a user asks for.

    Attributes:
        backend: "auto", which is "torch", or one of BACKENDS.
        precision: of float32, bfloat16 and float16 with torch, of the engine's own with the others; None: float32, or
            the engine's first.
        micro_batch: M; None: `default_micro_batch` of the engine.
        stages: as `SmoothedEncoder`.
    """

    backend: str = "auto"
    precision: str | None = None
    micro_batch: int | None = None
    stages: Sequence[str] | None = None

    @property
    def chosen(self) -> str:
        """The back end that is meant."""
        return TORCH[0] if self.backend == "auto" else self.backend

    def check(self) -> None:
        """Refuse a back end that is unknown or cannot run here.

        Raises:
            BackendUnavailable: with the reason and the remedy.
        """
        if found := missing(self.chosen):
            raise BackendUnavailable(f"device='cuda' with backend={self.chosen!r}: {'; '.join(found)}")

    def settings(self, manifest: Manifest) -> Settings:
        """Check the options and return what they mean for an engine.

        Raises:
            ValueError: another precision, micro-batch or stage.
        """
        stages, m = choose_stages(manifest, self.stages), self.micro_batch
        if self.chosen in TORCH:
            m = check_samples(default_micro_batch(manifest) if m is None else m, "micro_batch")
            if m > MAX_MICRO_BATCH:
                raise ValueError(f"wanted a micro_batch in 1…{MAX_MICRO_BATCH}, got {m}")
            return Settings(self.chosen, self._torch_precision(), m, stages)
        precision = choose_precision(manifest, self.precision)
        m = default_micro_batch(manifest, precision) if m is None else m
        return Settings(self.chosen, precision, check_micro_batch(manifest, precision, m), stages)

    def _torch_precision(self) -> str:
        from fsfast.backends.torch import PRECISIONS

        precision = PRECISIONS[0] if self.precision is None else self.precision
        if precision not in PRECISIONS:
            raise PrecisionError(
                f"wanted a precision of {', '.join(PRECISIONS)} for device='cuda' with torch, got {precision!r}; "
                "the engine's other precisions want another back end"
            )
        return precision


def open_stages(engine: Engine, settings: Settings, lane: Lane) -> Stages:
    """Let the back end put the networks on the lane's device; launches go to the current stream.

    Raises:
        BackendUnavailable, EngineError: the back end cannot run them here.
    """
    if settings.backend in TORCH:
        from fsfast.backends.torch import open_stages as open_modules

        precision, compiled = cast(Dtype, settings.precision), settings.backend == "torch-compile"
        return open_modules(engine, precision, settings.stages, lane.device, compiled=compiled)
    if settings.backend == "onnxruntime":
        from fsfast.backends.device.onnxruntime import open_sessions

        return open_sessions(engine, settings.precision, settings.stages, lane)
    from fsfast.backends import tensorrt

    return tensorrt.open_stages(
        engine, settings.precision, settings.stages, lane, settings.micro_batch, library=settings.backend
    )
