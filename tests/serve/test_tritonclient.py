"""Triton's official client over HTTP, as it comes."""

from __future__ import annotations

import json

import numpy as np
import pytest

http = pytest.importorskip("tritonclient.http", reason="Triton's client is not installed")


@pytest.fixture(scope="module")
def client(server):
    with http.InferenceServerClient(server.address) as opened:
        yield opened


def image_input(files):
    tensor = http.InferInput("image", [len(files)], "BYTES")
    tensor.set_data_from_numpy(np.array(files, dtype=object))
    return tensor


def test_health_and_metadata(client, encoder):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("demo")
    assert not client.is_model_ready("other")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata("demo")
    assert metadata["outputs"][0] == {
        "name": "features",
        "datatype": "FP32",
        "shape": [-1, encoder.tokens, encoder.dim],
    }
    assert metadata["parameters"]["function_id"] == encoder.function_id


@pytest.mark.parametrize("compressed", [None, "gzip", "deflate"])
def test_features_are_those_of_the_encoder(client, encoder, files, compressed):
    names = ("features", "unit", "tokens")
    answer = client.infer(
        "demo",
        [image_input(files)],
        outputs=[http.InferRequestedOutput(name) for name in names],
        parameters={"n0": 3, "tokens": "5,0"},
        request_compression_algorithm=compressed,
        request_id="seven",
    )
    wanted = encoder.encode(files, 3)
    assert np.array_equal(answer.as_numpy("features"), wanted.features)
    assert np.array_equal(answer.as_numpy("unit"), wanted.unit)
    assert np.array_equal(answer.as_numpy("tokens"), wanted.features[:, [5, 0]])
    response = answer.get_response()
    assert response["id"] == "seven"
    told = response["parameters"]
    assert json.loads(told["seeds"]) == wanted.seeds.tolist()
    assert json.loads(told["seed_origins"]) == ["secret"] * len(files)
    assert json.loads(told["grid_sha256"]) == list(wanted.grid_sha256)
    assert (told["function_id"], told["n0"]) == (encoder.function_id, 3)


def test_json_tensors_levels_and_half_precision(client, encoder):
    levels = np.random.default_rng(0).integers(0, 256, (2, 40, 60, 3), np.uint8)
    for binary in (True, False):
        tensor = http.InferInput("image", list(levels.shape), "UINT8")
        tensor.set_data_from_numpy(levels, binary_data=binary)
        answer = client.infer(
            "demo", [tensor], outputs=[http.InferRequestedOutput("features", binary_data=binary)]
        )
        assert np.array_equal(answer.as_numpy("features"), encoder.encode(levels).features)


def test_a_seed_replays(client, encoder, files):
    answer = client.infer("demo", [image_input(files[:2])], parameters={"seed": "1, 0xffffffffffffffff"})
    wanted = encoder.encode(files[:2], seeds=[1, 2**64 - 1])
    assert np.array_equal(answer.as_numpy("features"), wanted.features)


def test_a_bad_image_hurts_only_itself(client, encoder, files):
    answer = client.infer("demo", [image_input([files[0], b"no image", files[1]])])
    features = answer.as_numpy("features")
    assert np.array_equal(features[[0, 2]], encoder.encode(files[:2]).features)
    assert np.isnan(features[1]).all()
    errors = json.loads(answer.get_response()["parameters"]["errors"])
    assert [error and error["class"] for error in errors] == [None, "ImageError", None]


@pytest.mark.parametrize(
    ("model", "files", "parameters", "message"),
    [
        ("demo", [b"no image"], {}, "wanted an image"),
        ("demoo", [b""], {}, "did you mean 'demo'"),
        ("demo", [b""], {"n00": 3}, "did you mean 'n0'"),
        ("demo", [b""], {"n0": 0}, "wanted n0 ≥ 1"),
        ("demo", [b""], {"n0": 1 << 20}, "wanted n0 of at most"),
    ],
)
def test_wrong_requests_are_named(client, model, files, parameters, message):
    with pytest.raises(
        http.InferenceServerException if hasattr(http, "InferenceServerException") else Exception
    ) as caught:
        client.infer(model, [image_input(files)], parameters=parameters)
    assert message in str(caught.value)
