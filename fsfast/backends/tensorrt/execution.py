"""EXPERIMENTAL, never run on a GPU yet: a plan on the GPU, its inputs and outputs in torch's memory.

torch rather than the bare CUDA bindings: the kernels for the GPU are Triton's and bring torch with them, so one
allocator and one notion of a stream serve both sides; a tensor of theirs can one day be the input without a copy;
and the bindings' names change with every version of CUDA.
"""

from __future__ import annotations

import queue
from typing import Any

import numpy as np

from fsfast.backends.tensorrt.building import Tensors
from fsfast.backends.tensorrt.library import AHEAD_OF_TIME, Library
from fsfast.backends.tensorrt.plans import Plan
from fsfast.errors import BackendUnavailable, EngineError

# CUDA_VISIBLE_DEVICES says which GPU that is; the building process sees the same one.
DEVICE = "cuda:0"
# One computes while the other's rows come and go; each needs the memory of a whole micro-batch.
LANES = 2
_TYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}


def require_gpu() -> Any:
    """Return the module torch.

    Raises:
        BackendUnavailable: there is no torch, or no GPU that it can use.
    """
    try:
        import torch
    except ImportError as error:
        raise BackendUnavailable(
            f"the back end tensorrt needs torch for the GPU's memory ({error}); pip install 'fsfast[tensorrt]'"
        ) from None
    if not torch.cuda.is_available():
        raise BackendUnavailable(
            f"the back end tensorrt needs a CUDA GPU, torch {torch.__version__} finds none; use "
            "backend='onnxruntime', or install a CUDA build of torch and a driver"
        )
    return torch


def build_target(library: Library) -> str:
    """Return for which GPUs the library builds here: "ahead-of-time", or the GPU of this machine.

    Raises:
        BackendUnavailable: the library builds on a GPU only, and there is none.
    """
    if library.ahead_of_time:
        return AHEAD_OF_TIME
    torch = require_gpu()
    major, minor = torch.cuda.get_device_capability(DEVICE)
    return f"sm_{major}{minor} {torch.cuda.get_device_name(DEVICE)}"


class DeviceGraph:
    """One stage on the GPU; `run` may be called from several threads.

    Attributes:
        library: who runs the plan.
        plan_sha256: names the function: two plans of one graph need not compute equal bits.

    Args:
        library: who built the plan.
        log: from `new_log`.
        plan: just read from the plan folder, so its bytes are the hashed ones.
        tensors: its input and output.
        micro_batch: M of the plan.

    Raises:
        BackendUnavailable: the plan does not run on this GPU.
    """

    def __init__(self, library: Library, log: Any, plan: Plan, tensors: Tensors, micro_batch: int):
        self.library = library
        self.plan_sha256 = plan.sha256
        self.micro_batch = micro_batch
        self._torch = require_gpu()
        self._tensors = tensors
        self._log = log
        # The runtime must outlive the engine, and the engine its contexts.
        self._runtime = library.start("Runtime", log)
        self._engine = self._deserialise(plan.content)
        self._lanes: queue.SimpleQueue[_Lane] = queue.SimpleQueue()
        for _ in range(LANES):
            self._lanes.put(self._new_lane())

    def run(self, x: np.ndarray, out: np.ndarray) -> None:
        """Compute the graph on `x` [m, …] float32 into `out` [m, …] float32, 1 ≤ m ≤ M, both in host memory.

        Raises:
            ValueError: m is out of range, or the two differ in it.
            EngineError: the library cannot run the plan.
        """
        rows = len(x)
        if not 1 <= rows <= self.micro_batch or len(out) != rows:
            raise ValueError(f"wanted 1 to {self.micro_batch} rows in and out, got {rows} and {len(out)}")
        lane = self._lanes.get()
        try:
            self._run(lane, x, out)
        finally:
            self._lanes.put(lane)

    def _run(self, lane: _Lane, x: np.ndarray, out: np.ndarray) -> None:
        torch, rows = self._torch, len(x)
        with torch.cuda.stream(lane.stream):
            lane.x[:rows].copy_(torch.from_numpy(x))
            shape = (rows, *self._tensors.input_shape)
            started = lane.context.set_input_shape(
                self._tensors.input, shape
            ) and lane.context.execute_async_v3(lane.stream.cuda_stream)
            if not started:
                raise EngineError(f"{self.library} cannot run {rows} rows: {self._reason()}")
            # A copy to host memory returns when it is done, and so is everything before it on the stream.
            torch.from_numpy(out).copy_(lane.y[:rows])

    def _deserialise(self, content: bytes) -> Any:
        self._check_validity(content)
        engine = self._runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise BackendUnavailable(f"{self.library} cannot load the plan on this GPU: {self._reason()}")
        return engine

    def _check_validity(self, content: bytes) -> None:
        """Ask the library whether the plan fits this GPU, where it can say so."""
        trt = self.library.module
        if not hasattr(self._runtime, "get_engine_validity"):
            return
        validity, bits = self._runtime.get_engine_validity(content)
        if validity == trt.EngineValidity.INVALID:
            members = trt.EngineInvalidityDiagnostics.__members__.items()
            reasons = ", ".join(name for name, value in members if bits & int(value)) or "no reason given"
            raise BackendUnavailable(
                f"{self.library} cannot run plans on this GPU ({reasons}); TensorRT itself serves data-centre GPUs: "
                "pip install 'tensorrt>=11'"
            )

    def _new_lane(self) -> _Lane:
        config = self._engine.create_runtime_config()
        # TensorRT-RTX compiles kernels for the shapes that it meets. By default it does so while it serves, and
        # changes over when they are ready: the same rows would then give other bits than before.
        trt = self.library.module
        if hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
            strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            config.dynamic_shapes_kernel_specialization_strategy = strategy
        context = self._engine.create_execution_context(config)
        if context is None:
            raise BackendUnavailable(
                f"{self.library} cannot make an execution context (out of GPU memory?): {self._reason()}"
            )
        x = self._buffer(context, self._tensors.input, self._tensors.input_shape)
        y = self._buffer(context, self._tensors.output, self._tensors.output_shape)
        return _Lane(context, self._torch.cuda.Stream(DEVICE), x, y)

    def _buffer(self, context: Any, name: str, shape: tuple[int, ...]) -> Any:
        """Return device memory for M rows, tied to a tensor of the context."""
        dtype = getattr(self._torch, _TYPES[self._engine.get_tensor_dtype(name).name])
        buffer = self._torch.empty((self.micro_batch, *shape), dtype=dtype, device=DEVICE)
        if not context.set_tensor_address(name, buffer.data_ptr()):
            raise BackendUnavailable(
                f"{self.library} does not take memory of torch for {name!r}: {self._reason()}"
            )
        return buffer

    def _reason(self) -> str:
        return self._log.errors[-1] if self._log.errors else "it gives no reason"


class _Lane:
    """An execution context with a stream and buffers of its own; one run at a time."""

    def __init__(self, context: Any, stream: Any, x: Any, y: Any):
        self.context = context
        self.stream = stream
        self.x = x
        self.y = y
