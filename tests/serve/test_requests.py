"""What a server does with requests over HTTP, good and bad, on loopback."""

from __future__ import annotations

import base64
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

httpx = pytest.importorskip("httpx", reason="the tests of the server ask by httpx")


def infer(client, files, model="demo", **parameters):
    """Ask for features as JSON carries them."""
    data = [base64.b64encode(file).decode() for file in files]
    image = {"name": "image", "shape": [len(files)], "datatype": "BYTES", "data": data}
    return client.post(f"/v2/models/{model}/infer", json={"inputs": [image], "parameters": parameters})


def features_of(answer):
    (output,) = answer.json()["outputs"]
    return np.array(output["data"], np.float32).reshape(output["shape"])


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server.url, timeout=60) as opened:
        yield opened


def test_sixteen_clients_get_the_encoders_bits_under_load(server, encoder, files):
    wanted = {seed: encoder.encode(files[seed % len(files)], 2, seeds=[seed]).features for seed in range(32)}

    def ask(name):
        with httpx.Client(
            base_url=server.url, timeout=60, headers={"x-request-id": f"client-{name}"}
        ) as client:
            seeds = range(name, 32, 16)
            answers = [infer(client, [files[seed % len(files)]], n0=2, seed=seed) for seed in seeds]
            assert all(answer.headers["x-request-id"] == f"client-{name}" for answer in answers)
            return {seed: features_of(answer) for seed, answer in zip(seeds, answers, strict=True)}

    with ThreadPoolExecutor(16) as team:
        for found in team.map(ask, range(16)):
            assert all(np.array_equal(values, wanted[seed]) for seed, values in found.items())


@pytest.mark.parametrize(
    ("path", "content", "status", "kind", "message"),
    [
        ("/v2/models/demo/infer", b"{", 400, "RequestError", "wanted a JSON document"),
        ("/v2/models/demo/infer", b'{"inputs": []}', 400, "RequestError", "wanted one input"),
        ("/v2/models/demo/infer", b'{"input": []}', 400, "RequestError", "inputs"),
        ("/v2/models/demo/versions/2/infer", b"{}", 404, "UnknownModel", "wanted version 1"),
        ("/v1/certificates", b'{"image": "?"}', 400, "RequestError", "base64"),
        ("/v1/certificates", b'{"image": "", "nn": 1}', 400, "RequestError", "did you mean 'n'"),
        ("/v1/certificates", b'{"image": "", "n": 9, "epsilon": 0.1}', 400, "ValueError", "instead of n"),
        ("/v1/certificates", b'{"image": "", "n": 100001}', 413, "TooLarge", "at most 100000"),
        ("/v1/certificates", b'{"image": ""}', 400, "ImageError", "wanted an image"),
        ("/v1/verifications", b'{"image": "", "certificate": {}}', 400, "CertificateError", "not an fsfast"),
        ("/v1/elsewhere", b"", 404, "RequestError", "/docs"),
    ],
)
def test_wrong_requests_get_an_error_that_says_what_was_wanted(client, path, content, status, kind, message):
    answer = client.post(path, content=content)
    error = answer.json()
    assert (answer.status_code, error["type"]) == (status, kind)
    assert message in error["error"]
    assert error["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("shape", "datatype", "data"),
    [
        ([2], "BYTES", [""]),
        ([1], "FP32", [0.5]),
        ([1, 2, 2, 3], "UINT8", [256] * 12),
        ([1, 2, 2, 3], "UINT8", [0] * 11),
        ([1, 2, 2, 1], "UINT8", [0] * 4),
        ([0], "BYTES", []),
        ([1], "BYTES", None),
        ([-1], "BYTES", [""]),
    ],
)
def test_tensors_that_are_not_what_they_say_are_refused(client, shape, datatype, data):
    image = {"name": "image", "shape": shape, "datatype": datatype, "data": data}
    answer = client.post("/v2/models/demo/infer", json={"inputs": [image]})
    assert (answer.status_code, answer.json()["type"]) == (400, "RequestError")


