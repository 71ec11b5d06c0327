"""Certificates over HTTP are the encoder's; their progress is told, and who leaves cancels them."""

from __future__ import annotations

import asyncio
import base64
import json
import time

import numpy as np
import pytest

import fsfast
from fsfast.certificates.certification import plan_behind
from fsfast.runtime.sampling import Stream

httpx = pytest.importorskip("httpx", reason="the tests of the server ask by httpx")

pytest.importorskip("fastapi", reason="the server needs the extra [serve]")

from fsfast.serve import growing  # noqa: E402


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server.url, timeout=60) as opened:
        yield opened


def text(file):
    return base64.b64encode(file).decode()


def events(answer):
    """Yield the server-sent events of an answer."""
    kind = ""
    for line in answer.iter_lines():
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, json.loads(value)


@pytest.mark.parametrize(
    "asked", [{"n": 40}, {"epsilon": 0.05, "cosine": 0.5, "n_max": 40, "seed": 7, "n0": 2}]
)
def test_certificates_are_the_encoders_and_are_verified(client, encoder, files, tmp_path, asked):
    answer = client.post("/v1/certificates", json={"image": text(files[0]), "classes": True, **asked}).json()
    given = {key: value for key, value in asked.items() if key != "seed"}
    seeds = [asked["seed"]] if "seed" in asked else None
    wanted = encoder.certify(files[0], **given, seeds=seeds, progress=False)
    assert answer["certificate"] == json.loads(json.dumps(wanted.to_record()))
    assert answer["function_id"] == encoder.function_id
    predicted = wanted.predict(encoder.classes)
    assert (answer["class"]["name"], answer["class"]["radius"]) == (predicted.name, predicted.radius)
    path = tmp_path / "certificate.json"
    path.write_text(json.dumps(answer["certificate"]))
    assert fsfast.load_certificate(path).cosine(0.05) == wanted.cosine(0.05)


def test_verifications_are_replays(client, files):
    made = client.post("/v1/certificates", json={"image": text(files[0]), "n": 20}).json()["certificate"]
    same, other = (
        client.post("/v1/verifications", json={"image": text(file), "certificate": made}).json()
        for file in files[:2]
    )
    assert (same["verdict"], same["deviation"]) == ("same", 0.0)
    assert (other["verdict"], len(other["details"])) == ("different", 1)


@pytest.mark.parametrize("asked", [{"n": 40}, {"epsilon": 0.2, "cosine": 0.9, "n_max": 40}])
def test_progress_grows_to_the_certificate(client, encoder, files, asked):
    request = {"image": text(files[0]), "stream": True, **asked}
    with client.stream("POST", "/v1/certificates", json=request) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        *progress, (last, found) = events(answer)
    assert progress[0][1] == {"samples": 0, "of": 40, "radius": 0.0, "curve": []}
    assert {kind for kind, _ in progress} == {"progress"}
    samples = [state["samples"] for _, state in progress]
    assert samples == sorted(set(samples))
    assert all(state["of"] == 40 and state["samples"] <= 40 for _, state in progress)
    assert last == "certificate"
    wanted = encoder.certify(files[0], **asked, progress=False)
    assert found["certificate"] == json.loads(json.dumps(wanted.to_record()))


def test_what_is_told_on_the_way_is_what_a_certificate_that_stops_there_states(encoder, files, monkeypatch):
    certificate = encoder.certify(files[0], epsilon=0.01, cosine=0.3, n_max=60, progress=False)
    monkeypatch.setattr(growing, "choose_thresholds", lambda _: certificate.thresholds)

    async def told():
        state = growing.Growing(encoder, plan_behind(certificate))
        state.watch(Stream.PILOT, np.ones(64))
        for part in np.array_split(certificate.scores, 7):
            state.watch(Stream.CERTIFICATION, part)
        return await state.news()

    found = asyncio.run(told())
    assert (found["samples"], found["of"]) == (certificate.n, 60)
    assert found["radius"] == certificate.radius(0.5)
    bounds = [np.nan if point["cosine"] is None else point["cosine"] for point in found["curve"]]
    assert np.array_equal(
        bounds, certificate.curve([point["epsilon"] for point in found["curve"]]), equal_nan=True
    )


def test_an_error_is_an_event_of_a_stream_that_has_begun_and_a_status_before(client, files):
    request = {"image": text(b"no image"), "stream": True}
    with client.stream("POST", "/v1/certificates", json=request) as answer:
        *_, (kind, error) = events(answer)
    assert (kind, error["type"]) == ("error", "ImageError")
    assert client.post("/v1/certificates", json={"image": "", "stream": True, "n": 0}).status_code == 400


def test_who_leaves_cancels(client, files):
    def certified():
        lines = client.get("/metrics").text.splitlines()
        return float(next(line for line in lines if 'purpose="certification"' in line).split()[-1])

    request = {"image": text(files[0]), "stream": True, "n": 50_000}
    with client.stream("POST", "/v1/certificates", json=request) as answer:
        assert next(events(answer))[0] == "progress"
    end = time.monotonic() + 30
    while True:
        before = certified()
        time.sleep(0.3)
        if certified() == before:
            break
        assert time.monotonic() < end
    assert before < 10_000
