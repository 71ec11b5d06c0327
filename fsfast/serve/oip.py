"""KServe v2, the Open Inference Protocol, over HTTP, with tensors as JSON or in binary form."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field, JsonValue

from fsfast._version import __version__
from fsfast.errors import did_you_mean
from fsfast.serve.errors import RequestError, UnknownModel
from fsfast.serve.exchange import (
    Asking,
    Body,
    apart,
    described,
    facts,
    parsed,
    read_body,
    service_of,
    while_connected,
)
from fsfast.serve.keys import Caller
from fsfast.serve.models import Model
from fsfast.serve.service import Answer, Service

HEADER_LENGTH = "inference-header-content-length"
VERSION = "1"
OUTPUTS = ("features", "unit", "tokens")
_DTYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "FP16": np.dtype("<f2")}
# Those of requests that are ours, and those of Triton's clients that change nothing here.
_OURS = ("n0", "seed", "tokens", "timeout", "binary_data_output")
_IGNORED = ("priority", "sequence_id", "sequence_start", "sequence_end")

Parameters = dict[str, JsonValue]


class Input(Body):
    """A tensor that comes with a request; its values as JSON, or behind it in binary form."""

    name: str
    shape: list[int]
    datatype: str
    data: JsonValue = None
    parameters: Parameters = Field(default_factory=dict)


class Output(Body):
    """A tensor that is asked for: features, unit or tokens; parameters datatype (FP32, FP16) and binary_data."""

    name: str
    parameters: Parameters = Field(default_factory=dict)


class InferRequest(Body):
    """Images in; parameters n0, seed (one for all, or a list as text), tokens ("0,5,7"), timeout (microseconds)."""

    id: str = ""
    inputs: list[Input]
    outputs: list[Output] = Field(default_factory=list)
    parameters: Parameters = Field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """What a request asks for, whatever the protocol that carried it.

    Attributes:
        n0: samples per image, or None.
        seeds: one per image, or None.
        tokens: places of the output "tokens".
        deadline: seconds, or None.
    """

    n0: int | None
    seeds: list[int] | None
    tokens: list[int]
    deadline: float | None


def wanted(parameters: Mapping[str, Any], images: int) -> Wanted:
    """Read the parameters of a request; raises RequestError."""
    for name in parameters:
        if name not in _OURS + _IGNORED:
            raise RequestError(
                f"wanted parameters of {', '.join(_OURS)}, got {name!r}{did_you_mean(name, _OURS)}"
            )
    n0, seed, timeout = (parameters.get(name) for name in ("n0", "seed", "timeout"))
    seeds = None if seed is None else _integers(seed, "seed")
    if seeds is not None and len(seeds) == 1:
        seeds *= images
    return Wanted(
        n0=None if n0 is None else _integer(n0, "n0"),
        seeds=seeds,
        tokens=_integers(parameters.get("tokens", ""), "tokens"),
        deadline=None if not timeout else _integer(timeout, "timeout") / 1e6,
    )


def _integers(value: Any, name: str) -> list[int]:
    """Read one integer, or several with commas between them."""
    if not isinstance(value, str):
        return [_integer(value, name)]
    return [_integer(part.strip(), name) for part in value.split(",")] if value else []


def _integer(value: Any, name: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        return int(value, 0) if isinstance(value, str) else int(value, base=10)
    except (ValueError, TypeError):
        raise RequestError(f"wanted an integer as {name}, got {value!r}") from None


def images_of(shape: Sequence[int], datatype: str, values: Sequence[bytes] | np.ndarray) -> list[Any]:
    """Return the images of the input `image`; raises RequestError.

    Args:
        shape: as stated.
        datatype: BYTES or UINT8.
        values: encoded images, or levels, flat.
    """
    if datatype == "BYTES":
        if len(shape) not in (1, 2) or int(np.prod(shape)) != len(values):
            raise RequestError(
                f"wanted BYTES of shape [B], one image file each, got {list(shape)} and {len(values)}"
            )
        return list(values)
    if len(shape) != 4 or shape[-1] != 3 or min(shape) < 1 or int(np.prod(shape)) != len(values):
        raise RequestError(f"wanted UINT8 of shape [B, H, W, 3], got {list(shape)} and {len(values)} values")
    return list(np.asarray(values, np.uint8).reshape(shape))


def split_bytes(content: bytes) -> list[bytes]:
    """Return the elements of a BYTES tensor in binary form; raises RequestError."""
    elements, place = [], 0
    while place < len(content):
        if place + 4 > len(content):
            raise RequestError("the BYTES tensor is cut off")
        (size,) = struct.unpack_from("<I", content, place)
        place += 4
        if place + size > len(content):
            raise RequestError("the BYTES tensor is cut off, or the length of an element is wrong")
        elements.append(content[place : place + size])
        place += size
    return elements


def tensor_of(answer: Answer, name: str, tokens: Sequence[int], datatype: str) -> np.ndarray:
    """Return an output; raises RequestError.

    Args:
        answer: of the service.
        name: of OUTPUTS.
        tokens: places, for "tokens".
        datatype: FP32 or FP16.
    """
    if name not in OUTPUTS:
        raise RequestError(
            f"wanted outputs of {', '.join(OUTPUTS)}, got {name!r}{did_you_mean(name, OUTPUTS)}"
        )
    if datatype not in _DTYPES:
        raise RequestError(f"wanted FP32 or FP16 as datatype of an output, got {datatype!r}")
    values = answer.stacked("unit" if name == "unit" else "features")
    if name == "tokens":
        most = answer.model.encoder.tokens
        if values.ndim != 3 or not tokens or not all(0 <= place < most for place in tokens):
            raise RequestError(
                f"wanted the parameter tokens as places in 0…{most - 1} of tokens, got {list(tokens)}"
            )
        values = values[:, list(tokens)]
    return values.astype(_DTYPES[datatype])


def told(answer: Answer) -> dict[str, str | int | float]:
    """Return the parameters of an answer: what it is, and what became of each image; lists as JSON."""
    manifest, items = answer.model.encoder.manifest, answer.items
    found = [item.features for item in items]
    lists: dict[str, list[Any]] = {
        "seeds": [None if each is None else int(each.seeds[0]) for each in found],
        "seed_origins": [None if each is None else each.seed_origins[0] for each in found],
        "grid_sha256": [None if each is None else each.grid_sha256[0] for each in found],
        "sources": [None if each is None else each.sources[0] for each in found],
        "errors": [error_record(item.error) for item in items],
    }
    if answer.model.policy is not None:
        lists["certified"] = [item.certified for item in items]
    return {
        "function_id": answer.model.encoder.function_id,
        "engine": manifest.name,
        "engine_digest": answer.model.encoder.engine_digest,
        "random_weights": manifest.random_weights,
        "sigma": manifest.sigma,
        "n0": answer.n0,
        **({} if answer.key_id is None else {"key_id": answer.key_id}),
        **{name: json.dumps(values) for name, values in lists.items()},
    }


def error_record(error: Exception | None) -> dict[str, str] | None:
    """Return why an image failed."""
    return None if error is None else {"class": type(error).__name__, "message": str(error)}


def metadata(model: Model) -> dict[str, Any]:
    """Return what the protocol says of a model."""
    encoder = model.encoder
    shape = [-1, encoder.dim] if encoder.manifest.pooled else [-1, encoder.tokens, encoder.dim]
    return {
        "name": model.name,
        "versions": [VERSION],
        "platform": "fsfast",
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {
                "name": name,
                "datatype": "FP32",
                "shape": [*shape[:-2], -1, shape[-1]] if name == "tokens" else shape,
            }
            for name in (OUTPUTS[:2] if encoder.manifest.pooled else OUTPUTS)
        ],
        "parameters": {
            "function_id": encoder.function_id,
            "engine": encoder.manifest.name,
            "engine_digest": encoder.engine_digest,
            "sigma": encoder.sigma,
            "n0": encoder.n0,
            "grid": encoder.grid.to_record(),
            "classes": list(encoder.classes.names) if encoder.classes else None,
            "random_weights": encoder.manifest.random_weights,
        },
    }


SERVER = {
    "name": "fsfast",
    "version": __version__,
    "extensions": ["binary_tensor_data", "model_repository", "parameters"],
}

router = APIRouter(tags=["Open Inference Protocol"])


@router.get("/v2")
async def server() -> dict[str, Any]:
    """The server's name, version and extensions."""
    return SERVER


