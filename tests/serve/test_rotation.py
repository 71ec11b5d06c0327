"""A server's secret is replaced without downtime, and what it issued before is still replayed."""

from __future__ import annotations

import base64
import signal
import subprocess
import sys
import time

import pytest

from fsfast.runtime.seeds import key_id
from tests.serve.test_requests import infer

httpx = pytest.importorskip("httpx", reason="the tests of the server ask by httpx")

OLD, NEW = b"the secret of the last year", b"the secret of this year"


def embedded(client, file):
    uri = f"data:image/png;base64,{base64.b64encode(file).decode()}"
    return client.post("/v1/embeddings", json={"model": "demo", "input": uri, "n0": 1})


def test_sighup_takes_the_new_secret_and_no_request_is_lost(start, files, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(OLD + b"\n")
    with (
        start("demo", "--secret-file", str(secret), "--allow-seeds") as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        image = base64.b64encode(files[0]).decode()
        asked = client.post("/v1/certificates", json={"image": image, "n": 20})
        old = asked.json()["certificate"]
        assert old["certification"]["key_id"] == old["anchor"]["key_id"] == key_id(OLD)
        assert infer(client, files[:1], n0=1).json()["parameters"]["key_id"] == key_id(OLD)
        assert "key_id" not in infer(client, files[:1], n0=1, seed=7).json()["parameters"]

        secret.write_bytes(NEW)
        server.process.send_signal(signal.SIGHUP)
        end = time.monotonic() + 60
        found = []
        while key_id(NEW) not in found:
            assert time.monotonic() < end
            answer = embedded(client, files[0])
            assert answer.status_code == 200
            found.append(answer.json()["key_id"])
        assert set(found) <= {key_id(OLD), key_id(NEW)}
        replayed = client.post("/v1/verifications", json={"image": image, "certificate": old}).json()
        assert replayed["verdict"] == "same"

        secret.write_bytes(b"short")
        server.process.send_signal(signal.SIGHUP)
        while "stays as it was" not in (log := server.log.read_text(encoding="utf-8")):
            assert time.monotonic() < end
            time.sleep(0.05)
        assert "at least 16 bytes" in log
        assert embedded(client, files[0]).json()["key_id"] == key_id(NEW)


def test_a_secret_file_that_is_none_is_named(tmp_path):
    (tmp_path / "empty").write_bytes(b"\n")
    for name, said in (("missing", "No such file"), ("empty", "which is empty")):
        done = subprocess.run(
            [sys.executable, "-m", "fsfast", "serve", "demo", "--secret-file", str(tmp_path / name)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert said in done.stderr
        assert str(tmp_path / name) in done.stderr
