"""The clients against answers that a test chooses; tests/serve has them against a server."""

from __future__ import annotations

import asyncio
import io
import json

import numpy as np
import pytest
from PIL import Image

import fsfast

httpx = pytest.importorskip("httpx", reason="the client needs httpx")

from fsfast.client import AsyncClient, Client  # noqa: E402
from fsfast.client.tensors import HEADER_LENGTH  # noqa: E402


def features_answer(
    request, function_id="f1", failed=(), grid_sha256="0" * 64, certified=None, kind="ImageError"
):
    """Answer a request for features: those of image i are all i, and its seed is i."""
    length = int(request.headers[HEADER_LENGTH])
    asked = json.loads(request.content[:length])
    (count,) = asked["inputs"][0]["shape"]
    values = np.broadcast_to(np.arange(count, dtype="<f4")[:, None], (count, 3)).tobytes()
    lists = {
        "seeds": [str(i) for i in range(count)],
        "seed_origins": ["secret"] * count,
        "grid_sha256": [grid_sha256] * count,
        "sources": [{"kind": "bytes"}] * count,
        "errors": [{"class": kind, "message": "no image"} if i in failed else None for i in range(count)],
    }
    if certified is not None:
        lists["certified"] = certified
    said = {name: json.dumps(value) for name, value in lists.items()} | {
        "n0": asked["parameters"].get("n0", 4),
        "sigma": 0.25,
        "engine": "demo",
        "engine_digest": "d",
        "function_id": function_id,
        "random_weights": False,
    }
    outputs = [
        {
            "name": name,
            "shape": [count, 3],
            "datatype": "FP32",
            "parameters": {"binary_data_size": len(values)},
        }
        for name in ("features", "unit")
    ]
    header = json.dumps({"model_name": "demo", "outputs": outputs, "parameters": said}).encode()
    return httpx.Response(200, headers={HEADER_LENGTH: str(len(header))}, content=header + 2 * values)


def files_of(request):
    """Return the images of a request for features."""
    rest, files = request.content[int(request.headers[HEADER_LENGTH]) :], []
    while rest:
        size = int.from_bytes(rest[:4], "little")
        files.append(rest[4 : 4 + size])
        rest = rest[4 + size :]
    return files


def client_of(handler, **options):
    """Return a client whose requests a function answers, and which does not wait."""
    return Client("http://server", "demo", transport=httpx.MockTransport(handler), **options)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)


def test_features_are_read_as_the_encoder_gives_them(photograph, picture):
    sent = []

    def handler(request):
        sent.append(request)
        return features_answer(request)

    with client_of(handler, key="k") as client:
        out = client.encode([str(photograph), picture], 2)
    assert isinstance(out, fsfast.SmoothedFeatures)
    np.testing.assert_array_equal(out.features, [[0, 0, 0], [1, 1, 1]])
    assert (out.n0, out.names, out.seeds.tolist()) == (2, (str(photograph), None), [0, 1])
    assert out.features.flags.writeable
    assert sent[0].url.path == "/v2/models/demo/infer"
    assert sent[0].headers["Authorization"] == "Bearer k"
    first, second = files_of(sent[0])
    assert first == photograph.read_bytes()
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(second))), picture)


def test_many_images_are_several_requests_and_a_bad_one_sinks_no_other(picture, tmp_path):
    sizes = []

    def handler(request):
        sizes.append(len(files_of(request)))
        return features_answer(request, failed=(1,))

    images = [picture] * 16 + [str(tmp_path / "none.png"), picture]
    with client_of(handler) as client:
        found = list(client.encode_iter(images, seeds=range(18), on_error="return"))
        assert sizes == [16, 1]
        assert [outcome.position for outcome in found] == list(range(18))
        assert [i for i, outcome in enumerate(found) if outcome.error] == [1, 16]
        assert all(isinstance(found[i].error, fsfast.ImageError) for i in (1, 16))
        with pytest.raises(fsfast.ImageError, match=r"image 1 \(counted from 0\): no image"):
            client.encode([picture] * 2)
        with pytest.raises(ValueError, match="one seed per image"):
            client.encode(picture, seeds=[1, 2])


