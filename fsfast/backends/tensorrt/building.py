"""A verified graph and its weights become a serialised plan; no file is read, no GPU is asked for by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fsfast.backends.base import stage_shapes
from fsfast.backends.narrower import STORED
from fsfast.backends.tensorrt.library import Library
from fsfast.engine.manifest import Manifest
from fsfast.engine.onnx_bytes import external_tensors

# Everything besides the micro-batch that shapes a plan; part of its key.
OPTIONS = (
    "plan=1",
    "profile=1,M,M",
    # The types of the graph are kept: the library may not choose narrower ones.
    "strongly_typed=on",
    # Both libraries switch TF32 on by themselves; float32 is to mean float32.
    "tf32=off",
    # Each row of a batch is computed by the same operations, whatever its place: certificates need that.
    "distributive_independence=on",
)
# The precision that is made of the float32 graph; its key says how.
BFLOAT16 = "bfloat16"
_MADE = "graph=bfloat16,1"
_MOST_NODES = 3


def stored(precision: str) -> str:
    """Return the precision whose graph and weights an engine has for one that a plan is to compute in."""
    return STORED if precision == BFLOAT16 else precision


def options_of(precision: str) -> tuple[str, ...]:
    """Return what shapes a plan of this precision besides the micro-batch."""
    return (*OPTIONS, _MADE) if precision == BFLOAT16 else OPTIONS


@dataclass(frozen=True)
class Tensors:
    """What a graph must look like from outside.

    Attributes:
        input, output: names.
        input_shape, output_shape: without the batch axis.
    """

    input: str
    output: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]


def stage_tensors(manifest: Manifest, stage: str, precision: str) -> Tensors:
    """Return what the manifest says of a stage's graph."""
    variant = manifest.stages[stage][stored(precision)]
    input_shape, output_shape = stage_shapes(manifest, stage)
    return Tensors(variant.input, variant.output, tuple(input_shape), tuple(output_shape))


@dataclass(frozen=True)
class BuiltPlan:
    """A serialised plan.

    Attributes:
        content: what the library's runtime deserialises.
        layers: layers of the network before the library fuses them.
        timings: what the library measured of its kernels, for the next build; empty where it measures none.
    """

    content: bytes
    layers: int
    timings: bytes = b""


def build_plan(
    library: Library,
    log: Any,
    graph: bytes,
    weights: bytes,
    tensors: Tensors,
    micro_batch: int,
    timings: bytes = b"",
) -> BuiltPlan:
    """Build a strongly typed plan for 1 … M rows that is fastest at M.

    Two builds of one graph need not be equal byte for byte, nor compute equal bits: TensorRT times its kernels,
    and TensorRT-RTX follows the order of addresses. So a plan's own hash names its function.

    Args:
        library: who builds.
        log: from `new_log`.
        graph: serialised ModelProto that `Engine.graph` let pass.
        weights: the bytes that its external data points into.
        tensors: its input and output, checked here.
        micro_batch: M.
        timings: of an earlier build by this library on this kind of GPU, whose kernels are not measured again.

    Raises:
        ValueError: the library cannot build the graph; nodes that it does not know are named with their types.
        BackendUnavailable: the library cannot build anything here.
    """
    builder = library.start("Builder", log)
    network = builder.create_network(0)
    # Initialisers are used where they lie: `weights` is held by this frame until the plan is done.
    parser = library.module.OnnxParser(network, log)
    _parse(parser, graph, weights)
    _check_tensors(network, tensors)
    config = _new_config(library, builder)
    _add_profile(builder, config, tensors, micro_batch)
    # TensorRT-RTX has none: it settles its kernels on the GPU that runs them.
    measures = hasattr(config, "create_timing_cache")
    if measures:
        config.set_timing_cache(config.create_timing_cache(timings), ignore_mismatch=False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ValueError("; ".join(log.errors) or "the library gives no reason")
    return BuiltPlan(
        bytes(plan), network.num_layers, bytes(config.get_timing_cache().serialize()) if measures else b""
    )


def check_parses(library: Library, log: Any, graph: bytes, weights: bytes) -> None:
    """Refuse a graph that the library's parser does not take; nothing is built.

    Args:
        library, log, graph, weights: as in `build_plan`.

    Raises:
        ValueError, BackendUnavailable: as `build_plan`.
    """
    network = library.start("Builder", log).create_network(0)
    _parse(library.module.OnnxParser(network, log), graph, weights)


def _parse(parser: Any, graph: bytes, weights: bytes) -> None:
    """Turn the graph into the network; its initialisers stay in `weights`."""
    external = external_tensors(graph)
    start = np.frombuffer(weights, np.uint8).ctypes.data
    for tensor in external:
        # The parser gets an address: nothing but this check keeps it inside the file.
        if tensor.offset + tensor.length > len(weights):
            raise ValueError(
                f"initialiser {tensor.name!r} ends at byte {tensor.offset + tensor.length}, the weights file has "
                f"{len(weights)} bytes"
            )
    loaded = parser.load_model_proto(graph) and all(
        parser.load_initializer(tensor.name, start + tensor.offset, tensor.length) for tensor in external
    )
    if not (loaded and parser.parse_model_proto()):
        raise ValueError(_complaints(parser))


def _complaints(parser: Any) -> str:
    """Return the parser's errors in one line; a node is named by name and type."""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    texts = []
    for error in errors[:_MOST_NODES]:
        reason = " ".join(error.desc().split())
        if error.node_operator():
            name = error.node_name() or f"number {error.node()}"
            # "false" is the condition of the parser's source code that did not hold.
            reason = f"node {name} of type {error.node_operator()}" + (
                "" if reason == "false" else f" ({reason})"
            )
        texts.append(reason)
    if len(errors) > _MOST_NODES:
        texts.append(f"{len(errors) - _MOST_NODES} more")
    return "not supported: " + "; ".join(texts or ["the parser gives no reason"])


def _check_tensors(network: Any, tensors: Tensors) -> None:
    """Refuse a network whose inputs and outputs are not those of the manifest."""
    found = [
        ("input", [network.get_input(i) for i in range(network.num_inputs)]),
        ("output", [network.get_output(i) for i in range(network.num_outputs)]),
    ]
    wanted = [(tensors.input, tensors.input_shape), (tensors.output, tensors.output_shape)]
    for (side, got), (name, shape) in zip(found, wanted, strict=True):
        if [(tensor.name, tuple(tensor.shape)) for tensor in got] != [(name, (-1, *shape))]:
            shown = ", ".join(f"{tensor.name!r} {list(tensor.shape)}" for tensor in got)
            raise ValueError(f"wanted one {side} {name!r} {[-1, *shape]}, got {shown or 'none'}")


def _new_config(library: Library, builder: Any) -> Any:
    flags = library.module.BuilderFlag
    config = builder.create_builder_config()
    config.clear_flag(flags.TF32)
    config.set_flag(flags.DISTRIBUTIVE_INDEPENDENCE)
    return config


def _add_profile(builder: Any, config: Any, tensors: Tensors, micro_batch: int) -> None:
    profile = builder.create_optimization_profile()
    least, most = (1, *tensors.input_shape), (micro_batch, *tensors.input_shape)
    profile.set_shape(tensors.input, least, most, most)
    if config.add_optimization_profile(profile) < 0:
        raise ValueError(f"a profile of {list(least)} … {list(most)} is refused")
