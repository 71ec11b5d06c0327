"""KServe v2 over gRPC, with Triton's official client and with messages that it would not send."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

grpc = pytest.importorskip("grpc", reason="gRPC needs the extra [serve]")

import fsfast.serve  # noqa: E402

INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture(scope="module")
def client(server):
    triton = pytest.importorskip("tritonclient.grpc", reason="needs tritonclient[grpc]")
    with triton.InferenceServerClient(server.grpc) as opened:
        yield opened


def image_input(client, files):
    import tritonclient.grpc as triton

    image = triton.InferInput("image", [len(files)], "BYTES")
    image.set_data_from_numpy(np.array(files, object))
    return [image]


def test_the_official_client_finds_the_server_and_its_model(client, encoder):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("demo")
    assert client.get_server_metadata().name == "fsfast"
    outputs = {o.name: (o.datatype, list(o.shape)) for o in client.get_model_metadata("demo").outputs}
    assert outputs["features"] == ("FP32", [-1, encoder.tokens, encoder.dim])
    assert outputs["tokens"] == ("FP32", [-1, -1, encoder.dim])


def test_the_official_client_gets_the_encoders_bits(client, encoder, files):
    import tritonclient.grpc as triton

    names = ("features", "unit", "tokens")
    asked = [triton.InferRequestedOutput(name) for name in names]
    seeds = [3, 2**64 - 1]
    found = client.infer(
        "demo",
        image_input(client, files[:2]),
        outputs=asked,
        parameters={"n0": 2, "seed": ",".join(map(str, seeds)), "tokens": "0,5"},
        request_id="r7",
    )
    wanted = encoder.encode(files[:2], 2, seeds=seeds)
    for name, value in zip(names, (wanted.features, wanted.unit, wanted.features[:, [0, 5]]), strict=True):
        np.testing.assert_array_equal(found.as_numpy(name), value)
    answer = found.get_response()
    said = answer.parameters
    assert answer.id == "r7"
    assert json.loads(said["seeds"].string_param) == seeds
    assert said["function_id"].string_param == encoder.function_id
    assert (said["n0"].int64_param, said["sigma"].double_param) == (2, encoder.sigma)


def test_levels_are_images_too(client, encoder):
    import tritonclient.grpc as triton

    levels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    image = triton.InferInput("image", list(levels.shape), "UINT8")
    image.set_data_from_numpy(levels)
    found = client.infer("demo", [image], parameters={"seed": 1}).as_numpy("features")
    np.testing.assert_array_equal(found, encoder.encode(levels, seeds=[1, 1]).features)


def test_a_bad_image_hurts_only_itself(client, encoder, files):
    found = client.infer("demo", image_input(client, [files[0], b"no image"]))
    first, second = found.as_numpy("features")
    np.testing.assert_array_equal(first, encoder.encode(files[0]).features[0])
    assert np.isnan(second).all()
    errors = json.loads(found.get_response().parameters["errors"].string_param)
    assert (errors[0], errors[1]["class"]) == (None, "ImageError")


def failing(server, content, metadata=(), method=INFER):
    """Send bytes as they are; return the status, the text and the trailer of the refusal."""
    with grpc.insecure_channel(server.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(method)(content, timeout=30, metadata=metadata)
    trailer = dict(caught.value.trailing_metadata())
    return caught.value.code(), caught.value.details(), trailer.get("error-type")


def infer_request(**fields):
    from fsfast.serve.grpc import message

    return message("ModelInferRequest")(**fields).SerializeToString()


BYTES = {"name": "image", "datatype": "BYTES", "shape": [1]}
LEVELS = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 1, 3]}


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (b"\xff" * 50, "50 other bytes"),
        ({"inputs": []}, "one input"),
        ({"inputs": [BYTES | {"name": "text"}]}, "one input"),
        ({"inputs": [BYTES | {"datatype": "FP32"}]}, "BYTES or UINT8"),
        ({"inputs": [BYTES], "raw_input_contents": [b"\xff\xff\xff\xff"]}, "cut off"),
        ({"inputs": [BYTES], "raw_input_contents": [b"", b""]}, "one tensor"),
        ({"inputs": [LEVELS], "raw_input_contents": [b"12"]}, "2 values"),
        ({"inputs": [LEVELS | {"contents": {"uint_contents": [0, 0, 256]}}]}, "256"),
        (
            {
                "inputs": [BYTES | {"contents": {"bytes_contents": [b"x"]}}],
                "parameters": {"no": {"bool_param": True}},
            },
            "n0",
        ),
        ({"inputs": [BYTES | {"contents": {"bytes_contents": [b"x"]}}], "model_version": "2"}, "version"),
    ],
)
def test_what_is_malformed_is_refused_with_a_reason(server, request_, said):
    content = request_ if isinstance(request_, bytes) else infer_request(model_name="demo", **request_)
    code, text, kind = failing(server, content)
    assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
    assert said in text
    assert kind in ("RequestError", "UnknownModel")


def test_errors_have_the_codes_of_their_kind(server, start):
    image = BYTES | {"contents": {"bytes_contents": [b"no image"]}}
    code, _, kind = failing(server, infer_request(model_name="nobody", inputs=[image]))
    assert (code, kind) == (grpc.StatusCode.NOT_FOUND, "UnknownModel")
    code, _, kind = failing(server, infer_request(model_name="demo", inputs=[image]))
    assert (code, kind) == (grpc.StatusCode.INVALID_ARGUMENT, "ImageError")


def test_keys_are_asked_for(start, tmp_path, files):
    (tmp_path / "keys").write_text("someone a-key-of-some-length\n", encoding="utf-8")
    request = infer_request(
        model_name="demo",
        inputs=[BYTES | {"contents": {"bytes_contents": [files[0]]}}],
        parameters={"seed": {"int64_param": 1}},
    )
    with start("demo", "--keys", str(tmp_path / "keys"), "--max-body-mb", "0.1") as server:
        assert failing(server, request)[0] == grpc.StatusCode.UNAUTHENTICATED
        key = (("authorization", "Bearer a-key-of-some-length"),)
        # Known, but not allowed to choose seeds.
        assert failing(server, request, key)[0] == grpc.StatusCode.PERMISSION_DENIED
        code, _, _ = failing(server, b"\0" * 300_000, key)
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
        # Who was admitted is answered, also by a server that was told to end.
        image = BYTES | {"contents": {"bytes_contents": [files[0]]}}
        long = infer_request(model_name="demo", inputs=[image], parameters={"n0": {"int64_param": 200}})
        with grpc.insecure_channel(server.grpc) as channel:
            under_way = channel.unary_unary(INFER).future(long, timeout=60, metadata=key)
            time.sleep(0.1)
            server.stop()
            assert under_way.result()


def test_the_compiled_protocol_is_the_one_that_can_be_read(tmp_path):
    protoc = pytest.importorskip("grpc_tools.protoc", reason="needs grpcio-tools")
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    folder = Path(fsfast.serve.__file__).parent
    compiled = tmp_path / "compiled.binpb"
    arguments = ["protoc", f"-I{folder}", f"--descriptor_set_out={compiled}", "open_inference.proto"]
    assert protoc.main(arguments) == 0
    read = [
        FileDescriptorSet.FromString(path.read_bytes())
        for path in (compiled, folder / "open_inference.binpb")
    ]
    assert read[0] == read[1]


def test_the_protocols_names_are_free_for_other_packages():
    pytest.importorskip("tritonclient.grpc", reason="needs tritonclient[grpc]")
    code = (
        "from fsfast.serve.grpc import message; message('ModelInferRequest'); import tritonclient.grpc;"
        "from google.protobuf import descriptor_pool as p;"
        "print(p.Default().FindMessageTypeByName('inference.ModelInferRequest').file.name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "grpc_service.proto\n"
