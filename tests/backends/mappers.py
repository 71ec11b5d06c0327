"""An engine whose mapper somebody has replaced; needs onnx."""

from __future__ import annotations

from pathlib import Path

from onnx import NodeProto, TensorProto, helper
from safetensors.numpy import load_file, save

from tests.forging import replace_file, rewrite


def replace_mapper(path: Path, nodes: list[NodeProto]) -> None:
    """Forge a mapper of `nodes` ("tokens" → "mapped") whose stored output is its stored input."""
    golden = load_file(path / "golden.safetensors")
    graph = helper.make_graph(
        nodes,
        "mapper",
        [
            helper.make_tensor_value_info(
                "tokens", TensorProto.FLOAT, ["M", *golden["mapper.input"].shape[1:]]
            )
        ],
        [
            helper.make_tensor_value_info(
                "mapped", TensorProto.FLOAT, ["M", *golden["mapper.input"].shape[1:]]
            )
        ],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10, producer_name="fsfast"
    )
    golden["mapper.output"] = golden["mapper.input"]
    replace_file(path, "golden.safetensors", save(golden))
    replace_file(path, "mapper.float32.onnx", model.SerializeToString())

    def change(record):
        variant = record["stages"]["mapper"]["float32"]
        variant["input"]["name"], variant["output"]["name"] = "tokens", "mapped"
        variant["output"]["shape"] = variant["input"]["shape"]

    rewrite(path, change)
