"""A server's answers: features of images, and errors as the exceptions that the encoder raises for the same reasons."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from fsfast import errors
from fsfast.client.images import Encoded
from fsfast.errors import FsfastError, ImageError, ServerError, brief, printable
from fsfast.runtime.features import SmoothedFeatures
from fsfast.runtime.many import Outcome
from fsfast.strict_json import parse_json

_OURS: Mapping[str, type[Exception]] = {
    "BackendUnavailable": errors.BackendUnavailable,
    "CertificateAltered": errors.CertificateAltered,
    "CertificateError": errors.CertificateError,
    "EngineError": errors.EngineError,
    "FsfastError": FsfastError,
    "ImageError": ImageError,
    "RequestError": ValueError,
    "TypeError": TypeError,
    "ValueError": ValueError,
}


def check_status(status: int, headers: Mapping[str, str], content: bytes) -> None:
    """Raise the error that an answer stands for, if it is one."""
    if status < 400:
        return
    try:
        said = parse_json(content)
        # OpenAI's routes put the same two one level deeper.
        inner = said["error"] if isinstance(said["error"], dict) else said
        message, kind = str(inner.get("message", inner.get("error"))), str(inner.get("type", ""))
        request_id = str(said.get("request_id", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        message, kind, request_id = (
            f"HTTP {status}: {brief(content[:400].decode('utf-8', 'replace'))}",
            "",
            "",
        )
    if kind in _OURS:
        raise _OURS[kind](printable(message))
    raise ServerError(
        printable(message),
        status=status,
        kind=kind,
        request_id=request_id,
        retry_after=_seconds(headers.get("Retry-After", "")),
    )


def features_of(
    group: Sequence[Outcome[Encoded]], said: Mapping[str, Any], tensors: Mapping[str, np.ndarray]
) -> list[Outcome[SmoothedFeatures]]:
    """Return what became of every image of a request.

    Args:
        group: the images; those that failed before are not in the answer.
        said: the answer's parameters.
        tensors: features and unit, [B, L, D] or [B, D] float32.

    Raises:
        ValueError, KeyError, TypeError, IndexError: the answer does not fit the request.
    """
    asked = [outcome for outcome in group if outcome.error is None]
    each = {
        name: json.loads(said[name]) for name in ("seeds", "seed_origins", "grid_sha256", "sources", "errors")
    }
    certified = json.loads(said.get("certified", "[]"))
    features, unit = tensors["features"], tensors["unit"]
    if {len(features), len(unit), *map(len, each.values())} != {len(asked)}:
        raise ValueError(f"wanted {len(asked)} images, got features {features.shape}, unit {unit.shape}")
    places = iter(range(len(asked)))

    def found(outcome: Outcome[Encoded]) -> Outcome[SmoothedFeatures]:
        if outcome.error is not None:
            return Outcome(outcome.position, outcome.name, None, outcome.error)
        i = next(places)
        if (failed := each["errors"][i]) is not None:
            return Outcome(outcome.position, outcome.name, None, _error(failed["class"], failed["message"]))
        result = SmoothedFeatures(
            features=features[i : i + 1],
            unit=unit[i : i + 1],
            seeds=np.array([int(each["seeds"][i])], np.uint64),
            seed_origins=(each["seed_origins"][i],),
            grid_sha256=(each["grid_sha256"][i],),
            n0=said["n0"],
            sigma=said["sigma"],
            engine=said["engine"],
            engine_digest=said["engine_digest"],
            function_id=said["function_id"],
            random_weights=said["random_weights"],
            names=(outcome.name,),
            sources=(each["sources"][i],),
            certified=(certified[i],) if certified else (),
        )
        image = None if outcome.result is None else outcome.result.grid
        if image is not None:
            if image.grid_sha256 != result.grid_sha256[0]:
                raise ValueError(f"wanted pixels {image.grid_sha256}, got {result.grid_sha256[0]}")
            result = replace(result, sources=(image.source,))
        return Outcome(outcome.position, outcome.name, result)

    return [found(outcome) for outcome in group]


def none_of(
    group: Sequence[Outcome[Encoded]], error: ImageError | ServerError
) -> list[Outcome[SmoothedFeatures]]:
    """Return what became of every image of a request that was refused because none of them can be used.

    Args:
        group: as in `features_of`.
        error: of the first.
    """
    asked = sum(outcome.error is None for outcome in group)
    said = error
    if asked > 1:
        text = f"none of {asked} images of a request can be used, the first: {error}"
        said = ServerError(text, kind=error.kind) if isinstance(error, ServerError) else ImageError(text)
    return [Outcome(each.position, each.name, None, each.error or said) for each in group]


def _error(kind: str, message: str) -> FsfastError | TypeError:
    """Return the error of one image of several, by the name of its class."""
    found = _OURS.get(kind)
    if found is not None and issubclass(found, (FsfastError, TypeError)):
        return found(printable(message))
    return ServerError(printable(message), kind=kind)


@contextmanager
def reading() -> Iterator[None]:
    """Turn what reading an answer raises that is none into a ServerError; errors of ours pass."""
    try:
        yield
    except FsfastError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ServerError(
            f"wanted an answer of `fsfast serve`, got something else: {brief(repr(error))}; check the address, "
            "and that client and server have the same version"
        ) from error


def _seconds(text: str) -> float | None:
    """Return what Retry-After says in seconds; a date says nothing here."""
    return float(text) if text.isdecimal() else None


def cut_short() -> ServerError:
    """Return the error of a stream of events that ended without a result."""
    return ServerError("the server's answer ended before its result; ask again")