@router.get("/v2/health/live")
async def live(request: Request) -> Response:
    """200 while the engines' threads are there."""
    return _health(service_of(request).live, "live")


@router.get("/v2/health/ready")
async def ready(request: Request) -> Response:
    """200 after self-tests and warm-up, until the server stops."""
    return _health(service_of(request).ready, "ready")


def _health(good: bool, what: str) -> Response:
    return JSONResponse({what: good}, 200 if good else 503)


@router.get("/v2/models/{name}")
@router.get("/v2/models/{name}/versions/{version}")
async def model(request: Request, name: str, _: Asking, version: str = VERSION) -> dict[str, Any]:
    """A model's tensors, and the function that it computes."""
    check_version(version)
    async with service_of(request).models.use(name) as used:
        return metadata(used)


@router.get("/v2/models/{name}/ready")
@router.get("/v2/models/{name}/versions/{version}/ready")
async def model_ready(request: Request, name: str, version: str = VERSION) -> Response:
    """200 while the model is open."""
    check_version(version)
    service = service_of(request)
    return _health(service.ready and service.models.ready(name), "ready")


def check_version(version: str) -> None:
    """Refuse another version than the only one; raises UnknownModel."""
    if version != VERSION:
        raise UnknownModel(f"wanted version {VERSION}, the only one there is, got {version!r}")


