"""A GPU: the whole way of an image, from its grid to its features, on one device and one stream.

The back ends of a CPU run one network at a time on arrays; here the whole function is opened. torch holds memory and
streams; the networks are run by torch, TensorRT or ONNX Runtime. The same code runs on the CPU, kernels included, which
is how it is tested without a GPU; nobody is served that way.
"""

from __future__ import annotations

import logging
import os
import threading

from fsfast.errors import BackendUnavailable

try:
    import torch
except ImportError as error:
    raise BackendUnavailable(
        f"device='cuda' needs torch built for CUDA ({error}); pip install torch triton"
    ) from None

from fsfast.backends import Graph, Profile
from fsfast.backends.device.arithmetic import fixed_arithmetic
from fsfast.backends.device.function import DeviceFunction
from fsfast.backends.device.lane import Lane
from fsfast.backends.device.networks import Networks
from fsfast.backends.device.options import BACKENDS, Options, Settings, missing, open_stages
from fsfast.backends.device.pipeline import DevicePipeline, plan_memory
from fsfast.backends.device.place import cuda_device, device_class, problems, version
from fsfast.backends.device.stages import StageGraph
from fsfast.choice import Choice
from fsfast.engine.engine import Engine, load_engine
from fsfast.function import Opened
from fsfast.selftest import check_golden_once

__all__ = [
    "BACKENDS",
    "Options",
    "cuda_device",
    "device_class",
    "missing",
    "open_function",
    "problems",
    "version",
]

logger = logging.getLogger("fsfast")
# Capturing waits for the whole device first, which would break off another thread's capture.
_opening = threading.Lock()


def open_function(name_or_path: str | os.PathLike[str], device: torch.device, options: Options) -> Opened:
    """Verify an engine, put its networks on a device, test them, and capture them.

    Raises:
        EngineError: the engine cannot be trusted or used, or fails its self-test on this device.
        BackendUnavailable: the back end is unknown or cannot run here, or M rows do not fit into memory.
        ValueError: another option is off.
    """
    # Before the engine is read.
    options.check()
    engine = load_engine(name_or_path)
    settings = options.settings(engine.manifest)
    with _opening:
        function = _opened(engine, settings, Lane(device))
    default = options.backend == "auto"
    choice = Choice(settings.backend, "the default on a GPU" if default else "asked for")
    logger.info("%s: back end %s", engine.manifest.name, choice)
    logger.info("%s: %s", engine.manifest.name, function.profile)
    return Opened(engine, choice, function)


def _opened(engine: Engine, settings: Settings, lane: Lane) -> DeviceFunction:
    with lane.current(), fixed_arithmetic():
        stages = open_stages(engine, settings, lane)
        networks = Networks.of(engine.manifest, stages, lane.device)
        # Before the self-test, which runs M rows.
        if plan := plan_memory(engine.manifest, networks, lane):
            plan.check(settings.micro_batch)
    profile = Profile(
        settings.backend,
        stages.version,
        settings.precision,
        settings.micro_batch,
        device_class(lane.device),
        settings.stages,
    )
    graphs: dict[str, Graph] = {name: StageGraph(run, stages, lane) for name, run in stages.run.items()}
    tested = settings.tested(engine)
    check_golden_once(tested, graphs, profile, profile.function_id(engine.digest))
    pipeline = DevicePipeline(engine, networks, settings.micro_batch, lane, plan)
    return DeviceFunction(engine.manifest, engine.digest, profile, pipeline)
