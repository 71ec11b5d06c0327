"""OpenAI's official client, as it comes."""

from __future__ import annotations

import base64

import numpy as np
import pytest

openai = pytest.importorskip("openai", reason="OpenAI's client is not installed")


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def uri(file):
    return f"data:image/png;base64,{base64.b64encode(file).decode()}"


def test_models(client):
    assert [model.id for model in client.models.list()] == ["demo"]


@pytest.mark.parametrize("encoding", [None, "float", "base64"])
def test_embeddings_are_mean_tokens(client, encoder, files, encoding):
    wanted = encoder.encode(files[:2]).features.mean(1, dtype=np.float64).astype(np.float32)
    how = {} if encoding is None else {"encoding_format": encoding}
    answer = client.embeddings.create(
        model="demo", input=[uri(file) for file in files[:2]], extra_body={"modality": "image"}, **how
    )
    found = [each.embedding for each in answer.data]
    if encoding == "base64":
        found = [
            np.frombuffer(base64.b64decode(each), "<f4") if isinstance(each, str) else each for each in found
        ]
    assert np.array_equal(np.array(found, np.float32), wanted)
    assert answer.model_extra["function_id"] == encoder.function_id


def test_messages_as_vllm_has_them_and_tokens_of_ours(client, encoder, files):
    body = {
        "model": "demo",
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": uri(files[0])}}]}
        ],
        "encoding_format": "float",
        "tokens": [3, 0],
        "seed": 11,
    }
    answer = client.post("/embeddings", cast_to=openai.types.CreateEmbeddingResponse, body=body)
    wanted = encoder.encode(files[0], seeds=[11]).features[0]
    assert np.array_equal(np.array(answer.data[0].model_extra["tokens"], np.float32), wanted[[3, 0]])


def test_a_bad_image_hurts_only_itself(client, files):
    bad = [uri(b"no image"), "a text", "http://127.0.0.1/x.png"]
    answer = client.embeddings.create(model="demo", input=[*bad, uri(files[0])], encoding_format="float")
    assert [each.embedding for each in answer.data[:3]] == [[]] * 3
    kinds = [each.model_extra["error"]["class"] for each in answer.data[:3]]
    assert kinds == ["ImageError", "RequestError", "RequestError"]
    assert len(answer.data[3].embedding) == 128


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("a text", "texts have no smoothed features"),
        ("http://127.0.0.1/x.png", "fetches no URLs"),
        ("data:image/png,abc", ";base64"),
        (uri(b"no image"), "wanted an image"),
    ],
)
def test_refusals_are_errors_of_the_client(client, given, message):
    with pytest.raises(openai.BadRequestError, match=message):
        client.embeddings.create(model="demo", input=given)


def test_an_unknown_model_is_not_found(client, files):
    with pytest.raises(openai.NotFoundError, match="wanted a model of this server"):
        client.embeddings.create(model="other", input=uri(files[0]))
