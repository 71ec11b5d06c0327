"""EXPERIMENTAL: TensorRT and TensorRT-RTX on an NVIDIA GPU. Plans are built and tested; none has run on a GPU yet.

One code path for both libraries. Plans are built from verified bytes in a process of their own and live outside
the engine (docs/tensorrt.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from fsfast.backends import check_arithmetic
from fsfast.backends.tensorrt.apart import build_apart
from fsfast.backends.tensorrt.building import OPTIONS, stage_tensors
from fsfast.backends.tensorrt.execution import DeviceGraph, build_target, require_gpu
from fsfast.backends.tensorrt.library import Library, find_library, new_log
from fsfast.backends.tensorrt.plans import Plan, PlanKey, load_plan, plan_folder
from fsfast.engine import Engine
from fsfast.errors import BackendUnavailable

MICRO_BATCH = 16


def version() -> str:
    """Return name and version of the library in use.

    Raises:
        BackendUnavailable: neither library is installed.
    """
    return str(find_library())


def prepare_plan(
    engine: Engine,
    stage: str,
    precision: str,
    micro_batch: int,
    library: Library,
    *,
    folder: Path | None = None,
    rebuild: bool = False,
) -> Plan:
    """Return the plan of a stage for 1 … M rows; it is built where the folder has no good one.

    Args:
        engine: a verified engine.
        stage, precision: which graph.
        micro_batch: M.
        library: who builds.
        folder: where plans live; None for the user's cache.
        rebuild: build even where a good plan lies.

    Raises:
        EngineError: the library cannot build the graph; what it does not support is named.
        BackendUnavailable: the library cannot build here or has not the precision's arithmetic, or the folder cannot
            be used.
    """
    # Plans are strongly typed: they compute in what the graph says.
    check_arithmetic(str(library), ("float32",), engine.manifest, precision, (stage,))
    target = build_target(library)
    key = PlanKey(engine.digest, stage, precision, micro_batch, str(library), target, OPTIONS)
    build = build_apart(engine, key, library)
    return load_plan(folder or plan_folder(), key, build, rebuild=rebuild)


def open_graphs(
    engine: Engine,
    precision: str,
    stages: tuple[str, ...],
    *,
    micro_batch: int = MICRO_BATCH,
    library: str | None = None,
    folder: Path | None = None,
) -> dict[str, DeviceGraph]:
    """Put one plan per stage on the GPU.

    Args:
        engine: a verified engine.
        precision: which variant of the stages.
        stages: which stages.
        micro_batch: M, the most rows per run.
        library: "tensorrt" or "tensorrt_rtx"; None for the first that is installed.
        folder: where plans live; None for the user's cache.

    Raises:
        BackendUnavailable: no library, no torch, no GPU, or a GPU that the plans do not run on.
        EngineError: the library cannot build a graph.
    """
    found = find_library(library)
    require_gpu()
    graphs = {}
    for stage in stages:
        plan = prepare_plan(engine, stage, precision, micro_batch, found, folder=folder)
        tensors = stage_tensors(engine.manifest, stage, precision)
        graphs[stage] = DeviceGraph(found, new_log(found), plan, tensors, micro_batch)
    return graphs


def identity(graphs: Mapping[str, DeviceGraph]) -> str:
    """Return what names the function of open graphs: the library, and one hash over the plans of all stages.

    Two builds of one graph need not compute equal bits, so the library's version alone does not name them. An
    execution profile should carry this as its `backend_version`.
    """
    plans = "".join(f"{stage}={graph.plan_sha256}\n" for stage, graph in sorted(graphs.items()))
    library = next(iter(graphs.values())).library
    return f"{library}, plans {hashlib.sha256(plans.encode()).hexdigest()[:16]}"


def problems() -> list[str]:
    """Return what keeps this back end from running here, for `fsfast doctor`."""
    found = []
    for check in (find_library, require_gpu):
        try:
            check()
        except BackendUnavailable as error:
            found.append(str(error))
    return found
