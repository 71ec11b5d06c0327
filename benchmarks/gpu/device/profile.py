"""Where the time of a call goes: its kernels as torch's profiler sees them, and the share of every kind."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.device.place import Place

# Kind → names of its kernels, of cuDNN, cuBLAS, torch and Triton, and of torch's operators on a CPU; the first that is
# found decides.
KINDS = {
    "ours": r"^[a-z0-9_]+_kernel$|^fsfast::",
    "attention": r"flash|fmha|attention|softmax",
    "convolutions": r"conv|fprop|dgrad|wgrad|nchwToNhwc|nhwcToNchw",
    "norms": r"norm|RowwiseMoments|welford",
    "products": r"gemm|gemv|nvjet|cutlass|splitK|cublas|aten::(add)?mm|aten::bmm",
    "elementwise": r"elementwise|copy|Memcpy|Memset|cat|reduce|pool|aten::(add|mul|silu|sigmoid|fill|clamp|div|sub)",
}
OTHER = "others"
_RUNS = 3
# Names of templates fill pages.
_LONGEST = 240


@dataclass(frozen=True)
class _Share:
    """What some kernels take of one run.

    Attributes:
        variant: whose kernels these are.
        micro_batch: M.
        kind: of `KINDS`.
        calls, ms: of one run.
        share: of the time of all kernels.
    """

    variant: str
    micro_batch: int
    kind: str
    calls: float
    ms: float
    share: float


class KindRow(_Share):
    """The kernels of one kind together."""


@dataclass(frozen=True)
class KernelRow(_Share):
    """One line of profile.csv: a kernel, whose name comes last."""

    kernel: str


def kind_of(kernel: str) -> str:
    """Return the kind of a kernel by its name."""
    return next((kind for kind, names in KINDS.items() if re.search(names, kernel, re.IGNORECASE)), OTHER)


def kernels(place: Place, variant: str, micro_batch: int, call: Callable[[], object]) -> list[KernelRow]:
    """Return the kernels of a call, the longest first; operators on a CPU."""
    activity = ProfilerActivity.CPU if place.rehearsed else ProfilerActivity.CUDA
    with profile(activities=[activity]) as profiled:
        for _ in range(_RUNS):
            call()
        place.wait()
    found = []
    for event in profiled.key_averages():
        us = event.self_cpu_time_total if place.rehearsed else event.self_device_time_total
        if place.rehearsed or event.device_type == DeviceType.CUDA:
            found.append((event.key[:_LONGEST], event.count / _RUNS, us / _RUNS / 1e3))
    if not found:
        raise RuntimeError("wanted the kernels of a call, torch's profiler saw none")
    whole = sum(ms for _, _, ms in found)
    rows = [KernelRow(variant, micro_batch, kind_of(n), calls, ms, ms / whole, n) for n, calls, ms in found]
    return sorted(rows, key=lambda row: -row.ms)


def kinds(rows: list[KernelRow]) -> list[KindRow]:
    """Return the share of every kind in one call's kernels."""
    found = []
    for kind in (*KINDS, OTHER):
        some = [row for row in rows if row.kind == kind]
        calls, ms, share = (sum(getattr(row, name) for row in some) for name in ("calls", "ms", "share"))
        found += [KindRow(some[0].variant, some[0].micro_batch, kind, calls, ms, share)] if some else []
    return found