@pytest.mark.parametrize(
    "first", [429, 503, httpx.ConnectError("refused"), httpx.RemoteProtocolError("gone")]
)
def test_what_may_pass_is_asked_again(picture, first):
    answers = [first]

    def handler(request):
        if not answers:
            return features_answer(request)
        if isinstance(answer := answers.pop(), Exception):
            raise answer
        return httpx.Response(
            answer, json={"error": "later", "type": "QueueFull"}, headers={"Retry-After": "3"}
        )

    with client_of(handler) as client:
        assert len(client.encode(picture)) == 1
    answers.append(first)
    with client_of(handler, retries=0) as client, pytest.raises(fsfast.ServerError) as caught:
        client.encode(picture)
    if isinstance(first, int):
        assert (caught.value.status, caught.value.kind, caught.value.retry_after) == (first, "QueueFull", 3.0)


@pytest.mark.parametrize(
    ("content", "asked"), [(b"Internal Server Error", 2), (b'{"error": "why", "type": "EngineFailed"}', 1)]
)
def test_a_500_of_a_proxy_is_asked_again_and_one_of_the_server_is_not(picture, monkeypatch, content, asked):
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    requests = []

    def handler(request):
        requests.append(request)
        return httpx.Response(500, content=content)

    with (
        Client("http://server", "demo", transport=httpx.MockTransport(handler), retries=1) as client,
        pytest.raises(fsfast.ServerError),
    ):
        client.encode(picture)
    assert len(requests) == asked


def test_the_pause_is_the_servers(picture, monkeypatch):
    pauses = []
    monkeypatch.setattr("tenacity.nap.time.sleep", pauses.append)
    answer = {"error": "later", "type": "QueueFull"}
    busy = httpx.MockTransport(lambda _: httpx.Response(429, json=answer, headers={"Retry-After": "20"}))
    with (
        Client("http://server", "demo", transport=busy, retries=2) as client,
        pytest.raises(fsfast.ServerError),
    ):
        client.encode(picture)
    assert pauses == [20.0, 20.0]


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (400, "ImageError", fsfast.ImageError),
        (409, "CertificateError", fsfast.CertificateError),
        (400, "ValueError", ValueError),
        (401, "Unauthorised", fsfast.ServerError),
        # Never one of Python's that a server may name.
        (500, "SystemExit", fsfast.ServerError),
    ],
)
def test_errors_are_those_of_the_encoder_and_not_asked_again(picture, status, kind, error):
    asked = []

    def handler(request):
        asked.append(request)
        return httpx.Response(status, json={"error": "why\x1b[31m", "type": kind, "request_id": "r1"})

    with client_of(handler) as client, pytest.raises(error, match="why") as caught:
        client.encode(picture)
    assert len(asked) == 1
    assert type(caught.value) is error
    assert "\x1b" not in str(caught.value)
    if error is fsfast.ServerError:
        assert (caught.value.status, caught.value.request_id) == (status, "r1")


def test_a_late_answer_is_not_asked_for_again(picture):
    asked = []

    def handler(request):
        asked.append(request)
        raise httpx.ReadTimeout("late")

    with client_of(handler) as client, pytest.raises(fsfast.ServerError, match="longer timeout"):
        client.encode(picture)
    assert len(asked) == 1


def test_replicas_of_another_function_are_refused(picture):
    ids = iter(["f1", "f1", "f2"])
    with client_of(lambda request: features_answer(request, next(ids))) as client:
        client.encode(picture)
        client.encode(picture)
        with pytest.raises(fsfast.ReplicasDiffer, match=r"f1, got one of f2"):
            client.encode(picture)
    with client_of(features_answer, function_id="f0") as client, pytest.raises(fsfast.ReplicasDiffer):
        client.encode(picture)


