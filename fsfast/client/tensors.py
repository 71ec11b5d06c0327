"""Requests and answers of the Open Inference Protocol, with tensors in its binary form."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fsfast.strict_json import parse_json

HEADER_LENGTH = "Inference-Header-Content-Length"
_DTYPES = {"FP32": "<f4", "FP16": "<f2"}


def pack(
    images: Sequence[bytes], outputs: Sequence[str], parameters: Mapping[str, object]
) -> tuple[int, bytes]:
    """Return the length of a request's JSON header, and the whole body.

    Args:
        images: of one request, each the bytes of an image file.
        outputs: names of the wanted tensors.
        parameters: of the request.
    """
    tensor = b"".join(struct.pack("<I", len(image)) + image for image in images)
    header = {
        "inputs": [
            {
                "name": "image",
                "shape": [len(images)],
                "datatype": "BYTES",
                "parameters": {"binary_data_size": len(tensor)},
            }
        ],
        "outputs": [{"name": name, "parameters": {"binary_data": True}} for name in outputs],
        "parameters": dict(parameters),
    }
    text = json.dumps(header).encode()
    return len(text), text + tensor


def unpack(content: bytes, header_length: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the parameters of an answer, and its tensors by their names.

    Args:
        content: the whole body.
        header_length: bytes of its JSON header.

    Raises:
        ValueError, KeyError, TypeError: it is no such answer.
    """
    header = parse_json(content[:header_length])
    tensors, start = {}, header_length
    for output in header["outputs"]:
        size = output["parameters"]["binary_data_size"]
        values: np.ndarray = np.frombuffer(content[start : start + size], _DTYPES[output["datatype"]])
        # A copy of its own: it can be written to, and keeps the rest of the answer from staying in memory.
        tensors[output["name"]] = values.reshape(output["shape"]).copy()
        start += size
    if start != len(content):
        raise ValueError(f"wanted {start} bytes, got {len(content)}")
    return header["parameters"], tensors