def test_binary_tensors_that_are_cut_off_are_refused(client):
    for tensor, size in ((b"\x05\0\0\0abc", 7), (b"\0\0", 2), (b"", 1), (b"\0\0\0\0", 0)):
        image = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": size}}
        head = json.dumps({"inputs": [image]}).encode()
        headers = {"inference-header-content-length": str(len(head))}
        answer = client.post("/v2/models/demo/infer", content=head + tensor, headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (400, "RequestError")
    for length in ("-1", "x", "99999"):
        answer = client.post(
            "/v2/models/demo/infer", content=b"{}", headers={"inference-header-content-length": length}
        )
        assert answer.status_code == 400


def test_half_precision_is_the_rounded_feature(client, encoder, files):
    data = [base64.b64encode(files[0]).decode()]
    image = {"name": "image", "shape": [1], "datatype": "BYTES", "data": data}
    output = {"name": "features", "parameters": {"datatype": "FP16", "binary_data": True}}
    answer = client.post("/v2/models/demo/infer", json={"inputs": [image], "outputs": [output]})
    length = int(answer.headers["inference-header-content-length"])
    found = np.frombuffer(answer.content[length:], "<f2")
    assert np.array_equal(found, encoder.encode(files[:1]).features.astype(np.float16).ravel())


def test_a_client_that_leaves_frees_its_rows(server, client, files):
    def waiting():
        lines = client.get("/metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith("fsfast_waiting_rows{")).split()[-1])

    body = json.dumps(
        {
            "inputs": [
                {
                    "name": "image",
                    "shape": [4],
                    "datatype": "BYTES",
                    "data": [base64.b64encode(file).decode() for file in files[:4]],
                }
            ],
            "parameters": {"n0": 1000},
        }
    ).encode()
    host, _, port = server.address.rpartition(":")
    with socket.create_connection((host, int(port))) as leaving:
        head = f"POST /v2/models/demo/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        leaving.sendall(head.encode() + body)
        _until(lambda: waiting() == 4000)
    _until(lambda: waiting() == 0)


def _until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_commands_of_the_page_on_serving_work(server, photograph, tmp_path):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    shutil.copy(photograph, tmp_path / "photo.jpg")
    page = (Path(__file__).parents[2] / "docs" / "network.md").read_text(encoding="utf-8")
    features, certificate = (
        block for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) if "curl" in block
    )
    here = f"PATH={Path(sys.executable).parent}:$PATH\n"

    def said(command):
        for there, instead in {
            "localhost:8000": server.address,
            "models/photo": "models/demo",
            '"n": 1000': '"n": 20',
        }.items():
            command = command.replace(there, instead)
        return subprocess.run(
            ["bash", "-euc", here + command], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    # Larger than one argument of a command may be.
    with open(tmp_path / "photo.jpg", "ab") as file:
        file.write(bytes(200_000))
    assert json.loads(said(features))["outputs"]
    assert said(certificate).startswith("same")


def test_metrics_name_the_function_and_count(client, encoder, files):
    infer(client, files[:1])
    infer(client, [b"no image"])
    text = client.get("/metrics").text
    assert f'fsfast_images_total{{function_id="{encoder.function_id}",model="demo"}}' in text
    assert 'fsfast_errors_total{kind="ImageError"}' in text
    assert 'route="/v2/models/{name}/infer",status="200"' in text
    assert 'stage="encoder"' in text
    assert "fsfast_batch_fill_ratio" in text


def test_openapi_describes_every_route(client):
    described = client.get("/openapi.json").json()
    assert {
        "/v1/certificates",
        "/v1/embeddings",
        "/v1/verifications",
        "/v2/models/{name}/infer",
    } <= described["paths"].keys()
    body = described["paths"]["/v1/certificates"]["post"]["requestBody"]["content"]["application/json"][
        "schema"
    ]
    assert "epsilon" in body["properties"]
