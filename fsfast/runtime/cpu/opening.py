"""Open an engine on a CPU: check the options, choose a back end, let it prove itself."""

from __future__ import annotations

import logging
import os

from fsfast.backends.base import side_by_side
from fsfast.backends.cpu import load_backend, open_graphs
from fsfast.backends.selftest import check_golden_once
from fsfast.engine.engine import load_engine
from fsfast.engine.manifest import Manifest
from fsfast.engine.profile import Work
from fsfast.machine import device_class
from fsfast.runtime.advice import faster_precision
from fsfast.runtime.choice import DEFAULT_MICRO_BATCH, choose_backend
from fsfast.runtime.cpu.pipeline import CpuPipeline
from fsfast.runtime.function import Function, Opened
from fsfast.runtime.options import (
    Options,
    check_micro_batch,
    choose_precision,
    choose_stages,
    choose_threads,
)

logger = logging.getLogger("fsfast")


def open_on_cpu(name_or_path: str | os.PathLike[str], options: Options) -> Opened:
    """Verify an engine, choose its back end, and let it prove itself; errors as `SmoothedEncoder`."""
    threads = choose_threads(options.threads)
    if options.backend != "auto":
        # A wrong name is said before the engine is read.
        load_backend(options.backend)
    engine = load_engine(name_or_path)
    work = _work(engine.manifest, options)
    choice = choose_backend(engine, options.backend, work)
    profile = work.profile(choice.backend, load_backend(choice.backend).version(), device_class())
    logger.info("%s: back end %s", engine.manifest.name, choice)
    logger.info("%s: %s, %d threads", engine.manifest.name, profile, threads)
    if options.precision is None and (line := faster_precision(engine, work.precision)):
        logger.info("%s: %s", engine.manifest.name, line)
    graphs = open_graphs(engine, choice.backend, work, threads=threads)
    check_golden_once(engine, graphs, profile, profile.function_id(engine.digest))
    pipeline = CpuPipeline(engine, graphs, work.micro_batch, side_by_side(threads, work.graph_threads))
    return Opened(engine, choice, Function(engine.manifest, engine.digest, profile, pipeline), threads)


def _work(manifest: Manifest, options: Options) -> Work:
    """Return what the options mean for an engine; raises ValueError."""
    precision = choose_precision(manifest.precisions, options.precision)
    m = DEFAULT_MICRO_BATCH if options.micro_batch is None else options.micro_batch
    return Work(
        precision,
        choose_stages(manifest, options.stages),
        check_micro_batch(manifest.rows(precision), m),
        choose_threads(1 if options.graph_threads is None else options.graph_threads, "graph_threads"),
    )
