"""Narrower floating-point types that a back end makes of an engine's float32 networks."""

from __future__ import annotations

import copy
from dataclasses import replace

from fsfast.engine.engine import Engine

# What they are made from.
STORED = "float32"
# Of the golden outputs, relative to their largest magnitude. Rounding of the reduced ones: 8 and 11 bits, through up
# to 100 layers; a wrong network is off by far more.
_TOLERANCES = {"bfloat16": 1e-1, "float16": 1.5e-2}


def with_precision(engine: Engine, precision: str) -> Engine:
    """Return the engine as if it had a variant of every stage in this precision, for the self-test.

    The digest stays: the precision is part of the profile, and so of the function's name.
    """
    if precision == STORED:
        return engine
    manifest, record = engine.manifest, copy.deepcopy(engine.manifest.record)
    stages = {}
    for stage, variants in manifest.stages.items():
        stored = variants[STORED]
        stages[stage] = {**variants, precision: replace(stored, tolerance=_TOLERANCES[precision])}
        record["stages"][stage][precision] = record["stages"][stage][STORED]
    return replace(engine, manifest=replace(manifest, stages=stages, record=record))
