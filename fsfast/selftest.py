"""An engine proves itself on a new execution profile before it serves: golden outputs, stage by stage."""

from __future__ import annotations

import logging

import numpy as np
from safetensors.numpy import load

from fsfast.backends import Graph, Profile
from fsfast.engine import Engine
from fsfast.errors import EngineError
from fsfast.files import cache_folder, write_whole

logger = logging.getLogger("fsfast")


def check_golden(engine: Engine, graphs: dict[str, Graph], profile: Profile) -> dict[str, float]:
    """Run every stage on its stored input and compare with the stored output.

    Args:
        engine: the engine; its golden file holds `<stage>.input` and `<stage>.output`, each [1, …] float32.
        graphs: the stages as a back end opened them.
        profile: its precision says whose tolerances hold; the stored row is repeated to a micro-batch.

    Returns:
        stage → largest deviation, relative to the largest magnitude of the stored output.

    Raises:
        EngineError: a stage deviates by more than its tolerance.
    """
    golden = load(engine.read(engine.manifest.golden))
    deviations = {}
    for stage, graph in graphs.items():
        wanted = golden[f"{stage}.output"]
        x = np.repeat(golden[f"{stage}.input"], profile.micro_batch, axis=0)
        got = np.empty((profile.micro_batch, *wanted.shape[1:]), np.float32)
        graph.run(x, got)
        deviation = float(np.abs(got - wanted).max() / max(float(np.abs(wanted).max()), 1e-30))
        tolerance = engine.manifest.stages[stage][profile.precision].tolerance
        if not deviation <= tolerance:
            raise EngineError(
                f"{engine.path}: self-test failed: {stage} ({profile.precision}) deviates from the stored output by "
                f"{deviation:.2e}, at most {tolerance:.0e} is allowed; try another back end or precision"
            )
        deviations[stage] = deviation
    return deviations


def check_golden_once(engine: Engine, graphs: dict[str, Graph], profile: Profile, function_id: str) -> None:
    """Run `check_golden` unless this function has passed it on this machine before."""
    mark = cache_folder() / "self-tests" / function_id
    if mark.is_file():
        return
    deviations = check_golden(engine, graphs, profile)
    text = ", ".join(f"{stage} {deviation:.1e}" for stage, deviation in deviations.items())
    logger.info("self-test of %s passed: %s", engine.manifest.name, text)
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        write_whole(mark, text.encode())
    except OSError as error:
        logger.warning("the self-test's result cannot be cached (%s); it will run at every load", error)
