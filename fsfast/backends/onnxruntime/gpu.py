"""ONNX Runtime runs the networks on a GPU: the engine's graphs, inputs and outputs in torch's memory.

Its launches go to the encoder's stream, and nothing waits. They are not captured: ONNX Runtime allocates while it runs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fsfast.backends.base import check_arithmetic, stage_shapes
from fsfast.backends.device.lane import Lane
from fsfast.backends.device.place import version as torch_version
from fsfast.backends.device.stages import GpuBackend, Stage, Stages
from fsfast.engine.engine import Engine
from fsfast.engine.manifest import Manifest, StageVariant
from fsfast.engine.profile import Work
from fsfast.errors import BackendUnavailable, EngineError, brief
from fsfast.installation import pip

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


def provider(lane: Lane) -> tuple[str, dict[str, str]]:
    """Return the execution provider of a lane, and its options."""
    if lane.stream is None:
        return CPU, {}
    return CUDA, {
        "device_id": str(lane.device.index or 0),
        "user_compute_stream": str(lane.handle),
        "use_tf32": "0",
        # The default times algorithms at every start: other bits on the next day.
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
    }


class SessionStage:
    """One stage; launches on the lane's stream.

    Args:
        session: an InferenceSession on the lane's device.
        variant: names of its input and output.
        shape: of the output, without the rows.
        lane: where it runs.
    """

    def __init__(self, session: object, variant: StageVariant, shape: list[int], lane: Lane):
        from onnxruntime import RunOptions

        self._session, self._variant, self._shape = session, variant, shape
        self._place = ("cpu", 0) if lane.stream is None else ("cuda", lane.device.index or 0)
        self._options = RunOptions()
        if lane.stream is not None:
            # The stream keeps the order; a run would wait for it otherwise.
            self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def __call__(self, x: Tensor) -> Tensor:
        """[M, …] float32 → [M, …] float32."""
        x = x.contiguous()
        out = torch.empty((len(x), *self._shape), dtype=torch.float32, device=x.device)
        binding = self._session.io_binding()  # type: ignore[attr-defined]
        binding.bind_input(self._variant.input, *self._place, np.float32, tuple(x.shape), x.data_ptr())
        binding.bind_output(self._variant.output, *self._place, np.float32, tuple(out.shape), out.data_ptr())
        try:
            self._session.run_with_iobinding(binding, self._options)  # type: ignore[attr-defined]
        # ONNX Runtime's exceptions share no public base class.
        except Exception as error:
            reason = brief(error)
            remedy = "; take a smaller micro_batch" if "alloc" in reason or "memory" in reason else ""
            raise EngineError(f"onnxruntime cannot run {len(x)} rows: {reason}{remedy}") from error
        return out


class OnnxRuntime:
    """The back end: the engine's graphs, in its own precisions."""

    def problems(self) -> list[str]:
        """As `GpuBackend.problems`."""
        try:
            from fsfast.backends.onnxruntime import cpu as on_cpu
        except BackendUnavailable as error:
            return [
                f"the back end onnxruntime needs the package onnxruntime-gpu ({error.__cause__}); "
                f"{pip('install', 'onnxruntime-gpu')}"
            ]
        if found := on_cpu.BACKEND.problems():
            return found
        available = on_cpu.onnxruntime.get_available_providers()
        if CUDA not in available:
            return [
                f"onnxruntime {on_cpu.version()} has no {CUDA} ({', '.join(available)}); "
                f"{pip('uninstall', 'onnxruntime')}, then {pip('install', 'onnxruntime-gpu')}"
            ]
        return []

    def precisions(self, manifest: Manifest) -> tuple[str, ...]:
        """As `GpuBackend.precisions`."""
        return manifest.computed_in_float32

    def rows(self, manifest: Manifest, precision: str) -> tuple[int, int]:
        """As `GpuBackend.rows`."""
        return manifest.rows(precision)

    def tested(self, engine: Engine, precision: str) -> Engine:
        """As `GpuBackend.tested`."""
        return engine

    def open(self, engine: Engine, work: Work, lane: Lane) -> Stages:
        """As `GpuBackend.open`: one session per stage, from verified bytes only."""
        from fsfast.backends.onnxruntime.cpu import check_tensors, open_session, version

        check_arithmetic("onnxruntime", ("float32",), engine.manifest, work.precision, work.stages)
        wanted = provider(lane)
        run: dict[str, Stage] = {}
        for stage, variant, graph, weights in engine.stages(work.precision, work.stages, work.micro_batch):
            try:
                session = open_session(graph, weights, provider=wanted)
            except RuntimeError as error:
                raise EngineError(f"{engine.path}: {variant.file}: {error}") from error
            check_tensors(engine, stage, variant, session)
            # A provider whose libraries are missing is left out with a warning.
            if session.get_providers()[0] != wanted[0]:
                raise BackendUnavailable(
                    f"onnxruntime {version()} cannot start its {wanted[0]} here; its CUDA and cuDNN must be those of "
                    f"torch {torch.__version__} (CUDA {torch.version.cuda})"
                )
            run[stage] = SessionStage(session, variant, stage_shapes(engine.manifest, stage)[1], lane)
        return Stages(run, f"{version()}, torch {torch_version()}", "float32", "nchw", capturable=False)


def gpu_backend(name: str) -> GpuBackend:
    """Return the back end."""
    return OnnxRuntime()
