"""An engine proves itself on a new execution profile before it serves: golden outputs, stage by stage."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
from safetensors.numpy import load

from fsfast.backends.base import Graph
from fsfast.engine.engine import Engine
from fsfast.engine.profile import Profile
from fsfast.errors import EngineError, brief
from fsfast.files import cache_folder, read_cached, write_cached
from fsfast.machine import processor

# Part of a mark's name: a function that passed an older test is tested again.
VERSION = 5

logger = logging.getLogger("fsfast")


@dataclass(frozen=True)
class Passed:
    """What an engine that passed its self-test gave.

    Attributes:
        deviations: stage → largest deviation, relative to the largest magnitude of the stored output.
        outputs: stage → sha256 of the output of M copies of the stored input, [M, …] float32, little endian.
    """

    deviations: Mapping[str, float]
    outputs: Mapping[str, str]


def check_golden(engine: Engine, graphs: dict[str, Graph], profile: Profile) -> Passed:
    """Run every stage on its stored input: right values, equal bits in every row, again and side by side.

    Certificates hold for a fixed function of one image; a stage that draws random numbers, or whose row depends
    on other rows of the micro-batch, is not one.

    Args:
        engine: the engine; its golden file holds `<stage>.input` and `<stage>.output`, each [1, …] float32.
        graphs: the stages as a back end opened them.
        profile: its precision says whose tolerances hold; the stored row is repeated to a micro-batch.

    Returns:
        the largest deviations, and what later runs must give again.

    Raises:
        EngineError: the golden file is malformed, or a stage cannot run, deviates by more than its tolerance,
            gives other bits the second time, or other bits beside other rows.
    """
    golden = load_golden(engine, list(graphs), profile.precision)
    deviations, outputs = {}, {}
    for stage, graph in graphs.items():
        x, wanted = golden[stage]
        where = _where(engine, stage, profile)
        rows = np.repeat(x, profile.micro_batch, axis=0)
        got = _run(graph, rows, wanted, where)
        deviation = float(np.abs(got - wanted).max() / max(float(np.abs(wanted).max()), 1e-30))
        tolerance = engine.manifest.stages[stage][profile.precision].tolerance
        if not deviation <= tolerance:
            raise EngineError(
                f"{where} deviates from the stored output by {deviation:.2e}, at most {tolerance:.1e} is allowed; "
                "try another back end or precision"
            )
        check_independence(graph, x, got, where)
        deviations[stage], outputs[stage] = deviation, _sha256(got)
    return Passed(deviations, outputs)


def check_independence(graph: Graph, x: np.ndarray, got: np.ndarray, where: str) -> None:
    """Refuse a stage that is no function of one row: equal bits in every row, again, side by side, beside others.

    Args:
        graph: the stage.
        x: [1, …] float32, an input.
        got: [M, …] float32, its output of M copies of it.
        where: beginning of an error message.

    Raises:
        EngineError: its bits depend on the place, the run, the thread or the neighbours.
    """
    if odd := [i for i, row in enumerate(got) if row.tobytes() != got[0].tobytes()]:
        raise EngineError(
            f"{where}: row {odd[0]} of {len(got)} equal ones has other bits, so no certificate would hold; use "
            "micro_batch = 1 or do not use this engine"
        )
    _check_repeats(graph, np.repeat(x, len(got), axis=0), got, where)
    _check_neighbours(graph, x, got, where)


def check_outputs(
    engine: Engine, graphs: dict[str, Graph], profile: Profile, outputs: Mapping[str, str], mark: str
) -> None:
    """Run every stage once on its stored input: the bits must be those of the self-test.

    A library that times algorithms, a driver, a variable of the environment can change bits that no version
    names; certificates made before would then be about another function.

    Args:
        engine, graphs, profile: as `check_golden`.
        outputs: of the self-test, as in `Passed`.
        mark: where they come from, for messages.

    Raises:
        EngineError: the golden file is malformed, a stage cannot run, or gives other bits.
    """
    golden = load_golden(engine, list(graphs), profile.precision)
    for stage, graph in graphs.items():
        x, wanted = golden[stage]
        where = _where(engine, stage, profile)
        got = _sha256(_run(graph, np.repeat(x, profile.micro_batch, axis=0), wanted, where))
        if got != outputs[stage]:
            raise EngineError(
                f"{where} gives other bits than in its self-test on this machine (sha256 {got[:16]}…, then "
                f"{outputs[stage][:16]}…), though nothing that names them has changed ({profile.backend} "
                f"{profile.backend_version}, {profile.device}); certificates made since then may not replay. Put back "
                f"what changed (driver, environment variables, libraries), or remove {mark} to begin anew"
            )


def _where(engine: Engine, stage: str, profile: Profile) -> str:
    return f"{engine.path}: self-test failed: {stage} ({profile.precision})"


def _sha256(output: np.ndarray) -> str:
    return hashlib.sha256(output.astype("<f4", copy=False).tobytes()).hexdigest()


def golden_rows(
    engine: Engine, stages: tuple[str, ...], precision: str, micro_batch: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return stage → (the stored input repeated to M rows, room for the output), for measurements of speed.

    Raises:
        EngineError: the golden file is malformed.
    """
    golden = load_golden(engine, list(stages), precision)
    return {
        stage: (np.repeat(x, micro_batch, axis=0), np.empty((micro_batch, *y.shape[1:]), np.float32))
        for stage, (x, y) in golden.items()
    }


