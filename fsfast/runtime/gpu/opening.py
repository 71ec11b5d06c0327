"""Open an engine on a GPU: put its networks there, test them, capture them."""

from __future__ import annotations

import logging
import os
import threading

from fsfast.backends.base import Graph
from fsfast.backends.device.arithmetic import fixed_arithmetic
from fsfast.backends.device.lane import Lane
from fsfast.backends.device.place import cuda_device, device_class
from fsfast.backends.device.stages import GpuBackend, StageGraph
from fsfast.backends.selftest import check_golden_once
from fsfast.engine.engine import Engine, load_engine
from fsfast.engine.profile import Work
from fsfast.runtime.choice import Choice
from fsfast.runtime.function import Opened
from fsfast.runtime.gpu.function import GpuFunction
from fsfast.runtime.gpu.networks import Networks
from fsfast.runtime.gpu.options import backend_of_graphs, usable_backend, work_of
from fsfast.runtime.gpu.pipeline import GpuPipeline, plan_memory
from fsfast.runtime.options import Options, choose_threads

logger = logging.getLogger("fsfast")
# Capturing waits for the whole device first, which would break off another thread's capture.
_opening = threading.Lock()


def open_on_gpu(name_or_path: str | os.PathLike[str], device: str, options: Options) -> Opened:
    """Verify an engine, put its networks on a GPU, test them, and capture them; errors as `SmoothedEncoder`."""
    threads = choose_threads(options.threads)
    if options.graph_threads is not None:
        raise ValueError(f"graph_threads are processors inside a run on a CPU; leave them out on {device!r}")
    place = cuda_device(device)
    # Before the engine is read.
    name, backend = usable_backend(options)
    engine = load_engine(name_or_path)
    reason = "the default on a GPU" if options.backend == "auto" else "asked for"
    if options.backend == "auto" and not engine.manifest.known_in_torch:
        name, backend = backend_of_graphs(engine.manifest)
        reason = "the default on a GPU where the encoder came as an ONNX graph"
    work = work_of(engine.manifest, name, backend, options)
    with _opening:
        function = _opened(engine, name, backend, work, Lane(place))
    choice = Choice(name, reason)
    logger.info("%s: back end %s", engine.manifest.name, choice)
    logger.info("%s: %s", engine.manifest.name, function.profile)
    return Opened(engine, choice, function, threads)


def _opened(engine: Engine, name: str, backend: GpuBackend, work: Work, lane: Lane) -> GpuFunction:
    with lane.current(), fixed_arithmetic():
        stages = backend.open(engine, work, lane)
        networks = Networks.of(engine.manifest, stages, lane.device)
        # Before the self-test, which runs M rows.
        if plan := plan_memory(engine.manifest, networks, lane):
            plan.check(work.micro_batch)
    profile = work.profile(name, stages.version, device_class(lane.device))
    graphs: dict[str, Graph] = {stage: StageGraph(run, stages, lane) for stage, run in stages.run.items()}
    tested = backend.tested(engine, work.precision)
    check_golden_once(tested, graphs, profile, profile.function_id(engine.digest))
    pipeline = GpuPipeline(engine, networks, work.micro_batch, lane, plan)
    return GpuFunction(engine.manifest, engine.digest, profile, pipeline)
