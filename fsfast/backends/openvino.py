"""OpenVINO on the CPU: one compiled network per stage, one stream per run, a fixed number of threads inside each.

As with ONNX Runtime, threads are spent on micro-batches, so no number of threads changes a sum. The number of rows M is
compiled in. Precision is never left to the runtime: float32 or bfloat16, as the engine's variant says.
"""

from __future__ import annotations

import os
import queue

import numpy as np

from fsfast.backends.base import (
    CpuBackend,
    Graph,
    check_arithmetic,
    check_products,
    side_by_side,
    stage_shapes,
)
from fsfast.backends.quiet import silenced
from fsfast.engine.engine import Engine
from fsfast.engine.manifest import StageVariant
from fsfast.engine.onnx_arrays import array_of
from fsfast.engine.onnx_inputs import weights_as_inputs
from fsfast.engine.profile import Work
from fsfast.errors import BackendUnavailable, EngineError, brief
from fsfast.installation import pip_install_extras
from fsfast.machine import sums_8_bit_products_exactly

try:
    with silenced():
        import openvino
        from openvino import op
except ImportError as error:
    raise BackendUnavailable(
        f"the back end openvino needs the package openvino ({error}); {pip_install_extras('openvino')}"
    ) from None

_HINTS = {"float32": "f32", "bfloat16": "bf16"}
_core = openvino.Core()


def version() -> str:
    """Return OpenVINO's version."""
    return str(openvino.__version__).split("-")[0]


class OpenVinoGraph:
    """One stage; `run` computes in place and may be called from several threads.

    Args:
        compiled: the network for M rows.
        requests: runs that may be under way at once.
    """

    def __init__(self, compiled: openvino.CompiledModel, requests: int):
        self._process = os.getpid()
        self._requests: queue.SimpleQueue[openvino.InferRequest] = queue.SimpleQueue()
        for _ in range(requests):
            self._requests.put(compiled.create_infer_request())

    def run(self, x: np.ndarray, out: np.ndarray) -> None:
        """Compute the graph on `x` [M, …] float32 into `out` [M, …] float32; no copy is made.

        Raises:
            BackendUnavailable: the process was forked since the graph was opened.
        """
        if self._process != os.getpid():
            # It would wait for threads that only the parent has.
            raise BackendUnavailable(
                "OpenVINO does not survive a fork; open the encoder after forking, or use backend='onnxruntime'"
            )
        request = self._requests.get()
        try:
            request.set_input_tensor(openvino.Tensor(x, shared_memory=True))
            request.set_output_tensor(openvino.Tensor(out, shared_memory=True))
            request.infer()
        finally:
            self._requests.put(request)


class OpenVino:
    """The back end."""

    def version(self) -> str:
        """As `CpuBackend.version`."""
        return version()

    def problems(self) -> list[str]:
        """As `CpuBackend.problems`."""
        return (
            [] if "CPU" in _core.available_devices else ["OpenVINO finds no CPU device; reinstall openvino"]
        )

    def arithmetics(self) -> tuple[str, ...]:
        """As `CpuBackend.arithmetics`; OpenVINO would run bfloat16 as float32 where it is missing."""
        able = _core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return ("float32", "bfloat16") if "BF16" in able else ("float32",)

    def exact_8_bit_products(self) -> bool:
        """As `CpuBackend.exact_8_bit_products`."""
        return sums_8_bit_products_exactly()

    def open(self, engine: Engine, work: Work, *, threads: int) -> dict[str, Graph]:
        """As `CpuBackend.open`: one network per stage, compiled for M rows."""
        check_arithmetic("openvino", self.arithmetics(), engine.manifest, work.precision, work.stages)
        check_products("openvino", self.exact_8_bit_products(), engine, work.precision, work.stages)
        runs = side_by_side(threads, work.graph_threads)
        graphs: dict[str, Graph] = {}
        for stage, variant, graph, weights in engine.stages(work.precision, work.stages, work.micro_batch):
            try:
                model = read_model(graph, weights)
                _check_tensors(engine, stage, variant, model)
                compiled = compile_model(
                    model, variant.arithmetic, work.micro_batch, runs, work.graph_threads
                )
            except (RuntimeError, ValueError) as error:
                raise EngineError(
                    f"{engine.path}: {variant.file}: OpenVINO {version()}: {_brief(error)}"
                ) from error
            # One more than threads, for a caller who computes something himself meanwhile.
            graphs[stage] = OpenVinoGraph(compiled, runs + 1)
        return graphs


def read_model(graph: bytes, weights: bytearray) -> openvino.Model:
    """Return the network of a graph whose weights lie in memory.

    Args:
        graph: serialised ONNX graph that `Engine.graph` has checked.
        weights: content of the file that its external data points into; it is shared, not copied.

    Raises:
        RuntimeError: OpenVINO refuses the graph.
    """
    content, tensors = weights_as_inputs(graph)
    model = _core.read_model(content)
    values = {tensor.name: tensor for tensor in tensors}
    for parameter in list(model.get_parameters()):
        names = parameter.output(0).get_names() & values.keys()
        if not names:
            continue
        constant = op.Constant(array_of(values[names.pop()], weights), shared_memory=True)
        parameter.output(0).replace(constant.output(0))
        model.remove_parameter(parameter)
    model.validate_nodes_and_infer_types()
    return model


def compile_model(
    model: openvino.Model, arithmetic: str, micro_batch: int, threads: int, graph_threads: int = 1
) -> openvino.CompiledModel:
    """Compile a network with one input for M rows: `threads` runs side by side, `graph_threads` inside each.

    Raises:
        RuntimeError: OpenVINO refuses the network, or will not run it as it should.
    """
    model.reshape([micro_batch, *list(model.inputs[0].partial_shape)[1:]])
    compiled = _core.compile_model(
        model,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": _HINTS[arithmetic],
            "NUM_STREAMS": threads,
            "INFERENCE_NUM_THREADS": threads * graph_threads,
            "ENABLE_CPU_PINNING": False,
            # Otherwise activations may be rounded to 8 bits where only weights are.
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        },
    )
    streams, inside = (int(compiled.get_property(k)) for k in ("NUM_STREAMS", "INFERENCE_NUM_THREADS"))
    if inside != streams * graph_threads:
        raise RuntimeError(
            f"wanted {streams} runs of {graph_threads} threads, got {inside} in all: it takes no more than there are "
            "processors; use fewer threads or graph_threads"
        )
    return compiled


def _check_tensors(engine: Engine, stage: str, variant: StageVariant, model: openvino.Model) -> None:
    """Refuse a graph whose tensors are not those of the manifest."""
    sides = zip(
        (model.inputs, model.outputs),
        (variant.input, variant.output),
        stage_shapes(engine.manifest, stage),
        strict=True,
    )
    for found, name, shape in sides:
        # The batch axis is still free.
        fits = [
            name in port.get_names() and [str(size) for size in port.partial_shape][1:] == [*map(str, shape)]
            for port in found
        ]
        if fits != [True]:
            wanted = f"one tensor {name!r} of shape [M, {', '.join(map(str, shape))}]"
            got = ", ".join(f"{sorted(port.get_names())} {port.partial_shape}" for port in found)
            raise EngineError(f"{engine.path}: {variant.file}: wanted {brief(wanted)}, got {brief(got)}")


def _brief(error: Exception) -> str:
    """Return OpenVINO's message without the places in its own sources, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("Exception from ", "Check '"))]
    return brief(" ".join(said or lines))


BACKEND: CpuBackend = OpenVino()
