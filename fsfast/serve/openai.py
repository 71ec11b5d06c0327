"""Embeddings of images as OpenAI's clients ask for them: in infinity's way (input) or in vLLM's (messages)."""

from __future__ import annotations

import asyncio
import base64
import time
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from pydantic import Field, JsonValue

from fsfast.errors import FsfastError
from fsfast.serve.errors import RequestError
from fsfast.serve.exchange import (
    Asking,
    Body,
    described,
    facts,
    read_json,
    service_of,
    while_connected,
)
from fsfast.serve.oip import error_record, from_base64, raise_if_all_failed
from fsfast.serve.remote import Remote
from fsfast.serve.service import Answer, Item

Encoding = Literal["float", "base64"]


class ImageURL(Body):
    """A data URI, or a URL of a host that the server is allowed to ask."""

    url: str
    detail: str | None = None


class Part(Body):
    """A part of a message: an image."""

    type: Literal["image_url"]
    image_url: ImageURL | str
    uuid: str | None = None


class Message(Body):
    """A message of vLLM's way."""

    role: str
    content: list[Part]


class EmbeddingRequest(Body):
    """Images as data URIs; `tokens` asks for the patch tokens at these places, too."""

    model: str | None = None
    input: str | list[str] | None = None
    messages: list[Message] | None = None
    encoding_format: Encoding = "float"
    modality: Literal["image"] = "image"
    dimensions: int | None = None
    user: str | None = None
    tokens: list[int] = Field(default_factory=list)
    n0: int | None = None
    seed: int | None = None

    @property
    def images(self) -> list[str]:
        """The URIs; raises RequestError where there are none, or two lists of them."""
        if (self.input is None) == (self.messages is None):
            raise RequestError("wanted images as 'input', data URIs, or as 'messages' with image_url parts")
        if self.input is not None:
            return [self.input] if isinstance(self.input, str) else self.input
        parts = [part.image_url for message in self.messages or () for part in message.content]
        if len(parts) != 1:
            raise RequestError(f"wanted one image in the messages, got {len(parts)}; several go into 'input'")
        return [part if isinstance(part, str) else part.url for part in parts]


router = APIRouter(tags=["OpenAI"])


@router.get("/v1/models")
async def models(request: Request, _: Asking) -> dict[str, Any]:
    """The models that are served."""
    now = int(time.time())
    names = service_of(request).models.names
    return {
        "object": "list",
        "data": [{"id": name, "object": "model", "created": now, "owned_by": "fsfast"} for name in names],
    }


@router.post("/v1/embeddings", openapi_extra=described(EmbeddingRequest))
async def embeddings(request: Request, caller: Asking) -> dict[str, Any]:
    """A vector per image: the pooled feature, or the mean of the patch tokens."""
    service, remote = service_of(request), request.app.state.remote
    asked = await read_json(request, EmbeddingRequest)
    uris = asked.images
    service.limits.check_images(len(uris))
    facts(request).update(model=asked.model, images=len(uris))
    seeds = None if asked.seed is None else [asked.seed] * len(uris)

    async def encoded() -> Answer:
        files = await asyncio.gather(*[_file_or_error(uri, remote) for uri in uris])
        return await service.encode(asked.model, files, asked.n0, seeds, caller=caller)

    answer = await while_connected(request, encoded())
    raise_if_all_failed(answer)
    encoder = answer.model.encoder
    _check(asked, answer)
    return {
        "object": "list",
        "data": [_record(asked, item, i) for i, item in enumerate(answer.items)],
        "model": answer.model.name,
        "usage": {"prompt_tokens": 0, "total_tokens": 0},
        "function_id": encoder.function_id,
        "engine_digest": encoder.engine_digest,
        "n0": answer.n0,
        "key_id": answer.key_id,
    }


def _check(asked: EmbeddingRequest, answer: Answer) -> None:
    encoder = answer.model.encoder
    if asked.dimensions not in (None, encoder.dim):
        raise RequestError(
            f"wanted dimensions of {encoder.dim}, which the engine has, got {asked.dimensions}"
        )
    if asked.tokens and (
        encoder.manifest.pooled or not all(0 <= place < encoder.tokens for place in asked.tokens)
    ):
        raise RequestError(f"wanted tokens as places in 0…{encoder.tokens - 1}, got {asked.tokens}")


async def _file_or_error(uri: str, remote: Remote | None) -> bytes | FsfastError:
    """Return an image file, or why there is none: it hurts only itself."""
    try:
        return await _file_of(uri, remote)
    except FsfastError as error:
        return error


async def _file_of(uri: str, remote: Remote | None) -> bytes:
    """Return an image file; raises RequestError, NotAllowed."""
    if uri.startswith("data:"):
        kind, _, text = uri.partition(",")
        if not kind.endswith(";base64"):
            raise RequestError("wanted images as data:image/…;base64,…")
        return from_base64(text, "an image")
    if uri.startswith(("http://", "https://")):
        if remote is None:
            raise RequestError(
                "this server fetches no URLs; send the image itself as data:image/…;base64,…, or start the server "
                "with --fetch-from HOST"
            )
        return await remote.fetch(uri)
    raise RequestError("wanted images as data:image/…;base64,…; texts have no smoothed features")


def _record(asked: EmbeddingRequest, item: Item, index: int) -> dict[str, Any]:
    """Return what the answer says of one image."""
    record: dict[str, Any] = {"object": "embedding", "index": index}
    if item.features is None:
        return record | {"embedding": [], "error": error_record(item.error)}
    feature = item.features.features[0]
    vector = feature if feature.ndim == 1 else feature.mean(0, dtype=np.float64).astype(np.float32)
    record["embedding"] = _encoded(vector, asked.encoding_format)
    if asked.tokens:
        record["tokens"] = [_encoded(feature[place], asked.encoding_format) for place in asked.tokens]
    if item.certified is not None:
        record["certified"] = item.certified
    seed, origin = int(item.features.seeds[0]), item.features.seed_origins[0]
    return record | {"seed": seed, "seed_origin": origin, "grid_sha256": item.features.grid_sha256[0]}


def _encoded(vector: np.ndarray, encoding: Encoding) -> JsonValue:
    if encoding == "float":
        values: JsonValue = vector.tolist()
        return values
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
