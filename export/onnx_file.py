"""An ONNX file of other people's: its nodes, and its values as arrays over the file and those beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, TensorProto, helper, numpy_helper, version_converter

from fsfast.engine.onnx_bytes import DTYPES, MAX_GRAPH_BYTES, RANDOM_OPS
from fsfast.engine.onnx_graph import MAX_NODES, OPSET
from fsfast.errors import brief
from fsfast.files import file_sha256

# What the converter of operator sets may need to see: axes, scales, sizes.
_SEEN_BYTES = 1 << 12
_OLDEST = 7
# Sizes and conditions may be of other types until they are computed.
_TYPES = ("float32", "float64", "int32", "int64", "bool")
_PLAIN_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class Tensor:
    """An input or an output of a graph.

    Attributes:
        name: its name.
        dtype: as NumPy calls it, or "" where the file does not say.
        shape: its sizes, None for one that is free; None where the file does not say.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class OnnxFile:
    """A float32 network.

    Attributes:
        path: of the file.
        nodes: all of the graph, in its order, at the operator set of engines.
        values: name → array of each initialiser; large ones lie in the files, and are read when they are used.
        inputs, outputs: of the graph; initialisers are no inputs.
        hashes: (file name, sha256) of everything that was read.
    """

    path: Path
    nodes: tuple[onnx.NodeProto, ...]
    values: Mapping[str, np.ndarray]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    hashes: tuple[tuple[str, str], ...]


def called(node: onnx.NodeProto) -> str:
    """Return what a message calls a node: by its name, or else by what it makes."""
    name = node.name or next(iter(node.output), "")
    return f"node {name!r} of type {node.op_type}"


def read_onnx(path: str | Path) -> OnnxFile:
    """Read an ONNX file and the files of external data that it names; nothing in them is run.

    Args:
        path: of the file.

    Raises:
        ValueError: it is no ONNX graph of plain ONNX operators; it holds what no engine may (subgraphs, functions,
            random operators); values of a type that float32 networks do not have; external data that lies elsewhere
            than in plain files below the graph's folder, or does not fill its tensors; an operator set that cannot be
            brought to the engines'.
        OSError: a file cannot be read.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > MAX_GRAPH_BYTES:
        raise ValueError(
            f"{path}: wanted at most {MAX_GRAPH_BYTES} bytes, got {size}; keep weights in a file beside it"
        )
    try:
        model = onnx.ModelProto.FromString(path.read_bytes())
    except DecodeError:
        raise ValueError(f"wanted an ONNX file, got {path}, which is none") from None
    if not model.HasField("graph") or not model.graph.node:
        raise ValueError(f"wanted an ONNX file, got {path}, which holds no graph")
    try:
        _check_plain(model)
        files: dict[Path, list[int]] = {}
        values = {tensor.name: _value(tensor, path.parent, files) for tensor in model.graph.initializer}
        _check_shared(files)
        ends = [
            tuple(_tensor(end) for end in side if end.name not in values)
            for side in (model.graph.input, model.graph.output)
        ]
        nodes, values = _at_opset(model, values)
    except ValueError as error:
        raise ValueError(f"{path}: {brief(error)}") from None
    hashes = tuple((file.name, file_sha256(file)) for file in (path, *files))
    return OnnxFile(path, nodes, values, ends[0], ends[1], hashes)


def _check_plain(model: onnx.ModelProto) -> None:
    """Refuse what is more than a list of operators."""
    graph = model.graph
    if model.functions:
        raise ValueError(
            f"it holds functions ({model.functions[0].name!r}); inline them (onnx.inliner) or export without"
        )
    if model.training_info or graph.sparse_initializer:
        raise ValueError("wanted a graph for inference with plain initialisers, got training or sparse ones")
    if len(graph.node) > MAX_NODES:
        raise ValueError(f"wanted at most {MAX_NODES} nodes, got {len(graph.node)}")
    for node in graph.node:
        if node.domain not in _PLAIN_DOMAINS:
            raise ValueError(
                f"{called(node)}: wanted operators of plain ONNX, got the domain {node.domain!r}"
            )
        # A Dropout that is switched off is no more than its input; one that is not is refused later.
        if node.op_type in RANDOM_OPS and node.op_type != "Dropout":
            raise ValueError(f"{called(node)} is random; an engine must be a fixed function")
        for attribute in node.attribute:
            if attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
                raise ValueError(f"{called(node)} holds a subgraph; an engine is one list of operators")
            for tensor in (attribute.t, *attribute.tensors):
                if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
                    raise ValueError(f"{called(node)} holds external data; only initialisers may")
    names = [tensor.name for tensor in graph.initializer]
    if len(set(names)) != len(names):
        raise ValueError("two initialisers have the same name")


def _tensor(end: onnx.ValueInfoProto) -> Tensor:
    kind = end.type.tensor_type
    dtype = DTYPES.get(kind.elem_type, ("", 0))[0]
    if not kind.HasField("shape"):
        return Tensor(end.name, dtype, None)
    return Tensor(end.name, dtype, tuple(d.dim_value or None for d in kind.shape.dim))


def _value(tensor: TensorProto, folder: Path, files: dict[Path, list[int]]) -> np.ndarray:
    """Return an initialiser's values; `files` gets the lengths of what is taken from each file."""
    dtype, size = DTYPES.get(tensor.data_type, (f"type {tensor.data_type}", 0))
    if dtype not in _TYPES:
        remedy = (
            "export the network that was quantised, and then `fsfast export quantise` the engine"
            if dtype in ("int8", "uint8")
            else "export it in float32 (torch: module.float())"
        )
        raise ValueError(f"initialiser {tensor.name!r} is {dtype}; wanted a float32 network: {remedy}")
    shape = tuple(tensor.dims)
    if min(shape, default=0) < 0:
        raise ValueError(f"initialiser {tensor.name!r} has the shape {list(shape)}")
    if tensor.data_location != TensorProto.EXTERNAL:
        return numpy_helper.to_array(tensor)
    place = {entry.key: entry.value for entry in tensor.external_data}
    said = f"external data of initialiser {tensor.name!r}"
    file = _beside(folder, place.get("location", ""), said)
    length = prod(shape) * size
    try:
        offset, stated = int(place.get("offset", "0")), int(place.get("length", length))
    except ValueError:
        raise ValueError(f"{said}: wanted whole numbers as offset and length, got {brief(place)}") from None
    end = file.stat().st_size
    if stated != length or not 0 <= offset <= end - length:
        raise ValueError(
            f"{said}: wanted {length} bytes for {dtype} {list(shape)}, got {stated} at byte {offset} of the {end} of "
            f"{file.name}"
        )
    files.setdefault(file, []).append(length)
    if not length:
        return np.zeros(shape, dtype)
    # Rows of memory that are read when they are used.
    return np.memmap(file, dtype, "r", offset, shape)


