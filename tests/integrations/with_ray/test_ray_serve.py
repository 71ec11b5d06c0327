"""Replicas on two nodes of Ray: equal features, one killed under load, and one that computes something else."""

from __future__ import annotations

import re
import threading
import time
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

pytest.importorskip("ray", reason="make ray has an environment for these")

from ray import serve

import fsfast
from fsfast.errors import ServerError
from fsfast.integrations.ray import app, deployment
from tests.integrations.photos import png
from tests.integrations.with_ray.two_nodes import SECRET, two_nodes

PORT = 8123
URL = f"http://127.0.0.1:{PORT}"
IMAGES = list(np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8))
N0 = 16
TWO = {"min_replicas": 2, "max_replicas": 2}


@pytest.fixture(scope="module")
def wanted():
    with fsfast.SmoothedEncoder("demo", secret=SECRET) as encoder:
        return [encoder.encode(image, N0) for image in IMAGES]


@pytest.fixture
def nodes():
    """Two nodes with room for a replica each, and Serve's proxy on the head."""
    with two_nodes() as found:
        serve.start(http_options={"port": PORT}, proxy_location="HeadOnly")
        yield found
        serve.shutdown()


def served_by() -> dict[str, float]:
    """Images that each replica served, by when its counter was made; as many as answer to some questions."""
    found = {}
    for _ in range(40):
        text = httpx.get(f"{URL}/metrics").text
        values = dict(re.findall(r"^fsfast_images_(created|total)\{.*\} (\S+)$", text, re.M))
        if values:
            found[values["created"]] = float(values["total"])
    return found


def test_every_replica_gives_the_same_features_by_the_routes_of_the_server(nodes, wanted):
    serve.run(app({"engine": "demo", "min_replicas": "2", "max_replicas": "2"}))
    with fsfast.Client(URL) as client, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: client.encode(IMAGES[i % 8], N0), range(48)))
        assert client.certify(IMAGES[0], n=40).function_id == wanted[0].function_id
    with fsfast.Client(URL, "another") as client, pytest.raises(ServerError, match="got 'another'") as error:
        client.encode(IMAGES[0])
    assert (error.value.status, error.value.kind) == (404, "UnknownModel")
    assert all(
        out.unit.tobytes() == wanted[i % 8].unit.tobytes() and out.seeds == wanted[i % 8].seeds
        for i, out in enumerate(found)
    )
    counts = served_by()
    assert len(counts) == 2
    assert all(counts.values())
    assert sum(counts.values()) == 48
    assert httpx.get(f"{URL}/v2/health/ready").json() == {"ready": True}


def test_a_replica_that_is_killed_under_load_costs_no_answer(nodes, wanted):
    serve.run(deployment("demo", **TWO))
    answers, stop = [], threading.Event()

    def ask(start: int) -> None:
        with fsfast.Client(URL, retries=20) as client:
            i = start
            while not stop.is_set():
                answers.append((i % 8, client.encode(IMAGES[i % 8], N0)))
                i += 1

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask, start) for start in range(3)]
        while len(answers) < 20:
            time.sleep(0.1)
        assert len(served_by()) == 2
        nodes.kill_other()
        before = len(answers)
        while len(answers) < before + 60:
            time.sleep(0.1)
        stop.set()
        for each in asking:
            each.result()
    assert all(out.unit.tobytes() == wanted[i].unit.tobytes() for i, out in answers)


def test_what_does_not_fit_into_the_queues_gets_429_and_is_asked_again(nodes, wanted):
    # Room for one image, and for one that waits in the proxy.
    serve.run(deployment("demo", max_rows=N0, retry_after=2))
    body = {"input": ["data:image/png;base64," + b64encode(png(9)).decode()], "model": "demo"}
    with ThreadPoolExecutor(24) as pool:
        found = list(
            pool.map(lambda _: httpx.post(f"{URL}/v1/embeddings", json=body, timeout=60), range(200))
        )
    assert {answer.status_code for answer in found} == {200, 429}
    assert all(1 <= int(a.headers["retry-after"]) <= 30 for a in found if a.status_code == 429)
    with fsfast.Client(URL, retries=30) as client, ThreadPoolExecutor(4) as pool:
        outs = list(pool.map(lambda i: client.encode(IMAGES[i], N0), range(8)))
    assert all(a.unit.tobytes() == b.unit.tobytes() for a, b in zip(outs, wanted, strict=True))


def test_a_replica_that_would_compute_something_else_is_refused(nodes):
    with pytest.raises(RuntimeError):
        serve.run(deployment("demo", function_id="0123456789abcdef"))
    message = serve.status().applications["default"].deployments["demo"].message
    assert "wanted function_id 0123456789abcdef as this deployment has" in message


def test_a_node_with_another_secret_does_not_join():
    with two_nodes(environment={"FSFAST_SECRET": "another secret of the tests"}):
        serve.start(http_options={"port": PORT}, proxy_location="HeadOnly")
        target = serve.RunTarget(deployment("demo", **TWO), route_prefix="/")
        serve.run_many([target], wait_for_applications_running=False)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            status = serve.status().applications["default"].deployments.get("demo")
            if status is not None and "wanted key_id" in status.message:
                break
            time.sleep(0.5)
        assert "wanted key_id" in status.message
        serve.shutdown()