@pytest.mark.parametrize("content", [b"", b"<html>", b"{}", b'{"outputs": []}'])
def test_what_is_no_answer_is_said_so(picture, content):
    strange = httpx.Response(200, content=content, headers={HEADER_LENGTH: str(len(content))})
    with client_of(lambda _: strange) as client, pytest.raises(fsfast.ServerError, match="something else"):
        client.encode(picture)


def test_a_tensor_that_is_cut_off_is_no_answer(picture):
    def handler(request):
        whole = features_answer(request)
        return httpx.Response(
            200, headers={HEADER_LENGTH: whole.headers[HEADER_LENGTH]}, content=whole.content[:-4]
        )

    with client_of(handler) as client, pytest.raises(fsfast.ServerError, match="something else"):
        client.encode(picture)


def test_a_refusal_of_one_image_keeps_the_servers_name_for_it(picture):
    with client_of(lambda request: features_answer(request, failed=(1,), kind="NotCertified")) as client:
        _, refused = client.encode_iter([picture] * 2, on_error="return")
    assert isinstance(refused.error, fsfast.ServerError)
    assert refused.error.kind == "NotCertified"
    with (
        client_of(lambda request: features_answer(request, failed=(1,), kind="NotCertified")) as client,
        pytest.raises(fsfast.ServerError, match=r"image 1 .*no image") as caught,
    ):
        client.encode([picture] * 2)
    assert caught.value.kind == "NotCertified"


def test_whether_images_meet_the_servers_policy_is_kept(picture, tmp_path):
    met = [True, False, None]
    with client_of(lambda request: features_answer(request, certified=met)) as client:
        out = client.encode([picture] * 3)
    out.save(tmp_path / "features.npz")
    assert out[1:].certified == (False, None)
    assert fsfast.load_features(tmp_path / "features.npz").certified == tuple(met)
    with client_of(features_answer) as client:
        assert client.encode([picture] * 3).certified == ()


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [(400, "ImageError", fsfast.ImageError), (422, "NotCertified", fsfast.ServerError)],
)
def test_images_that_are_refused_together_sink_no_others(picture, status, kind, error):
    def handler(request):
        if len(files_of(request)) == 16:
            return httpx.Response(status, json={"error": "cannot identify it", "type": kind})
        return features_answer(request)

    with client_of(handler) as client:
        found = list(client.encode_iter([picture] * 17, on_error="return"))
    assert [outcome.error is None for outcome in found] == [False] * 16 + [True]
    assert type(found[0].error) is error
    assert getattr(found[0].error, "kind", kind) == kind
    assert "16 images" in str(found[0].error)
    assert "cannot identify it" in str(found[0].error)


def test_an_image_on_the_grid_keeps_its_source_and_its_pixels_are_compared(photograph):
    with fsfast.SmoothedEncoder("demo") as encoder:
        image = encoder.prepare(str(photograph))
    for sha256, same in ((image.grid_sha256, True), ("0" * 64, False)):
        with client_of(lambda request, sha=sha256: features_answer(request, grid_sha256=sha)) as client:
            if same:
                out = client.encode(image)
                assert (out.names, out.sources) == ((str(photograph),), (image.source,))
            else:
                with pytest.raises(fsfast.ServerError, match="wanted pixels"):
                    client.encode(image)


def test_the_only_model_needs_no_name(picture):
    names = ["demo"]

    def handler(request):
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": name} for name in names]})
        assert request.url.path == "/v2/models/demo/infer"
        return features_answer(request)

    transport = httpx.MockTransport(handler)
    with Client("http://server", transport=transport) as client:
        assert len(client.encode(picture)) == 1
    names.append("other")
    with (
        Client("http://server", transport=transport) as client,
        pytest.raises(ValueError, match="demo, other"),
    ):
        client.encode(picture)


def events(*pairs):
    """Answer with events of these names and data."""
    text = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in pairs)
    return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, text=text)


