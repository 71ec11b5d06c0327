"""Whether another precision of an engine would be faster on this processor: said, never chosen.

The default stays the engine's first precision wherever it is opened, so that all replicas of a service compute one
function. What `fsfast bench` measured here is remembered; without that, what the processor computes natively counts.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from fsfast import machine
from fsfast.backends.cpu import installed
from fsfast.engine.engine import Engine
from fsfast.files import read_cached, write_cached
from fsfast.machine import device_class, processor
from fsfast.strict_json import parse_json

# A gain below this is no reason to leave the default.
_WORTH = 1.1

logger = logging.getLogger("fsfast")


@dataclass(frozen=True)
class Speed:
    """What `fsfast bench` found for a precision.

    Attributes:
        backend: the fastest one.
        milliseconds: of encoding one image.
        cosine: of its features to those of float32.
    """

    backend: str
    milliseconds: float
    cosine: float


def native_precisions() -> tuple[str, ...]:
    """Return the reduced precisions that this processor has instructions for."""
    found = machine.extensions()
    eight = machine.sums_8_bit_products_exactly()
    sixteen = bool(found & {"avx512_bf16", "amx_bf16"})
    able = {"bfloat16": sixteen, "int8": eight, "int8+bfloat16": eight and sixteen}
    return tuple(name for name, has in able.items() if has)


def faster_precision(engine: Engine, precision: str, cosine: float = 0.999) -> str | None:
    """Return one line that names a faster precision of the engine, or None.

    Args:
        engine: a verified engine.
        precision: the one in use.
        cosine: smallest cosine to float32 of what is named.
    """
    others = [name for name in engine.manifest.precisions if name != precision]
    known = _remembered(engine)
    if precision in known:
        good = {name: known[name] for name in others if name in known and known[name].cosine >= cosine}
        gain = {name: known[precision].milliseconds / speed.milliseconds for name, speed in good.items()}
        if not gain or max(gain.values()) < _WORTH:
            return None
        best = max(gain, key=lambda name: gain[name])
        return (
            f"precision={best!r} with backend={good[best].backend!r} was {gain[best]:.1f} times as fast here, at a "
            f"cosine of {good[best].cosine:.4f} to float32 (fsfast bench); it is a function of its own, with its own "
            "certificates"
        )
    if native := [name for name in others if name in native_precisions()]:
        return (
            f"{processor()} has instructions for {' and '.join(native)}, which this engine has, too: "
            f"fsfast bench {engine.path} measures what they gain"
        )
    return None


def remember(engine: Engine, speeds: Mapping[str, Speed]) -> None:
    """Keep what was measured of an engine's precisions on this machine, in the user's cache."""
    content = json.dumps({name: vars(speed) for name, speed in speeds.items()}).encode()
    try:
        write_cached(content, *_place(engine))
    except OSError as error:
        logger.warning("what was measured cannot be cached: %s", error)


def _remembered(engine: Engine) -> dict[str, Speed]:
    try:
        record = parse_json(read_cached(*_place(engine)) or b"")
        return {
            str(name): Speed(str(s["backend"]), float(s["milliseconds"]), float(s["cosine"]))
            for name, s in record.items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _place(engine: Engine) -> tuple[str, str]:
    about = (engine.digest, device_class(), sorted(installed().items()))
    return "speeds", sha256(repr(about).encode()).hexdigest()
