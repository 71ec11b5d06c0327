"""Certificates over HTTP: made, with their progress told as server-sent events, and replayed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import JsonValue

from fsfast.serve.exchange import (
    Asking,
    Body,
    described,
    error_content,
    facts,
    read_json,
    service_of,
    while_connected,
)
from fsfast.serve.growing import Growing, curve_of
from fsfast.serve.keys import Caller
from fsfast.serve.models import Model
from fsfast.serve.oip import from_base64
from fsfast.serve.service import Asked, Certified
from fsfast.serve.sharing import Watch


class CertificateRequest(Body):
    """An image file in base64; n samples, or epsilon (and cosine, n_max): stop as soon as it is certified there."""

    image: str
    model: str | None = None
    n: int | None = None
    alpha: float | None = None
    epsilon: float | None = None
    cosine: float | None = None
    n_max: int | None = None
    n0: int | None = None
    seed: int | None = None
    classes: bool = False
    stream: bool = False

    @property
    def asked(self) -> Asked:
        """What is asked of the certificate."""
        return Asked(**self.model_dump(exclude={"image", "model", "stream"}))


class VerificationRequest(Body):
    """An image file in base64, and the JSON document of its certificate."""

    image: str
    certificate: dict[str, JsonValue]
    model: str | None = None


router = APIRouter(prefix="/v1", tags=["Certificates"])


@router.post("/certificates", openapi_extra=described(CertificateRequest))
async def certify(request: Request, caller: Asking) -> Response:
    """Certify the direction of an image's smoothed features; `stream` tells the progress as server-sent events."""
    asked = await read_json(request, CertificateRequest)
    image = from_base64(asked.image, "an image file")
    facts(request).update(model=asked.model, images=1)
    service = service_of(request)
    if asked.stream:
        # What is plainly refused is refused with a status.
        service.check(asked.asked, caller)
        events = _events(request, asked, image, caller)
        return StreamingResponse(
            events, media_type="text/event-stream", headers={"cache-control": "no-store"}
        )
    found = await while_connected(request, service.certify(asked.model, image, asked.asked, caller=caller))
    return JSONResponse(await asyncio.to_thread(_record, found))


@router.post("/verifications", openapi_extra=described(VerificationRequest))
async def verify(request: Request, caller: Asking) -> dict[str, Any]:
    """Replay a certificate, and say whether every bit is the same."""
    asked = await read_json(request, VerificationRequest)
    image = from_base64(asked.image, "an image file")
    facts(request).update(model=asked.model, images=1)
    found = await while_connected(
        request, service_of(request).verify(asked.model, image, asked.certificate, caller=caller)
    )
    return asdict(found)


def _record(found: Certified) -> dict[str, Any]:
    """Return a certificate as its file has it, and what it says of the class."""
    certificate = found.certificate
    record = {
        "certificate": certificate.to_record(),
        "curve": curve_of(certificate),
        "function_id": found.function_id,
    }
    if found.prediction is not None:
        record["class"] = asdict(found.prediction)
    return record


async def _events(
    request: Request, asked: CertificateRequest, image: bytes, caller: Caller
) -> AsyncIterator[str]:
    """Yield the progress of a certificate and then the certificate, or the error; who leaves cancels it."""
    made: asyncio.Future[Growing] = asyncio.get_running_loop().create_future()

    def watch(model: Model) -> Watch:
        made.set_result(Growing(model.encoder, asked.asked.plan))
        return made.result().watch

    task = asyncio.ensure_future(
        service_of(request).certify(asked.model, image, asked.asked, caller=caller, watch=watch)
    )
    following: asyncio.Future[Any] = made
    try:
        while not task.done():
            await asyncio.wait((task, following), return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                news = made.result().state() if following is made else following.result()
                yield _event("progress", news)
                following = asyncio.ensure_future(made.result().news())
        yield _event("certificate", await asyncio.to_thread(_record, task.result()))
    except Exception as error:
        status, content = error_content(request, error)
        yield _event("error", {**content, "status": status})
    finally:
        for each in (task, following):
            each.cancel()


def _event(kind: str, content: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(content, ensure_ascii=False)}\n\n"
