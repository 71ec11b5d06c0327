"""JSON that everybody reads alike (no NaN, no infinite numbers, no key twice) and that follows a schema."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import Any

from fsfast.errors import brief


def parse_json(content: str | bytes) -> Any:
    """Return a JSON document.

    Raises:
        ValueError: it is not JSON, or readers could differ about it.
    """
    try:
        document = json.loads(
            content, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_unique
        )
        # Only an escape (or bytes of another encoding) makes such text: \ud800 alone is no character, and many readers
        # refuse it.
        if (b"\\u" if isinstance(content, bytes) else "\\u") in content:  # type: ignore[operator]
            json.dumps(document, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeEncodeError as error:
        raise ValueError(
            f"half a character: \\u{ord(error.object[error.start]):x} without its other half"
        ) from None
    return document


def _refuse_constant(word: str) -> float:
    raise ValueError(f"{word} is not a number that JSON knows")


def _finite(text: str) -> float:
    """Return the number; 1e999 is good JSON but no float."""
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is too large")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object; readers would differ in which of two equal keys they take."""
    if len(record := dict(pairs)) != len(pairs):
        raise ValueError("a key comes twice")
    return record


@cache
def _validator(schema: str) -> Callable[[Any], Any]:
    import fastjsonschema

    text = resources.files("fsfast").joinpath("schemas", schema).read_text(encoding="utf-8")
    return fastjsonschema.compile(json.loads(text))


def check_schema(record: Any, schema: str) -> None:
    """Check a parsed JSON document against one of the package's schemas.

    Raises:
        ValueError: the document does not follow it; the message names the place.
    """
    # Here, because studies of networks that are made in memory run on bare machines, too.
    import fastjsonschema

    try:
        _validator(schema)(record)
    except fastjsonschema.JsonSchemaValueException as error:
        raise ValueError(brief(error)) from None
