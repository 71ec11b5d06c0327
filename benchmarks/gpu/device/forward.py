"""The networks by themselves, from x_t to features: as they are served, and in torch's own operators."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.device import bits, profile
from benchmarks.gpu.device.encode import SEED, Study
from benchmarks.gpu.device.networks import (
    Case,
    case_of,
    function_of,
    placed,
    plain,
    random_modules,
    stage_shapes,
)
from benchmarks.gpu.device.place import Place
from benchmarks.gpu.device.rows import Table, guarded
from benchmarks.measuring.harness import Timing, measure_gpu
from fsfast.backends.device.arithmetic import fixed_arithmetic
from fsfast.backends.device.lane import Lane
from fsfast.kernels.tensors import FLOATS
from fsfast.runtime.gpu.networks import Networks

OURS, PLAIN = "device networks", "plain graph"
PRECISION = "bfloat16"


@dataclass(frozen=True)
class ForwardRow:
    """One line of a results file.

    Attributes:
        case: the networks.
        variant: which form of them.
        stage: what of them.
        micro_batch: M.
        p20_ms, p50_ms, p80_ms: percentiles of one run.
        ms_per_sample: at the median.
        memory_mb: the most that torch held, weights of all variants included.
        deviation: from the device networks' features, root of the mean square relative to theirs.
    """

    case: str
    variant: str
    stage: str
    micro_batch: int
    p20_ms: float
    p50_ms: float
    p80_ms: float
    ms_per_sample: float
    memory_mb: float | None = None
    deviation: float | None = None


@dataclass(frozen=True)
class _Bench:
    """What the measurements of one case share; everything is launched on the lane."""

    place: Place
    case: Case
    micro_batch: int
    lane: Lane
    modules: dict[str, nn.Module]
    x_t: Tensor

    @classmethod
    def of(cls, place: Place, name: str, micro_batch: int) -> _Bench:
        case = case_of(name, place)
        modules = random_modules(case, place.device)
        x_t = torch.randn((micro_batch, 3, case.side, case.side), device=place.device)
        x_t = x_t.contiguous(memory_format=torch.channels_last)
        # Last: it waits for what was made before.
        return cls(place, case, micro_batch, Lane(place.device), modules, x_t)

    def row(self, variant: str, stage: str, timing: Timing, **more: float | None) -> ForwardRow:
        ms = [seconds * 1e3 for seconds in (timing.p20, timing.p50, timing.p80)]
        return ForwardRow(
            self.case.name, variant, stage, self.micro_batch, *ms, ms[1] / self.micro_batch, **more
        )

    def whole(self, variant: str, networks: Networks, wanted: Tensor | None = None) -> Iterator[ForwardRow]:
        """Time the first run, which compiles kernels and chooses algorithms, and later ones."""
        with self.lane.current(), fixed_arithmetic():
            call = partial(networks.features, self.x_t)
            first, _ = self.place.once(call)
            yield self.row(variant, "first run", Timing(first, first, first))
            deviation = None if wanted is None else _deviation(call(), wanted)
            timing, memory = self.place.measure(call), self.place.memory_mb(call)
            yield self.row(variant, "whole", timing, memory_mb=memory, deviation=deviation)

    def stages(self, variant: str, networks: Networks) -> Iterator[ForwardRow]:
        """Time every stage by itself, captured."""
        for stage, run in networks.stages.run.items():
            with self.lane.current(), fixed_arithmetic():
                x = torch.randn(
                    (self.micro_batch, *stage_shapes(self.case)[stage][0]), device=self.place.device
                )
                x = x.to(FLOATS[PRECISION])
                if x.ndim == 4:
                    x = x.contiguous(memory_format=torch.channels_last)
                yield self.row(variant, stage, measure_gpu(partial(run, x), runs=20))

    def kernels(self, variant: str, networks: Networks) -> list[profile.KernelRow]:
        with self.lane.current(), fixed_arithmetic():
            return profile.kernels(
                self.place, variant, self.micro_batch, partial(networks.features, self.x_t)
            )

    def served(self) -> Iterator[ForwardRow]:
        """Time an image from the host and its features back to it, with n0 = M."""
        m, item = self.micro_batch, Study.of(self.place, self.case).item
        function = function_of(self.case, self.modules, self.place, PRECISION, m)
        yield self.row(
            OURS, f"served, n0={m}", self.place.measure(partial(function.serve, [item], [SEED], m))
        )
        function.pipeline.close()


def forward(place: Place, name: str, micro_batch: int, *, profiled: bool = False) -> Iterator[Any]:
    """Measure the networks in both forms, the served ones first; their bits, kernels and digests.

    Args:
        place: where.
        name: of the case.
        micro_batch: M.
        profiled: also yield the table of their kernels.
    """
    bench = _Bench.of(place, name, micro_batch)
    table: list[profile.KernelRow] = []

    def profiles(variant: str, networks: Networks) -> Iterator[Any]:
        found = bench.kernels(variant, networks)
        table.extend(found)
        yield Table("profile", list(table))
        yield from profile.kinds(found)

    ours = placed(bench.case, bench.modules, bench.lane, PRECISION)
    yield from guarded(OURS, partial(bench.whole, OURS, ours))
    for row in guarded("bits", partial(bits.check, bench.case, ours.stages, bench.lane, micro_batch)):
        yield bits.kept(place, row) if isinstance(row, bits.BitsRow) else row
    if profiled:
        yield from guarded(f"profile: {OURS}", partial(profiles, OURS, ours))
    yield from guarded(f"stages: {OURS}", partial(bench.stages, OURS, ours))
    yield from guarded("served", bench.served)

    def eager() -> Iterator[Any]:
        networks = plain(bench.case, bench.modules, bench.lane, PRECISION)
        with bench.lane.current(), fixed_arithmetic():
            wanted = ours.features(bench.x_t)
        yield from bench.whole(PLAIN, networks, wanted)
        if profiled:
            yield from guarded(f"profile: {PLAIN}", partial(profiles, PLAIN, networks))
        yield from bench.stages(PLAIN, networks)

    yield from guarded(PLAIN, eager)


def cudnn_benchmark(place: Place, name: str, micro_batch: int = 4) -> Iterator[Any]:
    """Measure what choosing cuDNN's algorithms by their time would gain: it is off, since the choice changes bits."""
    bench = _Bench.of(place, name, micro_batch)
    purifier = {"purifier": bench.modules["purifier"]}
    for chosen in (False, True):
        variant = f"{OURS}, cudnn.benchmark {'on' if chosen else 'off'}"

        def measured(variant: str = variant, chosen: bool = chosen) -> Iterator[ForwardRow]:
            networks = placed(bench.case, purifier, bench.lane, PRECISION)
            with fixed_arithmetic():
                torch.backends.cudnn.benchmark = chosen
                yield from bench.stages(variant, networks)

        yield from guarded(variant, measured)


def _deviation(got: Tensor, wanted: Tensor) -> float:
    """Return the root of the mean square of a difference, relative to the root of the mean square."""
    difference = (got.float() - wanted.float()).square().mean()
    return float((difference / wanted.float().square().mean()).sqrt())
