"""Which back end serves: the one that is asked for, or the faster one by a short measurement on this machine."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np

from fsfast.backends.base import check_arithmetic, check_products
from fsfast.backends.cpu import BACKENDS, installed, load_backend, open_graphs
from fsfast.backends.selftest import check_golden, golden_rows
from fsfast.engine.engine import Engine
from fsfast.engine.profile import Work
from fsfast.errors import BackendUnavailable, EngineError
from fsfast.files import read_cached, write_cached
from fsfast.machine import device_class
from fsfast.strict_json import parse_json

# M on a CPU where it is not given.
DEFAULT_MICRO_BATCH = 1
# A later back end of BACKENDS must be faster than an earlier one by this much: near ties are always decided alike.
_ADVANTAGE = 1.05
# So many rounds at least, more while they are short, fewer where they are long.
_ROUNDS, _SHORT, _LONG = 5, 0.1, 2.0

logger = logging.getLogger("fsfast")


@dataclass(frozen=True)
class Choice:
    """A back end, and why.

    Attributes:
        backend: its name.
        reason: in words.
        milliseconds: back end → measured time of one sample through all networks, in one run; empty where nothing
            was measured.
    """

    backend: str
    reason: str
    milliseconds: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        times = ", ".join(f"{name} {ms:.1f}" for name, ms in self.milliseconds.items())
        return f"{self.backend}, {self.reason}" + (f" (ms per sample: {times})" if times else "")


def choose_backend(engine: Engine, wanted: str, work: Work) -> Choice:
    """Return the back end to use.

    Args:
        engine: a verified engine.
        wanted: a back end, or "auto": $FSFAST_BACKEND if that is set, else the only one that can, else the fastest.
            What was measured is kept in the user's cache for this engine, machine and versions.
        work: what is to run.

    Raises:
        BackendUnavailable: none can run it; the reasons are named.
        EngineError: none passes the engine's self-test.
    """
    if wanted != "auto":
        return Choice(wanted, "asked for")
    known, usable = _without_measuring(engine, work)
    if known is not None:
        return known
    choice = _fastest(engine, usable, work)
    _remember(_place(engine, work), choice)
    return choice


def expected(engine: Engine, precision: str) -> str:
    """Return in words what "auto" means for all stages of an engine here; nothing is measured.

    Raises:
        BackendUnavailable: no back end can run the precision.
    """
    work = Work(precision, tuple(engine.manifest.stages), DEFAULT_MICRO_BATCH)
    known, usable = _without_measuring(engine, work)
    return str(known or f"not measured yet; the first load chooses among {', '.join(usable)}")


def _without_measuring(engine: Engine, work: Work) -> tuple[Choice | None, list[str]]:
    """Return what "auto" means if that is known, and the back ends that come into question.

    Raises:
        BackendUnavailable: there are none.
    """
    if named := os.environ.get("FSFAST_BACKEND"):
        return Choice(named, "named by FSFAST_BACKEND"), [named]
    # First, because it imports no back end.
    if known := remembered(engine, work):
        return known, [known.backend]
    usable, refusals = _usable(engine, work)
    if not usable:
        raise BackendUnavailable(f"no back end can run {work.precision} here: {'; '.join(refusals)}")
    if len(usable) == 1:
        return Choice(usable[0], f"the only back end here that runs {work.precision}"), usable
    return None, usable


def remembered(engine: Engine, work: Work) -> Choice | None:
    """Return what was measured before on this machine, or None."""
    try:
        record = parse_json(read_cached(*_place(engine, work)) or b"")
        times = {str(name): float(ms) for name, ms in record["milliseconds"].items()}
        backend = str(record["backend"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    if backend not in installed():
        return None
    return Choice(backend, "the fastest when it was measured here", times)


def _usable(engine: Engine, work: Work) -> tuple[list[str], list[str]]:
    """Return the back ends that have what the precision wants, and why the others have not."""
    usable, refusals = [], []
    for name in BACKENDS:
        if name not in installed():
            refusals.append(f"{name} is not installed")
            continue
        try:
            backend = load_backend(name)
            check_arithmetic(name, backend.arithmetics(), engine.manifest, work.precision, work.stages)
            check_products(name, backend.exact_8_bit_products(), engine, work.precision, work.stages)
        except BackendUnavailable as error:
            refusals.append(str(error))
        else:
            usable.append(name)
    return usable, refusals


def _fastest(engine: Engine, names: Iterable[str], work: Work) -> Choice:
    times, failures = {}, []
    for name in names:
        try:
            times[name] = measure(engine, name, work)
        except (EngineError, BackendUnavailable) as error:
            logger.warning("back end %s is left out: %s", name, error)
            failures.append(error)
    if not times:
        raise failures[0]
    best = next(iter(times))
    for name, milliseconds in times.items():
        if milliseconds * _ADVANTAGE < times[best]:
            best = name
    return Choice(best, "the fastest of a measurement just now", times)


def measure(engine: Engine, name: str, work: Work) -> float:
    """Return the milliseconds of one sample through all networks in one run: the median of a few rounds.

    With one thread inside a run, processor time of this thread, so that other work on the machine hardly matters. The
    engine's self-test comes first.

    Raises:
        BackendUnavailable, EngineError: the back end cannot run it, or fails the self-test.
    """
    backend = load_backend(name)
    graphs = open_graphs(engine, name, work, threads=1)
    check_golden(engine, graphs, work.profile(name, backend.version(), device_class()))
    rows = golden_rows(engine, work.stages, work.precision, work.micro_batch)
    clock = time.thread_time if work.graph_threads == 1 else time.perf_counter
    times: list[float] = []
    while not times or (sum(times) < _LONG if len(times) < _ROUNDS else sum(times) < _SHORT):
        before = clock()
        for stage, (x, out) in rows.items():
            graphs[stage].run(x, out)
        times.append(clock() - before)
    return float(np.median(times)) * 1e3 / work.micro_batch


def _place(engine: Engine, work: Work) -> tuple[str, str]:
    """Return the file of a measurement in the cache; its name stands for everything that could change the result."""
    about = (engine.digest, work, device_class(), sorted(installed().items()))
    return "choices", sha256(repr(about).encode()).hexdigest()


def _remember(place: tuple[str, str], choice: Choice) -> None:
    record = {"backend": choice.backend, "milliseconds": dict(choice.milliseconds)}
    try:
        write_cached(json.dumps(record).encode(), *place)
    except OSError as error:
        logger.warning("the choice of a back end cannot be cached (%s); it is made at every load", error)
