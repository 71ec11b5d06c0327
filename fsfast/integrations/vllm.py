"""Features for vLLM: parts of a chat for a server without a vision tower, and files of its encoder cache."""

from __future__ import annotations

import base64
import io
import os
import re
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors.numpy import save_file

from fsfast.files import replacing
from fsfast.integrations.cache_ids import cache_id
from fsfast.integrations.projector import Projector
from fsfast.runtime.features import SmoothedFeatures

__all__ = ["cache_id", "chat_part", "image_embeds", "write_encoder_cache"]

# A name in every file system, and one that leads nowhere else.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
# Of vLLM's ECExampleConnector, in a folder for each id.
_CACHE_FILE, _CACHE_KEY = "encoder_cache.safetensors", "ec_cache"


def image_embeds(out: SmoothedFeatures, projector: Projector) -> np.ndarray:
    """Return what the language model reads of each image: [B, L, hidden] float32.

    Args:
        out: of `SmoothedEncoder.encode` or `fsfast.Client.encode`.
        projector: of the LLaVA that is to read them.

    Raises:
        ValueError: pooled features, features of another width, or numbers that are not finite (vLLM takes those, and
            answers with nonsense).
    """
    if out.features.ndim != 3:
        raise ValueError(
            f"wanted features of tokens [B, L, D], got pooled ones {list(out.features.shape)}; export the engine with "
            'output = "penultimate"'
        )
    embeds = projector(out.features)
    for one in embeds:
        _check(one)
    return embeds


def chat_part(
    embeds: np.ndarray, uuid: str, dtype: Literal["float32", "float16"] = "float32"
) -> dict[str, str]:
    """Return the content part of OpenAI's chat messages with which vLLM takes an image that is already embedded.

    Args:
        embeds: [L, hidden] of one image, from `image_embeds`.
        uuid: of `cache_id`: vLLM answers from its caches where it has seen it, whatever the numbers are.
        dtype: as which they travel; float16 halves the body, and is what a server in half precision rounds them to.

    Raises:
        ValueError: another shape, numbers that are not finite (as dtype), or a uuid that is no name.
    """
    with np.errstate(over="ignore"):
        rounded = _check(embeds).astype(dtype)
    if not np.isfinite(rounded).all():
        largest = np.abs(embeds).max()
        raise ValueError(f"wanted numbers that {dtype} holds, got some up to {largest:g}; send float32")
    np.save(body := io.BytesIO(), rounded, allow_pickle=False)
    text = base64.b64encode(body.getvalue()).decode()
    return {"type": "image_embeds", "image_embeds": text, "uuid": _name(uuid)}


def write_encoder_cache(folder: str | os.PathLike[str], uuid: str, embeds: np.ndarray) -> Path:
    """Write an image into the shared folder of vLLM's ECExampleConnector, whole or not at all.

    This way fails open, and warns: a consumer that finds no file runs its own tower *without smoothing*, silently.
    Where that must not happen send `chat_part` to a server without a tower.

    Args:
        folder: `shared_storage_path` of the consumer.
        uuid: of `cache_id`; the request's image part names it.
        embeds: [L, hidden] of one image, from `image_embeds`.

    Returns: the file.

    Raises:
        ValueError: another shape, numbers that are not finite, or a uuid that is no name.
        OSError: it cannot be written.
    """
    path, array = Path(folder) / _name(uuid) / _CACHE_FILE, _check(embeds)
    warnings.warn(
        "vLLM runs its own tower without smoothing where a file is missing; safe are parts for a server without one",
        stacklevel=2,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file({_CACHE_KEY: np.ascontiguousarray(array)}, temporary)
    return path


def _check(embeds: np.ndarray) -> np.ndarray:
    """Return [L, hidden] float32, finite; raises ValueError."""
    array = np.asarray(embeds, np.float32)
    if array.ndim != 2 or array.size == 0:
        shape = list(array.shape)
        raise ValueError(
            f"wanted the embeddings of one image [L, hidden], got {shape}; make a part per image"
        )
    if wrong := array.size - int(np.isfinite(array).sum()):
        raise ValueError(
            f"wanted finite embeddings, got {wrong} of {array.size} NaN or infinite; check engine and projector"
        )
    return array


def _name(uuid: str) -> str:
    if not _ID.fullmatch(uuid):
        raise ValueError(f"wanted a uuid of letters, digits, '.', '_', '-', got {uuid[:80]!r}; take cache_id")
    return uuid