@pytest.fixture(scope="module")
def certified(photograph):
    """A certificate of the photograph."""
    with fsfast.SmoothedEncoder("demo") as encoder:
        return encoder.certify(str(photograph), n=60)


def test_a_certificate_comes_at_the_end_of_its_progress(photograph, certified):
    asked = []

    def handler(request):
        asked.append(json.loads(request.content))
        ticks = [("progress", {"samples": n, "of": 60}) for n in (15, 45)]
        return events(*ticks, ("certificate", {"certificate": certified.to_record()}))

    steps = []
    with client_of(handler) as client:
        found = client.certify(str(photograph), n=60, alpha=0.01, progress=steps.append)
    assert found.to_record() == certified.to_record()
    assert steps == [0.25, 0.5, 0.25]
    assert {k: asked[0][k] for k in ("model", "n", "alpha", "stream")} == {
        "model": "demo",
        "n": 60,
        "alpha": 0.01,
        "stream": True,
    }
    assert "epsilon" not in asked[0]


def test_a_forged_certificate_is_refused(photograph, certified):
    record = certified.to_record()
    record["bounds"][0]["cosine"] = 1.0
    answer = events(("certificate", {"certificate": record}))
    with client_of(lambda _: answer) as client, pytest.raises(fsfast.CertificateError):
        client.certify(str(photograph), n=60)


def test_errors_within_a_stream_are_raised(photograph):
    failing = events(
        ("progress", {"samples": 1, "of": 2}),
        ("error", {"error": "why", "type": "EngineError", "status": 500}),
    )
    with client_of(lambda _: failing) as client, pytest.raises(fsfast.EngineError, match="why"):
        client.certify(str(photograph))
    full = ("error", {"error": "later", "type": "QueueFull", "status": 429})
    asked = []

    def first_full(request):
        asked.append(request)
        return events(full) if len(asked) == 1 else failing

    with client_of(first_full) as client, pytest.raises(fsfast.EngineError):
        client.certify(str(photograph))
    assert len(asked) == 2
    ending = events(("progress", {"samples": 1, "of": 2}))
    with client_of(lambda _: ending) as client, pytest.raises(fsfast.ServerError, match="ended before"):
        client.certify(str(photograph))


def test_a_verification_is_the_encoders(photograph, certified):
    answer = {"verdict": "different", "details": ["the anchor"], "deviation": 0.5, "notes": []}
    with client_of(lambda _: httpx.Response(200, json=answer)) as client:
        found = client.verify(certified, str(photograph))
    assert isinstance(found, fsfast.Verification)
    assert not found
    assert (found.details, found.deviation) == (("the anchor",), 0.5)


def test_the_async_client_does_the_same(photograph, picture, certified):
    def handler(request):
        if request.url.path == "/v1/certificates":
            return events(("certificate", {"certificate": certified.to_record()}))
        if request.url.path == "/v1/verifications":
            return httpx.Response(200, json={"verdict": "same", "details": [], "deviation": 0.0, "notes": []})
        return features_answer(request, certified.function_id, failed=(1,))

    async def session():
        async with AsyncClient("http://server", "demo", transport=httpx.MockTransport(handler)) as client:
            assert len(await client.encode(picture)) == 1
            found = [o async for o in client.encode_iter([picture] * 3, on_error="return")]
            assert [o.error is None for o in found] == [True, False, True]
            certificate = await client.certify(str(photograph), n=60)
            assert certificate.to_record() == certified.to_record()
            assert await client.verify(certificate, str(photograph))
            with pytest.raises(fsfast.ImageError, match="image 1"):
                await client.encode([picture] * 2)

    asyncio.run(session())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"url": "localhost:8000"}, "http://localhost:8000"),
        ({"retries": -1}, "retries ≥ 0"),
        ({"timeout": 0}, "timeout above 0"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Client(**{"url": "http://server", **arguments})
