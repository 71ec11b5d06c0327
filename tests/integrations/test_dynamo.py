"""Dynamo's own driver, batcher and adapter with an engine for a custom encoder; a worker is not started."""

from __future__ import annotations

import asyncio
import base64
import io
from types import SimpleNamespace

import numpy as np
import pytest

custom_encoder = pytest.importorskip("dynamo.vllm.multimodal_utils.custom_encoder")

import torch  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from fsfast.errors import EngineError, ImageError  # noqa: E402
from fsfast.integrations.dynamo import SmoothedBackend  # noqa: E402
from fsfast.integrations.projector import Projector  # noqa: E402
from fsfast.integrations.settings import Settings  # noqa: E402
from fsfast.integrations.vllm import image_embeds  # noqa: E402
from tests.integrations.narrow_engines import IMAGES  # noqa: E402
from tests.models.published import write_json  # noqa: E402

HIDDEN, IMAGE_TOKEN = 48, 99


def uri(image):
    Image.fromarray(image).save(file := io.BytesIO(), "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


URIS = [uri(image) for image in IMAGES]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("llava")
    draw = torch.Generator().manual_seed(0)
    shapes = {"linear_1": (HIDDEN, 32), "linear_2": (HIDDEN, HIDDEN)}
    weights = {f"multi_modal_projector.{n}.weight": torch.randn(s, generator=draw) for n, s in shapes.items()}
    biases = {f"multi_modal_projector.{n}.bias": torch.randn(HIDDEN, generator=draw) for n in shapes}
    save_file(weights | biases, path / "model.safetensors")
    return path


@pytest.fixture
def eyes(narrow, checkpoint, monkeypatch):
    """A class as its users write it."""
    monkeypatch.setenv("FSFAST_SECRET", "0123456789abcdef")
    encoder = narrow("penultimate")

    class Eyes(SmoothedBackend):
        settings = Settings(str(encoder.engine_path), digest=encoder.engine_digest, n0=3)
        projector = str(checkpoint)
        image_token_id = IMAGE_TOKEN
        dtype = "bfloat16"

    return Eyes


@pytest.fixture
def driver():
    """Loads a backend as Dynamo's worker does, and shuts it down."""
    drivers = []

    def load(backend):
        drivers.append(custom_encoder.AsyncVisionEncoder(backend))
        drivers[-1].load("the language model")
        return drivers[-1]

    yield load
    for each in drivers:
        each.shutdown()


def wanted(eyes, images):
    with eyes.settings.open() as encoder:
        embeds = image_embeds(encoder.encode(images, 3), Projector.from_checkpoint(eyes.projector))
    return torch.from_numpy(embeds).bfloat16()


def test_embeddings_are_those_of_the_encoder(eyes, driver):
    got = asyncio.run(driver(eyes()).encode(URIS))
    assert torch.equal(torch.stack(got), wanted(eyes, IMAGES))


def test_they_reach_the_prompt(eyes, driver):
    """By the adapter that Dynamo chooses for a language model without a tower of its own."""
    backend = eyes()
    model = SimpleNamespace(dtype=torch.bfloat16, get_hidden_size=lambda: HIDDEN, is_multimodal_model=False)
    adapter = custom_encoder.create_custom_encoder_adapter(
        backend, model, SimpleNamespace(enable_prompt_embeds=True)
    )
    artifacts = asyncio.run(driver(backend).encode(URIS[:2]))
    prompt = adapter.prepare_prompt([1, IMAGE_TOKEN, 2, IMAGE_TOKEN], artifacts)
    assert prompt["prompt_token_ids"] == [1, *[IMAGE_TOKEN] * 9, 2, *[IMAGE_TOKEN] * 9]
    rows = torch.cat([prompt["prompt_embeds"][1:10], prompt["prompt_embeds"][11:]])
    assert torch.equal(rows, wanted(eyes, IMAGES[:2]).flatten(0, 1))


def test_requests_share_batches_of_so_many_rows(eyes, driver):
    seen = []

    class Watched(eyes):
        max_batch_cost = 6

        def forward_batch(self, items, target_bucket=None):
            seen.append(len(items))
            return super().forward_batch(items, target_bucket)

    loaded = driver(Watched())

    async def together():
        return await asyncio.gather(*(loaded.encode([one]) for one in URIS * 2))

    got = asyncio.run(together())
    # Six rows are two images of n0 = 3.
    assert max(seen) == 2
    assert sum(seen) == 6
    assert torch.equal(torch.cat([one for (one,) in got[:3]]).reshape(3, 9, HIDDEN), wanted(eyes, IMAGES))


def test_an_image_may_cost_more_than_a_batch(eyes, driver):
    class Costly(eyes):
        max_batch_cost = 2

    backend = Costly()
    assert backend.max_batch_cost == 3
    assert len(asyncio.run(driver(backend).encode(URIS))) == 3


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("http://example.com/cat.png", "nothing is fetched here"),
        ("file:///etc/passwd", "nothing is fetched here"),
        ("data:image/png;base64,!!!", "no base64"),
        ("data:image/png;base64,aGVsbG8=", "wanted"),
    ],
)
def test_a_bad_image_is_the_clients_fault_alone(raw, message, eyes, driver):
    """ValueError is what Dynamo answers with status 400; nothing of the request is computed."""
    calls = []

    class Watched(eyes):
        def forward_batch(self, items, target_bucket=None):
            calls.append(items)
            return super().forward_batch(items, target_bucket)

    loaded = driver(Watched())
    with pytest.raises(ValueError, match=message) as caught:
        asyncio.run(loaded.encode([URIS[0], raw]))
    assert isinstance(caught.value, ImageError)
    assert not calls
    assert "/engines" not in str(caught.value)
    assert len(asyncio.run(loaded.encode(URIS[:1]))) == 1


