"""Which back end serves: the one that is asked for, or the faster one by a short measurement on this machine."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from fsfast.backends import (
    BACKENDS,
    DEFAULT_MICRO_BATCH,
    Profile,
    check_arithmetic,
    device_class,
    load_backend,
)
from fsfast.engine import Engine
from fsfast.errors import BackendUnavailable, EngineError
from fsfast.files import cache_folder, write_whole
from fsfast.selftest import check_golden, golden_rows
from fsfast.strict_json import parse_json

# Which packages bring a back end.
PACKAGES = {"onnxruntime": ("onnxruntime", "onnxruntime-gpu"), "openvino": ("openvino",)}
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
        milliseconds: back end → measured time of one sample through all networks, on one thread; empty where nothing
            was measured.
    """

    backend: str
    reason: str
    milliseconds: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        times = ", ".join(f"{name} {ms:.1f}" for name, ms in self.milliseconds.items())
        return f"{self.backend}, {self.reason}" + (
            f" (ms per sample on one thread: {times})" if times else ""
        )


def installed() -> dict[str, str]:
    """Return back end → version of those whose package is installed; nothing is imported."""
    found = {}
    for name in BACKENDS:
        for package in PACKAGES[name]:
            try:
                found[name] = version(package)
                break
            except PackageNotFoundError:
                continue
    return found


def choose_backend(
    engine: Engine, wanted: str, precision: str, stages: tuple[str, ...], micro_batch: int
) -> Choice:
    """Return the back end to use.

    Args:
        engine: a verified engine.
        wanted: a back end, or "auto": $FSFAST_BACKEND if that is set, else the only one that can, else the fastest.
            What was measured is kept in the user's cache for this engine, machine and versions.
        precision, stages, micro_batch: what is to run.

    Raises:
        BackendUnavailable: none can run it; the reasons are named.
        EngineError: none passes the engine's self-test.
    """
    if wanted != "auto":
        return Choice(wanted, "asked for")
    known, usable = _without_measuring(engine, precision, stages, micro_batch)
    if known is not None:
        return known
    choice = _fastest(engine, usable, precision, stages, micro_batch)
    _remember(_place(engine, precision, stages, micro_batch), choice)
    return choice


def expected(engine: Engine, precision: str, micro_batch: int = DEFAULT_MICRO_BATCH["cpu"]) -> str:
    """Return in words what "auto" means for all stages of an engine here; nothing is measured.

    Raises:
        BackendUnavailable: no back end can run the precision.
    """
    known, usable = _without_measuring(engine, precision, tuple(engine.manifest.stages), micro_batch)
    return str(known or f"not measured yet; the first load chooses among {', '.join(usable)}")


def _without_measuring(
    engine: Engine, precision: str, stages: tuple[str, ...], micro_batch: int
) -> tuple[Choice | None, list[str]]:
    """Return what "auto" means if that is known, and the back ends that come into question.

    Raises:
        BackendUnavailable: there are none.
    """
    if named := os.environ.get("FSFAST_BACKEND"):
        return Choice(named, "named by FSFAST_BACKEND"), [named]
    # First, because it imports no back end.
    if known := remembered(engine, precision, stages, micro_batch):
        return known, [known.backend]
    usable, refusals = _usable(engine, precision, stages)
    if not usable:
        raise BackendUnavailable(f"no back end can run {precision} here: {'; '.join(refusals)}")
    if len(usable) == 1:
        return Choice(usable[0], f"the only back end here that runs {precision}"), usable
    return None, usable


def remembered(engine: Engine, precision: str, stages: tuple[str, ...], micro_batch: int) -> Choice | None:
    """Return what was measured before on this machine, or None."""
    try:
        record = parse_json(_place(engine, precision, stages, micro_batch).read_bytes())
        times = {str(name): float(ms) for name, ms in record["milliseconds"].items()}
        backend = record["backend"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    if backend not in installed():
        return None
    return Choice(backend, "the fastest when it was measured here", times)


def _usable(engine: Engine, precision: str, stages: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return the back ends that have what the precision wants, and why the others have not."""
    usable, refusals = [], []
    for name in BACKENDS:
        if name not in installed():
            refusals.append(f"{name} is not installed")
            continue
        try:
            able = load_backend(name).arithmetics()
            check_arithmetic(name, able, engine.manifest, precision, stages)
        except BackendUnavailable as error:
            refusals.append(str(error))
        else:
            usable.append(name)
    return usable, refusals


def _fastest(
    engine: Engine, names: Iterable[str], precision: str, stages: tuple[str, ...], micro_batch: int
) -> Choice:
    times, failures = {}, []
    for name in names:
        try:
            times[name] = measure(engine, name, precision, stages, micro_batch)
        except EngineError as error:
            logger.warning("back end %s is left out: %s", name, error)
            failures.append(error)
    if not times:
        raise failures[0]
    best = next(iter(times))
    for name, milliseconds in times.items():
        if milliseconds * _ADVANTAGE < times[best]:
            best = name
    return Choice(best, "the fastest of a measurement just now", times)


def measure(engine: Engine, name: str, precision: str, stages: tuple[str, ...], micro_batch: int) -> float:
    """Return the milliseconds of one sample through all networks on one thread: the median of a few rounds.

    Processor time of this thread, so that other work on the machine hardly matters. The engine's self-test comes first.

    Raises:
        BackendUnavailable, EngineError: the back end cannot run it, or fails the self-test.
    """
    module = load_backend(name)
    graphs = module.open_graphs(engine, precision, stages, micro_batch=micro_batch, threads=1)
    profile = Profile(name, module.version(), precision, micro_batch, device_class(), stages)
    check_golden(engine, graphs, profile)
    rows = golden_rows(engine, stages, precision, micro_batch)
    times: list[float] = []
    while not times or (sum(times) < _LONG if len(times) < _ROUNDS else sum(times) < _SHORT):
        before = time.thread_time()
        for stage, (x, out) in rows.items():
            graphs[stage].run(x, out)
        times.append(time.thread_time() - before)
    return float(np.median(times)) * 1e3 / micro_batch


def _place(engine: Engine, precision: str, stages: tuple[str, ...], micro_batch: int) -> Path:
    """Return the file of a measurement; its name stands for everything that could change the result."""
    about = (engine.digest, precision, stages, micro_batch, device_class(), sorted(installed().items()))
    return cache_folder() / "choices" / sha256(repr(about).encode()).hexdigest()


def _remember(place: Path, choice: Choice) -> None:
    record = {"backend": choice.backend, "milliseconds": dict(choice.milliseconds)}
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place, json.dumps(record).encode())
    except OSError as error:
        logger.warning("the choice of a back end cannot be cached (%s); it is made at every load", error)