def _beside(folder: Path, location: str, said: str) -> Path:
    """Return a plain file below the graph's folder."""
    wanted = f"{said}: wanted a plain file in the graph's folder or below it, got {location!r}"
    if not location or "\0" in location:
        raise ValueError(wanted)
    home, file = folder.resolve(), folder / location
    # Links are followed: a file elsewhere is one elsewhere.
    if (
        Path(location).is_absolute()
        or ".." in Path(location).parts
        or not file.resolve().is_relative_to(home)
    ):
        raise ValueError(f"{wanted}; copy the file there")
    if not file.is_file():
        raise ValueError(f"{wanted}, which does not exist")
    return file.resolve()


def _check_shared(files: Mapping[Path, Sequence[int]]) -> None:
    """Refuse initialisers that share a place: a small file could order any amount of memory."""
    for file, lengths in files.items():
        if sum(lengths) > (size := file.stat().st_size):
            raise ValueError(f"initialisers take {sum(lengths)} bytes from {file.name}, which has {size}")


def _at_opset(
    model: onnx.ModelProto, values: dict[str, np.ndarray]
) -> tuple[tuple[onnx.NodeProto, ...], dict[str, np.ndarray]]:
    """Return nodes and initialisers at the operator set of engines."""
    version = max((o.version for o in model.opset_import if o.domain in _PLAIN_DOMAINS), default=0)
    if version == OPSET:
        return tuple(model.graph.node), values
    wanted = f"wanted operator set {OPSET} or one that can be brought to it, got {version}"
    remedy = f"export with operator set {OPSET} (torch.onnx.export(…, opset_version={OPSET}))"
    if version < _OLDEST:
        raise ValueError(f"{wanted}; {remedy}")
    try:
        converted = version_converter.convert_version(_light(model, values), OPSET)
    # The converter raises what its C++ does.
    except Exception as error:
        raise ValueError(f"{wanted} ({brief(error)}); {remedy}") from None
    # The converter may have made initialisers of its own.
    own = {t.name: numpy_helper.to_array(t) for t in converted.graph.initializer if t.name not in values}
    return tuple(converted.graph.node), {**values, **own}


def _light(model: onnx.ModelProto, values: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """Return the model with inputs in the place of large initialisers: the converter copies everything."""
    light = onnx.ModelProto(ir_version=max(model.ir_version, 4), opset_import=model.opset_import)
    graph = light.graph
    graph.name = "graph"
    graph.node.extend(model.graph.node)
    graph.output.extend(model.graph.output)
    graph.input.extend(end for end in model.graph.input if end.name not in values)
    graph.initializer.extend(_small(values))
    held = {tensor.name for tensor in graph.initializer}
    graph.input.extend(
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in values.items()
        if name not in held
    )
    return light


def _small(values: Mapping[str, np.ndarray]) -> Iterator[TensorProto]:
    for name, value in values.items():
        if value.nbytes <= _SEEN_BYTES:
            yield numpy_helper.from_array(np.array(value), name)
