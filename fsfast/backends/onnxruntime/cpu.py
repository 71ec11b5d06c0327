"""ONNX Runtime on the CPU: one session per stage, runs side by side, a fixed number of threads inside each.

Threads are spent on micro-batches, and one inside a graph unless it is said otherwise: the order of every sum is then
the same whatever the number of threads, and two cores are used as well or better (see docs/performance.md).
"""

from __future__ import annotations

import os
from importlib.metadata import packages_distributions

import numpy as np

from fsfast.backends.base import CpuBackend, Graph, check_arithmetic, stage_shapes
from fsfast.backends.quiet import silenced
from fsfast.engine.engine import Engine
from fsfast.engine.manifest import StageVariant
from fsfast.engine.onnx_arrays import stored_arrays
from fsfast.engine.onnx_unsigned import may_saturate, with_unsigned_weights
from fsfast.engine.profile import Work
from fsfast.errors import BackendUnavailable, EngineError, brief
from fsfast.installation import pip_install_extras
from fsfast.machine import sums_8_bit_products_exactly

try:
    with silenced():
        import onnxruntime
except ImportError as error:
    raise BackendUnavailable(
        f"the back end onnxruntime needs the package onnxruntime ({error}); {pip_install_extras('cpu')}"
    ) from error


def version() -> str:
    """Return ONNX Runtime's version."""
    return str(onnxruntime.__version__)


class OnnxGraph:
    """One stage; `run` computes in place and may be called from several threads."""

    def __init__(
        self, session: onnxruntime.InferenceSession, input_name: str, output_name: str, threads: int = 1
    ):
        # With one thread a run uses the caller's; more are the session's own, and do not survive a fork.
        self._process = os.getpid() if threads > 1 else None
        self._session = session
        self._input = input_name
        self._output = output_name

    def run(self, x: np.ndarray, out: np.ndarray) -> None:
        """Compute the graph on `x` [M, …] float32 into `out` [M, …] float32; no copy is made.

        Raises:
            BackendUnavailable: a run has threads of its own, and the process was forked since the graph was opened.
        """
        if self._process not in (None, os.getpid()):
            raise BackendUnavailable(
                "graph_threads do not survive a fork; open the encoder after forking, or leave graph_threads at 1"
            )
        binding = self._session.io_binding()
        binding.bind_input(self._input, "cpu", 0, x.dtype, x.shape, x.ctypes.data)
        binding.bind_output(self._output, "cpu", 0, out.dtype, out.shape, out.ctypes.data)
        self._session.run_with_iobinding(binding)


class OnnxRuntime:
    """The back end; a session takes any number of rows, and any number of runs side by side."""

    def version(self) -> str:
        """As `CpuBackend.version`."""
        return version()

    def problems(self) -> list[str]:
        """As `CpuBackend.problems`."""
        owners = packages_distributions().get("onnxruntime", [])
        if len(set(owners)) > 1:
            names = " and ".join(sorted(set(owners)))
            folder = os.path.dirname(onnxruntime.__file__)
            return [f"{names} overwrite each other's files; keep one and reinstall it ({folder})"]
        return []

    def arithmetics(self) -> tuple[str, ...]:
        """As `CpuBackend.arithmetics`."""
        return ("float32",)

    def exact_8_bit_products(self) -> bool:
        """As `CpuBackend.exact_8_bit_products`: always, see `open_session`."""
        return True

    def open(self, engine: Engine, work: Work, *, threads: int) -> dict[str, Graph]:
        """As `CpuBackend.open`: one session per stage."""
        check_arithmetic("onnxruntime", self.arithmetics(), engine.manifest, work.precision, work.stages)
        graphs: dict[str, Graph] = {}
        for stage, variant, graph, weights in engine.stages(work.precision, work.stages, work.micro_batch):
            try:
                session = open_session(graph, weights, work.graph_threads)
            except RuntimeError as error:
                raise EngineError(f"{engine.path}: {variant.file}: {error}") from error
            check_tensors(engine, stage, variant, session)
            graphs[stage] = OnnxGraph(session, variant.input, variant.output, work.graph_threads)
        return graphs


def check_tensors(
    engine: Engine, stage: str, variant: StageVariant, session: onnxruntime.InferenceSession
) -> None:
    """Raise EngineError unless a graph's tensors are those of the manifest."""
    sides = zip(
        (session.get_inputs(), session.get_outputs()),
        (variant.input, variant.output),
        stage_shapes(engine.manifest, stage),
        strict=True,
    )
    for found, name, shape in sides:
        wanted = f"one tensor {name!r} of shape [M, {', '.join(map(str, shape))}]"
        got = ", ".join(f"{tensor.name!r} {tensor.shape}" for tensor in found)
        if [tensor.name for tensor in found] != [name] or found[0].shape[1:] != shape:
            raise EngineError(f"{engine.path}: {variant.file}: wanted {brief(wanted)}, got {brief(got)}")


def open_session(
    graph: bytes,
    weights: bytes | bytearray | np.ndarray,
    threads: int = 1,
    provider: tuple[str, dict[str, str]] = ("CPUExecutionProvider", {}),
) -> onnxruntime.InferenceSession:
    """Make a session whose external data comes from memory, never from a path.

    On a processor that adds products of uint8 and int8 inexactly, weights that can show it become uint8: the same
    numbers, more slowly.

    Args:
        graph, weights: verified bytes.
        threads: inside a run; another number may give another order of sums.
        provider: name and options of the execution provider; what it cannot run, runs on the CPU.

    Raises:
        RuntimeError: ONNX Runtime refuses the graph.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # It would take bytes that begin so for a model in a format of its own, which nobody has walked.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.use_deterministic_compute = provider[0] != "CPUExecutionProvider"
    try:
        tensors = stored_arrays(graph, weights)
        on_cpu = provider[0] == "CPUExecutionProvider"
        if on_cpu and not sums_8_bit_products_exactly() and may_saturate(tensors):
            graph, tensors = with_unsigned_weights(graph, tensors)
        options.add_external_initializers(
            list(tensors), [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in tensors.values()]
        )
        return onnxruntime.InferenceSession(graph, options, providers=[provider])
    except Exception as error:  # ONNX Runtime's exceptions share no public base class
        raise RuntimeError(f"ONNX Runtime {version()} cannot open the graph: {brief(error)}") from error


BACKEND: CpuBackend = OnnxRuntime()
