"""Bits of the networks at full size: a row's do not depend on place, run or neighbours, nor any on the process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from benchmarks.gpu.device.networks import Case, case_of, placed, random_modules, stage_shapes
from benchmarks.gpu.device.place import Place
from benchmarks.gpu.device.rows import ErrorRow, guarded
from fsfast.backends.device.lane import Lane
from fsfast.backends.device.place import version
from fsfast.backends.device.stages import StageGraph, Stages
from fsfast.backends.selftest import check_independence
from fsfast.files import read_cached, write_cached

# The networks as they are served.
OURS = "device networks"


@dataclass(frozen=True)
class BitsRow:
    """One line of a results file: a stage that gives equal bits in every row, again, and beside other rows.

    Attributes:
        case, variant, stage, micro_batch: whose output.
        sha256: of the output of M copies of one random input, float32.
        earlier: "kept" for another process, "same" as one that kept it, or empty.
    """

    case: str
    variant: str
    stage: str
    micro_batch: int
    sha256: str
    earlier: str = ""


def check(case: Case, variant: str, stages: Stages, lane: Lane, micro_batch: int) -> Iterator[BitsRow]:
    """Check every stage on a random row; EngineError where its bits depend on more than that row."""
    shapes = stage_shapes(case)
    for stage, run in stages.run.items():
        graph = StageGraph(run, stages, lane)
        given, wanted = shapes[stage]
        x = np.random.default_rng(0).standard_normal((1, *given)).astype(np.float32)
        out = np.full((micro_batch, *wanted), np.nan, np.float32)
        graph.run(np.repeat(x, micro_batch, axis=0), out)
        if not np.isfinite(out).all():
            raise ValueError(f"{stage}: wanted finite outputs, got infinities or NaNs")
        sha256 = hashlib.sha256(out.tobytes()).hexdigest()
        check_independence(graph, x, out, stage)
        yield BitsRow(case.name, variant, stage, micro_batch, sha256)


def kept(place: Place, row: BitsRow) -> BitsRow:
    """Keep a row's digest in the user's cache folder for another process."""
    write_cached(row.sha256.encode(), *_mark(place, row))
    return replace(row, earlier="kept")


def compared(place: Place, row: BitsRow) -> BitsRow | ErrorRow:
    """Compare a row's digest with the one that another process kept."""
    earlier = (read_cached(*_mark(place, row)) or b"").decode()
    if earlier == row.sha256:
        return replace(row, earlier="same")
    found = f"got sha256 {earlier}" if earlier else "left no digest; run networks-4 and networks-16 first"
    return ErrorRow(
        f"{row.stage}, M={row.micro_batch}", f"here sha256 {row.sha256}; the process before {found}"
    )


def _mark(place: Place, row: BitsRow) -> tuple[str, ...]:
    """Return the names of a digest's file: what may change bits is part of them."""
    parts = (place.name, version(), row.case, row.variant, row.stage, str(row.micro_batch))
    return "digests", ".".join(parts).replace(" ", "-")


def digests(place: Place, name: str, sizes: tuple[int, ...] = (4, 16)) -> Iterator[BitsRow | ErrorRow]:
    """Compare this process's digests with those that the parts of `forward` kept."""
    case = case_of(name, place)
    modules = random_modules(case, place.device)
    # After the modules, for which it waits.
    lane = Lane(place.device)
    stages = placed(case, modules, lane, "bfloat16").stages
    for micro_batch in sizes:
        for row in guarded(
            f"digests, M={micro_batch}", partial(check, case, OURS, stages, lane, micro_batch)
        ):
            yield compared(place, row) if isinstance(row, BitsRow) else row
