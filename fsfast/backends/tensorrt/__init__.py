"""EXPERIMENTAL: TensorRT and TensorRT-RTX on an NVIDIA GPU. Plans are built and tested; none has run on a GPU yet.

One code path for both libraries. Plans are built from verified bytes in a process of their own and live outside
the engine (docs/tensorrt.md); `SmoothedEncoder(device="cuda", backend="tensorrt")` runs them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fsfast.backends.base import check_arithmetic
from fsfast.backends.narrower import STORED, with_precision
from fsfast.backends.tensorrt.apart import TIME_LIMIT, build_apart
from fsfast.backends.tensorrt.building import BFLOAT16, options_of, stage_tensors, stored
from fsfast.backends.tensorrt.library import AHEAD_OF_TIME, Library, find_library, new_log
from fsfast.backends.tensorrt.plans import Plan, PlanKey, load_plan, plan_folder
from fsfast.engine.engine import Engine
from fsfast.engine.manifest import Manifest
from fsfast.engine.profile import Work
from fsfast.errors import BackendUnavailable

if TYPE_CHECKING:
    # Plans for TensorRT-RTX are built without torch.
    import torch

    from fsfast.backends.device.lane import Lane
    from fsfast.backends.device.stages import GpuBackend, Stages


def prepare_plan(
    engine: Engine,
    stage: str,
    precision: str,
    micro_batch: int,
    library: Library,
    *,
    folder: Path | None = None,
    rebuild: bool = False,
    device: torch.device | None = None,
    time_limit: float = TIME_LIMIT,
) -> Plan:
    """Return the plan of a stage for 1 … M rows; it is built where the folder has no good one.

    Args:
        engine: a verified engine.
        stage, precision: which graph; "bfloat16" is made of the float32 one.
        micro_batch: M.
        library: who builds.
        folder: where plans live; None for the user's cache.
        rebuild: build even where a good plan lies.
        device: the GPU that is to run the plan; None: the first.
        time_limit: seconds that a build may take.

    Raises:
        EngineError: the library cannot build the graph, or not in time; what it does not support is named.
        BackendUnavailable: the library cannot build here or has not the precision's arithmetic, or the folder cannot
            be used.
    """
    # Plans are strongly typed: they compute in what the graph says.
    check_arithmetic(str(library), ("float32",), engine.manifest, stored(precision), (stage,))
    target = AHEAD_OF_TIME if library.ahead_of_time else _target_here(library, device)
    key = PlanKey(engine.digest, stage, precision, micro_batch, str(library), target, options_of(precision))
    build = build_apart(engine, key, library, time_limit)
    return load_plan(folder or plan_folder(), key, build, rebuild=rebuild)


def _target_here(library: Library, device: torch.device | None) -> str:
    try:
        from fsfast.backends.tensorrt.execution import build_target
    except ImportError as error:
        raise BackendUnavailable(f"{library.name} needs torch for the GPU's memory: {error}") from None
    return build_target(library, device)


@dataclass(frozen=True)
class TensorRt:
    """The back end: one plan per stage; plans that are missing are built.

    Attributes:
        library: "tensorrt" or "tensorrt_rtx"; None for the first that is installed.
        folder: where plans live; None for the user's cache.
    """

    library: str | None = None
    folder: Path | None = None

    def problems(self) -> list[str]:
        """As `GpuBackend.problems`."""
        try:
            find_library(self.library)
        except BackendUnavailable as error:
            return [str(error)]
        return []

    def precisions(self, manifest: Manifest) -> tuple[str, ...]:
        """As `GpuBackend.precisions`: an engine's bfloat16 for processors is a float32 graph, too, and made here."""
        own = manifest.computed_in_float32
        return (*own, BFLOAT16) if STORED in own else own

    def rows(self, manifest: Manifest, precision: str) -> tuple[int, int]:
        """As `GpuBackend.rows`."""
        return manifest.rows(stored(precision))

    def tested(self, engine: Engine, precision: str) -> Engine:
        """As `GpuBackend.tested`."""
        return with_precision(engine, precision) if precision == BFLOAT16 else engine

    def open(self, engine: Engine, work: Work, lane: Lane) -> Stages:
        """As `GpuBackend.open`; BackendUnavailable where plans do not run on the GPU, or lack memory there, too."""
        from fsfast.backends.device.stages import Stages
        from fsfast.backends.tensorrt.execution import PlanStage

        found, m = find_library(self.library), work.micro_batch
        run = {}
        for stage in work.stages:
            plan = prepare_plan(
                engine, stage, work.precision, m, found, folder=self.folder, device=lane.device
            )
            tensors = stage_tensors(engine.manifest, stage, work.precision)
            run[stage] = PlanStage(found, new_log(found), plan, tensors, m, lane)
        hashes = {stage: opened.plan_sha256 for stage, opened in run.items()}
        return Stages(run, identity(found, hashes), "float32", "nchw", capturable=True)


def gpu_backend(name: str) -> GpuBackend:
    """Return the back end of one of the two libraries."""
    return TensorRt(name)


def identity(library: Library, plans: Mapping[str, str]) -> str:
    """Return what names the function of some plans: the library, and one hash over the plans of all stages.

    Two builds of one graph need not compute equal bits, so the library's version alone does not name them. An
    execution profile carries this as its `backend_version`.

    Args:
        library: who runs the plans.
        plans: stage → sha256 of its plan.
    """
    text = "".join(f"{stage}={sha256}\n" for stage, sha256 in sorted(plans.items()))
    return f"{library}, plans {hashlib.sha256(text.encode()).hexdigest()[:16]}"