def load_golden(
    engine: Engine, stages: list[str], precision: str
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return stage → (stored input, stored output), each [1, …] float32 of the shape in the manifest.

    Raises:
        EngineError: the golden file is malformed.
    """
    where = f"{engine.path}: {engine.manifest.golden}"
    content = engine.read(engine.manifest.golden)
    try:
        tensors = load(content)
    # The reader raises its own errors and, for dtypes that NumPy lacks, KeyError or AttributeError.
    except Exception as error:
        raise EngineError(
            f"{where} is not a safetensors file: {brief(error)}; export the engine again"
        ) from None
    for stage in stages:
        for end in ("input", "output"):
            shape = engine.manifest.record["stages"][stage][precision][end]["shape"]
            wanted, got = [1, *shape[1:]], tensors.get(f"{stage}.{end}")
            if got is None or got.dtype != np.float32 or list(got.shape) != wanted:
                what = "nothing" if got is None else f"{got.dtype} {list(got.shape)}"
                raise EngineError(
                    f"{where}: wanted {stage}.{end} float32 {wanted}, got {what}; export the engine again"
                )
            if not np.isfinite(got).all():
                raise EngineError(f"{where}: {stage}.{end} is not finite; export the engine again")
    return {stage: (tensors[f"{stage}.input"], tensors[f"{stage}.output"]) for stage in stages}


def _run(graph: Graph, rows: np.ndarray, wanted: np.ndarray, where: str) -> np.ndarray:
    """Return the stage's output on `rows` [M, …], shaped [M, *wanted.shape[1:]]."""
    # NaN shows what the graph leaves unwritten.
    got = np.full((len(rows), *wanted.shape[1:]), np.nan, np.float32)
    try:
        graph.run(np.ascontiguousarray(rows), got)
    # Back ends' exceptions share no base class.
    except Exception as error:
        raise EngineError(f"{where} cannot run: {brief(error)}") from error
    return got


def _check_repeats(graph: Graph, rows: np.ndarray, got: np.ndarray, where: str) -> None:
    """Refuse a stage whose bits change from run to run, or with a run on another thread."""
    with ThreadPoolExecutor(2) as team:
        for again in [team.submit(_run, graph, rows, got, where) for _ in range(2)]:
            if not _same_bits(got, again.result()):
                raise EngineError(f"{where} gives other bits the second time; do not use this engine")


def _check_neighbours(graph: Graph, x: np.ndarray, alone: np.ndarray, where: str) -> None:
    """Refuse a stage whose first or last row changes with its neighbours.

    Args:
        graph: the stage.
        x: [1, …] the stored input.
        alone: [M, …] the output of M copies of it.
        where: beginning of an error message.
    """
    others = [-x, np.zeros_like(x), x[..., ::-1], np.roll(x, 1, axis=-1), 0.5 * x]
    count = len(alone) - 1
    if not count:
        return
    for place, shift in ((0, 0), (count, 1)):
        neighbours = [others[(shift + i) % len(others)] for i in range(count)]
        rows = np.concatenate([*neighbours[:place], x, *neighbours[place:]])
        if not _same_bits(_run(graph, rows, alone, where)[place], alone[0]):
            raise EngineError(
                f"{where}: row {place} of {count + 1} changes with its neighbours, so no certificate would hold; "
                "use micro_batch = 1 or do not use this engine"
            )


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.tobytes() == b.tobytes()


def check_golden_once(engine: Engine, graphs: dict[str, Graph], profile: Profile, function_id: str) -> None:
    """Run `check_golden`; where this function has passed it on this machine before, `check_outputs`."""
    # Homes are shared between machines: processors of one device class may differ in their caches, and so in bits.
    machine = hashlib.sha256(processor().encode()).hexdigest()[:8]
    mark = ("self-tests", f"{function_id}.{VERSION}.{machine}")
    if outputs := _outputs(read_cached(*mark), graphs):
        check_outputs(engine, graphs, profile, outputs, str(cache_folder().joinpath(*mark)))
        return
    passed = check_golden(engine, graphs, profile)
    text = ", ".join(f"{stage} {deviation:.1e}" for stage, deviation in passed.deviations.items())
    logger.info("self-test of %s passed: %s", engine.manifest.name, text)
    try:
        write_cached(json.dumps(asdict(passed)).encode(), *mark)
    except OSError as error:
        logger.warning("the self-test's result cannot be cached (%s); it will run at every load", error)


def _outputs(mark: bytes | None, graphs: dict[str, Graph]) -> dict[str, str] | None:
    """Return stage → sha256 of a mark, or None where there is none that can be read."""
    try:
        outputs = json.loads(mark or b"")["outputs"]
        return {stage: str(outputs[stage]) for stage in graphs}
    except (ValueError, KeyError, TypeError):
        return None
