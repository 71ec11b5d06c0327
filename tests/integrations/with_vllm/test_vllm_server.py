"""A server without a tower: it answers to features that were smoothed elsewhere, and to nothing else that is seen."""

from __future__ import annotations

import base64
import io
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from fsfast.integrations.vllm import cache_id, chat_part

pytest.importorskip("vllm", reason="make vllm has an environment for these")

from tests.integrations.with_vllm.tiny_llava import IMAGE_TOKEN, NEW_TOKENS, pictures


@pytest.fixture(scope="module")
def server(llava, tmp_path_factory):
    """The address of a server that has no tower."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--enable-mm-embeds", "--limit-mm-per-prompt", '{"image": 0}', "--served-model-name", "llava"]
    options += ["--dtype", "float32", "--max-model-len", "96", "--enforce-eager", "--max-num-seqs", "4"]
    log = tmp_path_factory.mktemp("server") / "log"
    module = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(llava)]
    line = [sys.executable, *module, "--host", "127.0.0.1", "--port", str(port), *options]
    with log.open("wb") as out, subprocess.Popen(line, stdout=out, stderr=out) as process:
        url = f"http://127.0.0.1:{port}"
        while not _healthy(url):
            assert process.poll() is None, log.read_text()[-8000:]
            time.sleep(1)
        yield url
        process.terminate()


def _healthy(url):
    try:
        return urllib.request.urlopen(f"{url}/health", timeout=5).status == 200
    except OSError:
        return False


def ask(url, part):
    """Return status and body of a chat with one image."""
    content = [part, {"type": "text", "text": "word1 word2"}]
    body = {
        "model": "llava",
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": NEW_TOKENS,
        "logit_bias": {str(IMAGE_TOKEN): -100},
        "return_token_ids": True,
    }
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def said(url, part):
    status, body = ask(url, part)
    assert status == 200, body
    return body["choices"][0]["token_ids"]


def test_clean_features_are_answered_as_transformers_answers_pictures(server, embeddings, reference):
    out, embeds = embeddings["clean"]
    texts = [said(server, chat_part(one, cache_id(out, i))) for i, one in enumerate(embeds)]
    assert texts == reference.texts()


def test_smoothed_features_are_answered_as_transformers_answers_them(server, embeddings, reference):
    """After the clean ones of the same pictures: their answers do not come from a cache."""
    out, embeds = embeddings["smoothed"]
    wanted = reference.texts_of(embeds)
    assert wanted != reference.texts()
    names = [cache_id(out, i) for i in range(len(out))]
    for _ in range(2):
        texts = [said(server, chat_part(one, name)) for one, name in zip(embeds, names, strict=True)]
        assert texts == wanted


def test_float16_is_taken(server, embeddings, reference):
    out, embeds = embeddings["smoothed"]
    part = chat_part(embeds[0], cache_id(out) + "-float16", "float16")
    wanted = reference.texts_of(embeds.astype("float16").astype("float32"))[0]
    assert said(server, part) == wanted


def test_a_picture_is_refused(server):
    """There is nothing that could see it without smoothing."""
    file = io.BytesIO()
    pictures()[0].save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    status, body = ask(server, {"type": "image_url", "image_url": {"url": url}})
    assert status == 400, body
    assert "image" in json.dumps(body)


def test_features_that_are_not_projected_are_refused(server, embeddings):
    out, _ = embeddings["smoothed"]
    status, body = ask(server, chat_part(out.features[0], cache_id(out) + "-unprojected"))
    assert status == 400, body