@router.post("/v2/models/{name}/infer", openapi_extra=described(InferRequest))
@router.post("/v2/models/{name}/versions/{version}/infer", openapi_extra=described(InferRequest))
async def infer(request: Request, name: str, caller: Asking, version: str = VERSION) -> Response:
    """Smoothed features of images: encoded files (BYTES [B]) or levels (UINT8 [B, H, W, 3]) in, FP32 or FP16 out."""
    check_version(version)
    body = await read_body(request)
    asked, images = await apart(len(body), _unpacked, body, request.headers.get(HEADER_LENGTH))
    what = wanted(asked.parameters, len(images))
    facts(request).update(model=name, images=len(images))
    answer = await while_connected(
        request,
        service_of(request).encode(name, images, what.n0, what.seeds, caller=caller, deadline=what.deadline),
    )
    raise_if_all_failed(answer)
    if all(_is_binary(asked, each) for each in _outputs(asked)):
        return _packed(asked, what, answer)
    # Numbers as text take a hundred times as long.
    return await asyncio.to_thread(_packed, asked, what, answer)


def raise_if_all_failed(answer: Answer) -> None:
    """Raise the first image's error where no image is left."""
    errors = [item.error for item in answer.items if item.error is not None]
    if len(errors) == len(answer.items):
        raise errors[0]


def _unpacked(body: bytes, header_length: str | None) -> tuple[InferRequest, list[Any]]:
    """Return a request, and its images; raises RequestError."""
    end = len(body)
    if header_length is not None:
        if not header_length.isdecimal() or int(header_length) > len(body):
            raise RequestError(
                f"wanted the length of the JSON part in {HEADER_LENGTH}, got {header_length!r}"
            )
        end = int(header_length)
    asked = parsed(body[:end], InferRequest)
    if len(asked.inputs) != 1 or asked.inputs[0].name != "image":
        names = [each.name for each in asked.inputs]
        raise RequestError(f"wanted one input with the name 'image', got {names}")
    image, rest = asked.inputs[0], body[end:]
    if image.datatype not in ("BYTES", "UINT8"):
        raise RequestError(f"wanted the datatype BYTES or UINT8, got {image.datatype!r}")
    size = image.parameters.get("binary_data_size")
    values: Any
    if size is not None:
        if size != len(rest) or image.data is not None:
            raise RequestError(
                f"wanted {size} bytes behind the JSON part, and no data in it, got {len(rest)} bytes"
            )
        values = split_bytes(rest) if image.datatype == "BYTES" else np.frombuffer(rest, np.uint8)
    elif rest:
        raise RequestError(f"{len(rest)} bytes follow the JSON part, and no input has a binary_data_size")
    else:
        values = _from_json(image)
    return asked, images_of(image.shape, image.datatype, values)


