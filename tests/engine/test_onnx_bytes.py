"""The walk over an ONNX graph: what onnx writes is read; whatever could hide data, code or randomness is refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from fsfast.engine.graph_check import check_graph
from fsfast.engine.onnx_bytes import RANDOM_OPS, ExternalTensor, external_tensors
from tests.engine.onnx_graphs import WEIGHTS, external, model

OPSET = helper.make_opsetid("", 21)


def message(*fields: tuple[int, bytes]) -> bytes:
    """Return protobuf bytes with the fields in the order given."""
    return b"".join(bytes([number << 3 | 2]) + varint(len(content)) + content for number, content in fields)


def varint(value: int) -> bytes:
    out = b""
    while value >= 128:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def refused(graph: onnx.ModelProto | bytes, says: str) -> None:
    content = graph if isinstance(graph, bytes) else graph.SerializeToString()
    with pytest.raises(ValueError, match=says):
        check_graph(content, WEIGHTS)


@pytest.mark.parametrize("stage", ["purifier", "encoder", "mapper"])
def test_the_walk_finds_what_onnx_finds(demo_path, stage):
    content = (demo_path / f"{stage}.float32.onnx").read_bytes()
    wanted = [
        ExternalTensor(
            tensor.name,
            "float32",
            tuple(tensor.dims),
            *(int(entries[key]) for key in ("offset", "length")),
            entries["location"],
        )
        for tensor in onnx.ModelProto.FromString(content).graph.initializer
        if (entries := {entry.key: entry.value for entry in tensor.external_data})
    ]
    assert len(wanted) > 30
    assert external_tensors(content) == wanted
    check_graph(content, WEIGHTS)


@pytest.mark.parametrize(
    ("dtype", "data_type", "length"),
    [
        ("float16", TensorProto.FLOAT16, 12),
        ("bfloat16", TensorProto.BFLOAT16, 12),
        ("int8", TensorProto.INT8, 6),
    ],
)
def test_types(dtype, data_type, length):
    content = model(initialisers=[external(data_type=data_type, length=str(length))]).SerializeToString()
    assert external_tensors(content) == [ExternalTensor("w", dtype, (2, 3), 8, length, WEIGHTS)]


def test_scalars_and_empty_tensors():
    tensors = [external("scalar", (), length="4"), external("empty", (0, 5), length="0")]
    assert [t.shape for t in external_tensors(model(initialisers=tensors).SerializeToString())] == [
        (),
        (0, 5),
    ]


def test_inline_tensors_of_every_kind_are_read_over():
    """Raw, typed and packed values, as initialisers and as attributes: nothing external."""
    tensors = [numpy_helper.from_array(np.arange(300.0).astype(t), f"t{t}") for t in ("f4", "f8", "i8", "u8")]
    tensors += [helper.make_tensor(f"typed{t}", t, [2], [1, 200]) for t in (1, 6, 7, 11, 13)]
    constant = helper.make_node("Constant", [], ["c"], value=tensors[0])
    scalars = helper.make_node("Constant", [], ["d"], value_floats=[1.0, -2.0])
    negative = helper.make_node("Softmax", ["x"], ["y"], axis=-1)
    assert external_tensors(model([constant, scalars, negative], tensors).SerializeToString()) == []


@pytest.mark.parametrize(
    "location", ["../../etc/passwd", "weights", WEIGHTS + "/", "./" + WEIGHTS, "", "/dev/zero"]
)
def test_weights_outside(location):
    refused(model(initialisers=[external(location=location)]), "outside")


def test_the_value_before_the_key():
    """Protobuf writes fields in any order, so no pattern over the bytes can find a location."""
    entry = message((2, b"/etc/passwd"), (1, b"location"))
    rest = message((1, b"offset"), (2, b"8")), message((1, b"length"), (2, b"24"))
    dims = b"\x08\x02\x08\x03\x10\x01\x70\x01"
    tensor = dims + message((8, b"w"), *((13, e) for e in (entry, *rest)))
    parsed = TensorProto.FromString(tensor)
    assert parsed.external_data[0].value == "/etc/passwd"
    refused(message((7, message((5, tensor)))), "outside")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"location": None}, "once each"),
        ({"offset": None}, "once each"),
        ({"length": None}, "once each"),
        ({"checksum": "0"}, "once each"),
        ({"offset": "-8"}, "integers"),
        ({"offset": " 8"}, "integers"),
        ({"offset": "8\n"}, "integers"),
        ({"offset": "0x8"}, "integers"),
        ({"offset": "٨"}, "integers"),
        ({"offset": "9" * 5000}, "integers"),
        ({"length": "20"}, "do not hold"),
        ({"dims": (-2, -3)}, "do not hold"),
        ({"data_type": TensorProto.STRING}, "unknown data type"),
        ({"data_type": 0}, "unknown data type"),
    ],
)
def test_odd_external_tensors(changes, says):
    refused(model(initialisers=[external(**changes)]), says)


@pytest.mark.parametrize(
    ("data_location", "says"),
    # C++ keeps the low 32 bits of an enum: 2^32 + 1 would be EXTERNAL there.
    [(0, "half external"), (2, "data_location"), ((1 << 32) + 1, "data_location")],
)
def test_other_data_locations(data_location, says):
    tensor = external().SerializeToString()
    changed = tensor.replace(b"\x70\x01", b"\x70" + varint(data_location))
    assert changed != tensor
    refused(message((7, message((5, changed)))), says)


def test_external_and_inline_at_once():
    tensor = external()
    tensor.raw_data = bytes(24)
    refused(model(initialisers=[tensor]), "half external")


def test_a_location_given_twice():
    tensor = external()
    tensor.external_data.add(key="location", value="/etc/passwd")
    refused(model(initialisers=[tensor]), "once each")


def test_two_initialisers_of_one_name():
    refused(model(initialisers=[external(), external()]), "same name")


def test_an_external_initialiser_inside_a_branch():
    empty = helper.make_graph([helper.make_node("Identity", ["w"], ["z"])], "b", [], [], [external()])
    node = helper.make_node("If", ["c"], ["y"], then_branch=empty, else_branch=empty)
    refused(model([node]), "attribute of 'If'")


def test_a_list_of_subgraphs():
    node = helper.make_node("Custom", ["x"], ["y"])
    node.attribute.add(name="bodies", type=onnx.AttributeProto.GRAPHS).graphs.add(name="b")
    refused(model([node]), "attribute of 'Custom'")


@pytest.mark.parametrize("field", ["t", "tensors"])
def test_an_external_attribute(field):
    node = helper.make_node("Constant", [], ["y"])
    attribute = node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
    attribute.t.CopyFrom(external()) if field == "t" else attribute.tensors.append(external())
    refused(model([node]), "attribute of 'Constant' holds external data")


def test_local_functions():
    function = helper.make_function(
        "", "Relu", ["x"], ["y"], [helper.make_node("Identity", ["x"], ["y"])], [helper.make_opsetid("", 21)]
    )
    refused(model(functions=[function]), "field 25 of model")


def test_sparse_tensors():
    sparse = onnx.SparseTensorProto(values=external(), indices=external("i"), dims=[6])
    inside = model()
    inside.graph.sparse_initializer.append(sparse)
    refused(inside, "field 15 of graph")
    node = helper.make_node("Constant", [], ["y"], sparse_value=sparse)
    refused(model([node]), "attribute of 'Constant'")


def test_training_graphs():
    training = model()
    training.training_info.add().algorithm.initializer.append(external())
    refused(training, "field 20 of model")


@pytest.mark.parametrize("op", sorted(RANDOM_OPS))
def test_random_ops(op):
    refused(model([helper.make_node(op, ["x"], ["y"])]), f"{op} is random")


def test_other_domains():
    refused(model([helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")]), r"com\.microsoft")
    refused(model(opset_imports=[helper.make_opsetid("evil", 1)]), "evil")
    plain = model([helper.make_node("Gelu", ["x"], ["y"], domain="ai.onnx")], opset_imports=[OPSET])
    check_graph(plain.SerializeToString(), WEIGHTS)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no graph"),
        (b"hello", "not allowed"),
        (b"\x3a", "number in the graph"),
        (b"\x3a\x05", "beyond the file"),
        (b"\x3a" + b"\xff" * 9 + b"\x01", "beyond the file"),
        (b"\x3a" + b"\xff" * 10, "number in the graph"),
        (b"\x3a" + b"\xff" * 9 + b"\x02", "number in the graph"),
        (b"\x3b\x3c", "malformed"),
        (b"\x38\x00", "malformed"),
        (b"\x00\x00", "not allowed"),
        (b"\x3a\x00\x3a\x00", "malformed"),
        (message((7, message((1, message((4, b"\xff")))))), "utf-8"),
    ],
    ids=[
        "empty",
        "text",
        "no-length",
        "short",
        "length-2^64",
        "endless",
        "length-2^65",
        "group",
        "wire-type",
        "field-0",
        "two-graphs",
        "not-utf-8",
    ],
)
def test_malformed_bytes(content, says):
    refused(content, says)


def test_every_truncation_is_refused_or_read():
    """No exception but ValueError, wherever the file ends."""
    content = model(initialisers=[external()]).SerializeToString()
    for end in range(len(content)):
        try:
            check_graph(content[:end], WEIGHTS)
        except ValueError:
            continue
        onnx.ModelProto.FromString(content[:end])


@given(st.data())
def test_whatever_is_accepted_means_the_same_to_onnx(data):
    """Damaged graphs: refused, or onnx finds no external tensor besides those that the walk found."""
    content = bytearray(model(initialisers=[external()]).SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = external_tensors(bytes(content))
    except ValueError:
        return
    try:
        graph = onnx.ModelProto.FromString(bytes(content)).graph
    except DecodeError:
        return
    wanted = [t for t in graph.initializer if t.data_location == TensorProto.EXTERNAL or t.external_data]
    assert [(t.name, t.shape) for t in found] == [(t.name, tuple(t.dims)) for t in wanted]
    for tensor, proto in zip(found, wanted, strict=True):
        entries = {entry.key: entry.value for entry in proto.external_data}
        assert entries == {
            "location": tensor.location,
            "offset": str(tensor.offset),
            "length": str(tensor.length),
        }
