"""What the encoder sees of an image: one noisy sample, and what the purifier makes of it."""

from __future__ import annotations

import base64
import io

import numpy as np
from fastapi import APIRouter, Request
from PIL import Image

from fsfast.serve.exchange import (
    Asking,
    Body,
    described,
    facts,
    read_json,
    service_of,
    while_connected,
)
from fsfast.serve.oip import from_base64


class SampleRequest(Body):
    """An image file in base64."""

    image: str
    model: str | None = None


router = APIRouter(prefix="/v1", tags=["Samples"])


@router.post("/samples", openapi_extra=described(SampleRequest))
async def sample(request: Request, caller: Asking) -> dict[str, str | None]:
    """The image on the grid, with noise, and purified: PNG files in base64. Each time the noise is another."""
    asked = await read_json(request, SampleRequest)
    image = from_base64(asked.image, "an image file")
    facts(request).update(model=asked.model, images=1)
    grid, drawn = await while_connected(
        request, service_of(request).sample(asked.model, image, caller=caller)
    )
    return {
        "grid": _png(grid.pixels),
        "noisy": _png(drawn.noisy),
        "purified": None if drawn.purified is None else _png(np.rint(255 * drawn.purified)),
    }


def _png(levels: np.ndarray) -> str:
    """Return [H, W, 3] levels as a PNG in base64; those beyond 0 … 255 are cut off."""
    file = io.BytesIO()
    Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
