"""An engine proves itself on a new execution profile before it serves: golden outputs, stage by stage."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from safetensors.numpy import load

from fsfast.backends.base import Graph
from fsfast.engine.engine import Engine
from fsfast.engine.profile import Profile
from fsfast.errors import EngineError, brief
from fsfast.files import read_cached, write_cached

# Part of a mark's name: a function that passed an older test is tested again.
VERSION = 4

logger = logging.getLogger("fsfast")


def check_golden(engine: Engine, graphs: dict[str, Graph], profile: Profile) -> dict[str, float]:
    """Run every stage on its stored input: right values, equal bits in every row, again and side by side.

    Certificates hold for a fixed function of one image; a stage that draws random numbers, or whose row depends
    on other rows of the micro-batch, is not one.

    Args:
        engine: the engine; its golden file holds `<stage>.input` and `<stage>.output`, each [1, …] float32.
        graphs: the stages as a back end opened them.
        profile: its precision says whose tolerances hold; the stored row is repeated to a micro-batch.

    Returns:
        stage → largest deviation, relative to the largest magnitude of the stored output.

    Raises:
        EngineError: the golden file is malformed, or a stage cannot run, deviates by more than its tolerance,
            gives other bits the second time, or other bits beside other rows.
    """
    golden = load_golden(engine, list(graphs), profile.precision)
    deviations = {}
    for stage, graph in graphs.items():
        x, wanted = golden[stage]
        where = f"{engine.path}: self-test failed: {stage} ({profile.precision})"
        rows = np.repeat(x, profile.micro_batch, axis=0)
        got = _run(graph, rows, wanted, where)
        deviation = float(np.abs(got - wanted).max() / max(float(np.abs(wanted).max()), 1e-30))
        tolerance = engine.manifest.stages[stage][profile.precision].tolerance
        if not deviation <= tolerance:
            raise EngineError(
                f"{where} deviates from the stored output by {deviation:.2e}, at most {tolerance:.1e} is allowed; "
                "try another back end or precision"
            )
        if odd := [i for i, row in enumerate(got) if row.tobytes() != got[0].tobytes()]:
            raise EngineError(
                f"{where}: row {odd[0]} of {len(got)} equal ones has other bits, so no certificate would hold; use "
                "micro_batch = 1 or do not use this engine"
            )
        _check_repeats(graph, rows, got, where)
        _check_rows(graph, x, got, where)
        deviations[stage] = deviation
    return deviations


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


def _check_rows(graph: Graph, x: np.ndarray, alone: np.ndarray, where: str) -> None:
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
    """Run `check_golden` unless this function has passed it on this machine before."""
    mark = ("self-tests", f"{function_id}.{VERSION}")
    if read_cached(*mark) is not None:
        return
    deviations = check_golden(engine, graphs, profile)
    text = ", ".join(f"{stage} {deviation:.1e}" for stage, deviation in deviations.items())
    logger.info("self-test of %s passed: %s", engine.manifest.name, text)
    try:
        write_cached(text.encode(), *mark)
    except OSError as error:
        logger.warning("the self-test's result cannot be cached (%s); it will run at every load", error)
