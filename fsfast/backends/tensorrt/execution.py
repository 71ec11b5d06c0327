"""EXPERIMENTAL, never run on a GPU yet: a plan on the GPU, its inputs and outputs in torch's memory.

torch rather than the bare CUDA bindings: the kernels for the GPU are Triton's and bring torch with them, so one
allocator and one notion of a stream serve both sides; a tensor of theirs is the input without a copy; and the bindings'
names change with every version of CUDA.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fsfast.backends.device.lane import Lane
from fsfast.backends.device.memory import MemoryPlan, available_bytes
from fsfast.backends.tensorrt.building import Tensors
from fsfast.backends.tensorrt.library import Library
from fsfast.backends.tensorrt.plans import Plan
from fsfast.errors import BackendUnavailable, EngineError
from fsfast.installation import pip

_TYPES = {"FLOAT": torch.float32, "HALF": torch.float16, "BF16": torch.bfloat16}


def build_target(library: Library, device: torch.device | None = None) -> str:
    """Return for which GPU a library builds that needs one: this machine's.

    Args:
        library: who builds, not ahead of time.
        device: the GPU that is to run the plan; None: the first.

    Raises:
        BackendUnavailable: there is none, or it is not the first.
    """
    if not torch.cuda.is_available():
        raise BackendUnavailable(
            f"{library.name} builds plans on the GPU that is to run them, and torch {torch.__version__} finds none; "
            "use backend='onnxruntime', or install a CUDA build of torch and a driver"
        )
    if device is not None and device.index:
        raise BackendUnavailable(
            f"{library.name} builds plans on the first GPU, got {device}; set CUDA_VISIBLE_DEVICES={device.index} and "
            "take device='cuda'"
        )
    major, minor = torch.cuda.get_device_capability(0)
    return f"sm_{major}{minor} {torch.cuda.get_device_name(0)}"


class PlanStage:
    """One stage; launches on the current stream. One thread at a time may call it.

    Attributes:
        plan_sha256: names the function: two plans of one graph need not compute equal bits.

    Args:
        library: who built the plan.
        log: from `new_log`.
        plan: just read from the plan folder, so its bytes are the hashed ones.
        tensors: its input and output.
        micro_batch: M of the plan.
        lane: where it runs; its stream is the current one.

    Raises:
        BackendUnavailable: the plan does not run on this GPU, or M rows do not fit into its memory.
    """

    def __init__(
        self, library: Library, log: Any, plan: Plan, tensors: Tensors, micro_batch: int, lane: Lane
    ):
        self.plan_sha256 = plan.sha256
        self._library, self._log = library, log
        self._tensors, self._micro_batch, self._lane = tensors, micro_batch, lane
        # The runtime must outlive the engine, and the engine its context.
        self._runtime = library.start("Runtime", log)
        self._engine = self._deserialise(plan.content)
        self._types = [_TYPES[self._engine.get_tensor_dtype(n).name] for n in (tensors.input, tensors.output)]
        self._context = self._new_context()
        self._rows = 0

    def __call__(self, x: Tensor) -> Tensor:
        """[m, …] float32 → [m, …] float32, 1 ≤ m ≤ M.

        Raises:
            EngineError: the library does not start.
            ValueError: another shape.
        """
        taken, given = self._types
        if not 1 <= len(x) <= self._micro_batch or x.shape[1:] != self._tensors.input_shape:
            wanted = [f"1…{self._micro_batch}", *self._tensors.input_shape]
            raise ValueError(f"wanted {self._tensors.input} {wanted}, got {list(x.shape)}")
        x = x.to(taken).contiguous()
        out = torch.empty((len(x), *self._tensors.output_shape), dtype=given, device=x.device)
        context = self._context
        ready = context.set_tensor_address(self._tensors.input, x.data_ptr())
        ready = ready and context.set_tensor_address(self._tensors.output, out.data_ptr())
        if len(x) != self._rows:
            # Only where it changes: a run that follows is no longer the first of its shape, and can be captured.
            ready = ready and context.set_input_shape(self._tensors.input, tuple(x.shape))
            self._rows = len(x) if ready else 0
        if not (ready and context.execute_async_v3(self._lane.handle)):
            raise EngineError(f"{self._library} cannot run {len(x)} rows: {self._reason()}")
        # x may go: its memory is used again in the stream's order only.
        return out.float()

    def _deserialise(self, content: bytes) -> Any:
        self._check_validity(content)
        engine = self._runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise BackendUnavailable(f"{self._library} cannot load the plan on this GPU: {self._reason()}")
        return engine

    def _check_validity(self, content: bytes) -> None:
        """Ask the library whether the plan fits this GPU, where it can say so."""
        trt = self._library.module
        if not hasattr(self._runtime, "get_engine_validity"):
            return
        validity, bits = self._runtime.get_engine_validity(content)
        if validity == trt.EngineValidity.INVALID:
            members = trt.EngineInvalidityDiagnostics.__members__.items()
            reasons = ", ".join(name for name, value in members if bits & int(value)) or "no reason given"
            raise BackendUnavailable(
                f"{self._library} cannot run plans on this GPU ({reasons}); TensorRT itself serves data-centre GPUs: "
                f"{pip('install', 'tensorrt>=11')}"
            )

    def _new_context(self) -> Any:
        self._check_memory()
        config = self._engine.create_runtime_config()
        # TensorRT-RTX compiles kernels for the shapes that it meets. By default it does so while it serves, and
        # changes over when they are ready: the same rows would then give other bits than before.
        trt = self._library.module
        if hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
            strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            config.dynamic_shapes_kernel_specialization_strategy = strategy
        context = self._engine.create_execution_context(config)
        if context is None:
            raise BackendUnavailable(
                f"{self._library} cannot make an execution context (out of GPU memory?): {self._reason()}"
            )
        return context

    def _check_memory(self) -> None:
        """Refuse a plan whose context would not fit: it takes the memory of M rows at once."""
        needed = getattr(self._engine, "device_memory_size_v2", 0)
        if self._lane.stream is None or not needed:
            return
        # The library takes its memory beside torch's.
        torch.cuda.empty_cache()
        name = torch.cuda.get_device_name(self._lane.device)
        per_row = -(-int(needed) // self._micro_batch)
        MemoryPlan(0, per_row, available_bytes(self._lane.device), name).check(self._micro_batch)

    def _reason(self) -> str:
        return self._log.errors[-1] if self._log.errors else "it gives no reason"
