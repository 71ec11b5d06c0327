"""What the values of a recipe may be: all are checked as it is read, before any work."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

from fsfast.engine.classes import ClassKind
from fsfast.models.averages import Weights

Store = Literal["float32", "float16"]
# What is added to the provenance of weights that are stored as float16.
ROUNDED = "; rounded to float16"
# Of an engine, as fsfast/schemas/engine.schema.json has it; it becomes a folder's name, too.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
# As many as the loader of mappers reads.
MAX_BLOCKS = 999
_OUTPUTS = ("penultimate", "tokens", "pooled", "merged")


def check_name(name: object, where: str) -> None:
    """Refuse what an engine cannot be called.

    Args:
        name: of the engine.
        where: the name comes from, for the message.

    Raises:
        ValueError: not a text, empty, longer than 64 characters, or with others than letters, digits and . _ + -.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(
            f"{where}: wanted name as at most 64 letters, digits and . _ + -, a letter or digit first; got {name!r}"
        )


def check_values(record: dict[str, Any], where: str) -> None:
    """Refuse values of a wrong type or out of range.

    Args:
        record: a recipe with all its keys; every table is one.
        where: the file, for the message.

    Raises:
        ValueError: the first bad value, with its key and what was wanted.
    """
    check_name(record["name"], where)
    for place, value in _leaves(record):
        if place not in _RULES:
            continue
        holds, wanted = _RULES[place]
        if not holds(value):
            raise ValueError(f"{where}: wanted {place} as {wanted}, got {value!r}")


def _leaves(record: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in record.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{inner}", leaf) for inner, leaf in value.items())
        else:
            yield key, value


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _numbers(value: Any, low: float) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(_number(item) and low <= item <= 1000 for item in value)
    )


def _levels(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(_whole(0, 255)(level) for level in value)


def _whole(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_text, value))


# Key → what it must fulfil, and that in words.
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "sigma": (lambda value: _number(value) and 0 < value <= 4, "a number in (0, 4]"),
    "n0": (_whole(1, 4096), "a whole number in 1…4096"),
    "store": (lambda value: value in get_args(Store), f"one of {', '.join(get_args(Store))}"),
    "grid.height": (_whole(1, 4096), "a whole number in 1…4096"),
    "grid.width": (_whole(1, 4096), "a whole number in 1…4096"),
    "grid.fit": (_text, "a text"),
    "grid.filter": (_text, "a text"),
    "grid.colour": (_levels, "a list of three levels 0 … 255 (red, green, blue)"),
    "normalise.mean": (lambda value: _numbers(value, -1000), "a list of three numbers (red, green, blue)"),
    "normalise.std": (lambda value: _numbers(value, 1e-6), "a list of three numbers of at least 1e-6"),
    "purifier.preset": (_text, "a text"),
    "encoder.preset": (_text, "a text"),
    "encoder.config": (lambda value: isinstance(value, dict), "a table"),
    "encoder.checkpoint": (_text, "a text"),
    "encoder.weights": (lambda value: value in get_args(Weights), f"one of {', '.join(get_args(Weights))}"),
    "encoder.resize_positions": (lambda value: isinstance(value, bool), "true or false"),
    "encoder.output": (lambda value: value in _OUTPUTS, f"one of {', '.join(_OUTPUTS)}"),
    "encoder.ln_post": (lambda value: isinstance(value, bool), "true or false"),
    "mapper.blocks": (_whole(1, MAX_BLOCKS), f"a whole number in 1…{MAX_BLOCKS}"),
    "classes.rows": (_text, "a text"),
    "classes.names": (_text, "a text"),
    "classes.kind": (lambda value: value in get_args(ClassKind), f"one of {', '.join(get_args(ClassKind))}"),
    "classes.classifier": (lambda value: value == "imagenet", "imagenet"),
    "weights.sha256": (lambda value: isinstance(value, str) and len(value) == 64, "64 hexadecimal digits"),
    "weights.run": (_text, "a text"),
    "weights.random_seed": (_whole(0, 2**31 - 1), f"a whole number in 0…{2**31 - 1}"),
    "weights.licence": (_text, "a text"),
    "weights.encoder": (_texts, "a list of texts"),
}