def _from_json(image: Input) -> Sequence[bytes] | np.ndarray:
    """Return the values of a tensor whose data is JSON: files in base64, or levels."""
    if not isinstance(image.data, list):
        raise RequestError("wanted data as a list, or in binary form behind the JSON part")
    if image.datatype == "BYTES":
        return [from_base64(text, "an image") for text in image.data]
    try:
        levels = np.asarray(image.data)
    except ValueError:
        levels = np.empty(0, object)
    if levels.dtype.kind != "i" or (levels.size and not 0 <= levels.min() <= levels.max() <= 255):
        raise RequestError("wanted levels 0 … 255 as data of a UINT8 tensor")
    return levels.astype(np.uint8).ravel()


def from_base64(text: object, what: str) -> bytes:
    """Return the bytes that a text stands for; raises RequestError."""
    try:
        if not isinstance(text, str):
            raise ValueError
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise RequestError(f"wanted {what} in base64") from None


def _outputs(asked: InferRequest) -> list[Output]:
    return asked.outputs or [Output(name="features")]


def _is_binary(asked: InferRequest, output: Output) -> bool:
    return bool(output.parameters.get("binary_data", asked.parameters.get("binary_data_output", False)))


def _packed(asked: InferRequest, what: Wanted, answer: Answer) -> Response:
    """Return the response, each tensor in the form that was asked for."""
    outputs, tensors = [], []
    for each in _outputs(asked):
        datatype = each.parameters.get("datatype", "FP32")
        values = tensor_of(answer, each.name, what.tokens, str(datatype))
        record: dict[str, Any] = {"name": each.name, "datatype": datatype, "shape": list(values.shape)}
        if _is_binary(asked, each):
            tensors.append(values.tobytes())
            record["parameters"] = {"binary_data_size": len(tensors[-1])}
        else:
            # JSON knows no NaN.
            flat = values.ravel().tolist()
            record["data"] = flat if np.isfinite(values).all() else [None if v != v else v for v in flat]
        outputs.append(record)
    header: dict[str, Any] = {"model_name": answer.model.name, "model_version": VERSION}
    if asked.id:
        header["id"] = asked.id
    header |= {"parameters": told(answer), "outputs": outputs}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    if not tensors:
        return Response(text, media_type="application/json")
    return Response(
        b"".join([text, *tensors]),
        media_type="application/octet-stream",
        headers={HEADER_LENGTH: str(len(text))},
    )


@router.post("/v2/repository/index")
async def index(request: Request, _: Asking) -> list[dict[str, str]]:
    """The models, and which of them are open."""
    models = service_of(request).models
    return [
        {"name": name, "version": VERSION, "state": models.state(name), "reason": ""} for name in models.names
    ]


@router.post("/v2/repository/models/{name}/load")
async def load(request: Request, name: str, caller: Asking) -> Response:
    """Open a model, or open it anew; needs a key with the right admin."""
    await _administrated(request, caller).models.load(name)
    return JSONResponse({})


@router.post("/v2/repository/models/{name}/unload")
async def unload(request: Request, name: str, caller: Asking) -> Response:
    """Close a model until it is loaded again; needs a key with the right admin."""
    await _administrated(request, caller).models.unload(name)
    return JSONResponse({})


def _administrated(request: Request, caller: Caller) -> Service:
    caller.require("admin")
    return service_of(request)