def test_numbers_that_are_not_finite_are_no_clients_fault(eyes, driver, monkeypatch):
    backend = eyes()
    loaded = driver(backend)
    broken = tuple((np.full_like(weight, np.nan), bias) for weight, bias in backend._projector.layers)
    monkeypatch.setattr(backend, "_projector", Projector(broken))
    with pytest.raises(EngineError, match="do not reach the language model"):
        asyncio.run(loaded.encode(URIS[:1]))


def test_without_an_engine_the_worker_does_not_start(eyes, narrow, driver, monkeypatch, tmp_path):
    with pytest.raises(
        EngineError, match="wanted settings, projector, image_token_id in the class SmoothedBackend"
    ):
        SmoothedBackend()
    for engine, digest, message in (
        (str(tmp_path / "none"), None, "none"),
        (eyes.settings.engine, "00ff", "wanted the engine with digest 00ff"),
        (str(narrow("tokens").engine_path), None, "layer: wanted penultimate, found tokens"),
        (str(narrow("pooled").engine_path), None, "layer: wanted penultimate, found pooled"),
    ):
        monkeypatch.setattr(eyes, "settings", Settings(engine, digest=digest))
        with pytest.raises(EngineError, match=message):
            eyes()


def test_without_a_secret_the_worker_does_not_start(eyes, driver, monkeypatch):
    monkeypatch.delenv("FSFAST_SECRET")
    with pytest.raises(EngineError, match="wanted a secret in FSFAST_SECRET"):
        driver(eyes())


def test_the_layer_is_the_projectors(eyes, checkpoint, tmp_path, narrow, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes())
    monkeypatch.setattr(eyes, "projector", str(tmp_path))
    write_json(tmp_path / "config.json", {"vision_feature_layer": -1})
    with pytest.raises(EngineError, match="layer: wanted tokens, found penultimate"):
        eyes()
    write_json(tmp_path / "config.json", {"vision_feature_select_strategy": "full"})
    with pytest.raises(EngineError, match="class token: wanted one"):
        eyes()
