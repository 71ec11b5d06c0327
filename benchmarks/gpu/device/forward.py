"""The networks by themselves, from x_t to features: as they are served, and in torch's own operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.device import bits, profile
from benchmarks.gpu.device.bits import OURS
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

PLAIN = "plain graph"
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


@dataclass(frozen=True)
class DeviationRow:
    """How far the features of the plain graph are from the served ones: root of the mean square, relative to theirs."""

    case: str
    micro_batch: int
    deviation: float


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

    def row(self, variant: str, stage: str, timing: Timing, memory_mb: float | None = None) -> ForwardRow:
        ms = [seconds * 1e3 for seconds in (timing.p20, timing.p50, timing.p80)]
        return ForwardRow(
            self.case.name,
            variant,
            stage,
            self.micro_batch,
            *ms,
            ms[1] / self.micro_batch,
            memory_mb=memory_mb,
        )

    def whole(self, variant: str, networks: Networks) -> Iterator[ForwardRow]:
        """Time the first run, which compiles kernels and chooses algorithms, and later ones."""
        with self.lane.current(), fixed_arithmetic():
            call = partial(networks.features, self.x_t)
            first, _ = self.place.once(call)
            yield self.row(variant, "first run", Timing(first, first, first))
            timing, memory = self.place.measure(call), self.place.memory_mb(call)
            yield self.row(variant, "whole", timing, memory_mb=memory)

    def bits(self, variant: str, networks: Networks) -> Iterator[bits.BitsRow]:
        """Check every stage, and keep the digests of those that are served."""
        for row in bits.check(self.case, variant, networks.stages, self.lane, self.micro_batch):
            yield bits.kept(self.place, row) if variant == OURS else row

    def deviation(self, networks: Networks, others: Networks) -> DeviationRow:
        """Compare the features of two forms."""
        with self.lane.current(), fixed_arithmetic():
            got, wanted = (n.features(self.x_t).float() for n in (networks, others))
            ratio = (got - wanted).square().mean() / wanted.square().mean()
        return DeviationRow(self.case.name, self.micro_batch, float(ratio.sqrt()))

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
    """Measure the networks in both forms, the served one first; their bits and kernels. Digests are kept.

    Args:
        place: where.
        name: of the case.
        micro_batch: M.
        profiled: also yield the table of their kernels.
    """
    bench = _Bench.of(place, name, micro_batch)
    made: dict[str, Networks] = {}
    table: list[profile.KernelRow] = []

    def measured(variant: str, make: Callable[..., Networks]) -> Iterator[Any]:
        networks = made[variant] = make(bench.case, bench.modules, bench.lane, PRECISION)
        yield from guarded(f"{variant}: whole", partial(bench.whole, variant, networks))
        yield from guarded(f"{variant}: bits", partial(bench.bits, variant, networks))
        if profiled:
            yield from guarded(f"{variant}: kernels", partial(kernels, variant, networks))
        yield from guarded(f"{variant}: stages", partial(bench.stages, variant, networks))

    def kernels(variant: str, networks: Networks) -> Iterator[Any]:
        found = bench.kernels(variant, networks)
        table.extend(found)
        yield Table("profile", list(table))
        yield from profile.kinds(found)

    yield from guarded(OURS, partial(measured, OURS, placed))
    yield from guarded("served", bench.served)
    yield from guarded(PLAIN, partial(measured, PLAIN, plain))
    yield from guarded("deviation", lambda: [bench.deviation(made[PLAIN], made[OURS])])


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
