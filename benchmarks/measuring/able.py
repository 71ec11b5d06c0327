"""What this processor can measure; the rest is named and left out."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence

from export.variants import backends_for
from fsfast.runtime.advice import native_precisions

# "fsfast: openvino, int8+bfloat16, M=2" and "openvino by hand: bfloat16".
_GRAPHS = re.compile(r"(?:fsfast|certify): (\w+), ([\w+]+)|(\w+) by hand: ([\w+]+)")


def why_not(technique: str) -> str | None:
    """Return why a technique of the benchmarks is not measured here, or None."""
    if found := _GRAPHS.match(technique):
        backend, precision = (found[1], found[2]) if found[1] else (found[3], found[4])
        if backend in backends_for(precision):
            return None
        return f"{backend} does not compute in {precision} on this processor"
    if "bf16" in technique and "bfloat16" not in native_precisions():
        return "torch would emulate bfloat16 on this processor"
    return None


def able(techniques: Iterable[str]) -> tuple[str, ...]:
    """Return the techniques that can be measured here; the others are named on stderr."""
    kept = []
    for name in techniques:
        if (why := why_not(name)) is None:
            kept.append(name)
        else:
            print(f"left out: {name}: {why}", file=sys.stderr)
    return tuple(kept)


def able_pairs(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the pairs of back end and precision that can be measured here; the others are named on stderr."""
    kept = able(f"fsfast: {backend}, {precision}" for backend, precision in pairs)
    return [pair for pair in pairs if f"fsfast: {pair[0]}, {pair[1]}" in kept]


def fastest_pair() -> tuple[str, str]:
    """Return the back end and precision that are the fastest on processors like this one."""
    order = (("openvino", "int8+bfloat16"), ("openvino", "int8"), ("onnxruntime", "int8"))
    return next(pair for pair in order if pair[0] in backends_for(pair[1]))
