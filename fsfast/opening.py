"""Open an engine on a device: check the options, choose a back end, let it prove itself."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from fsfast.advice import faster_precision
from fsfast.backends import DEFAULT_MICRO_BATCH, Work, load_backend, open_graphs, side_by_side
from fsfast.choice import choose_backend
from fsfast.engine.engine import load_engine
from fsfast.function import Function, Opened
from fsfast.options import check_micro_batch, choose_precision, choose_stages, choose_threads
from fsfast.pipeline import Pipeline
from fsfast.selftest import check_golden_once

logger = logging.getLogger("fsfast")


def open_on_cpu(
    name_or_path: str | os.PathLike[str],
    *,
    backend: str,
    precision: str | None,
    threads: int,
    micro_batch: int | None,
    graph_threads: int | None,
    stages: Sequence[str] | None,
) -> Opened:
    """Open an engine on the CPU; arguments and errors as `SmoothedEncoder`."""
    if backend != "auto":
        # A wrong name is said before the engine is read.
        load_backend(backend)
    engine = load_engine(name_or_path)
    asked = precision is not None
    precision = choose_precision(engine.manifest, precision)
    m = DEFAULT_MICRO_BATCH["cpu"] if micro_batch is None else micro_batch
    work = Work(
        precision,
        choose_stages(engine.manifest, stages),
        check_micro_batch(engine.manifest, precision, m),
        choose_threads(1 if graph_threads is None else graph_threads, "graph_threads"),
    )
    choice = choose_backend(engine, backend, work)
    profile = work.profile(choice.backend, load_backend(choice.backend).version())
    logger.info("%s: back end %s", engine.manifest.name, choice)
    logger.info("%s: %s, %d threads", engine.manifest.name, profile, threads)
    if not asked and (line := faster_precision(engine, precision)):
        logger.info("%s: %s", engine.manifest.name, line)
    graphs = open_graphs(engine, choice.backend, work, threads=threads)
    check_golden_once(engine, graphs, profile, profile.function_id(engine.digest))
    pipeline = Pipeline(engine, graphs, work.micro_batch, side_by_side(threads, work.graph_threads))
    return Opened(engine, choice, Function(engine.manifest, engine.digest, profile, pipeline))


def open_on_gpu(
    name_or_path: str | os.PathLike[str],
    device: str,
    *,
    backend: str,
    precision: str | None,
    micro_batch: int | None,
    graph_threads: int | None,
    stages: Sequence[str] | None,
) -> Opened:
    """Open an engine on a GPU; arguments and errors as `SmoothedEncoder`."""
    if graph_threads is not None:
        raise ValueError(f"graph_threads are processors inside a run on a CPU; leave them out on {device!r}")
    from fsfast.backends import device as gpu

    options = gpu.Options(backend, precision, micro_batch, stages)
    return gpu.open_function(name_or_path, gpu.cuda_device(device), options)
