"""The machine: its processor, what that can compute, and how much of it this process may use."""

from __future__ import annotations

import os
import platform
import re
from functools import cache
from math import ceil
from types import ModuleType

from fsfast.errors import BackendUnavailable
from fsfast.installation import extension_missing

# What decides which code libraries run, and with it bits, in the order of a device class.
_DECISIVE = (
    *("avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile"),
    *("asimd", "sve", "sve2", "sme", "bf16", "i8mm"),
)
# The widest vectors first, then what multiplies 8-bit and bfloat16 numbers: see `vectors`.
_WIDTHS = (("avx512f", "avx512"), ("avx2", "avx2"), ("avx", "avx"), ("asimd", "neon"))
_PRODUCTS = (
    ("vnni", ("avx_vnni", "avx512_vnni")),
    ("bf16", ("avx512_bf16", "bf16")),
    ("amx", ("amx_tile",)),
    ("sve", ("sve",)),
    ("i8mm", ("i8mm",)),
)


@cache
def extensions() -> frozenset[str]:
    """Return the instruction-set extensions that programs can use here, named as Linux names them.

    Raises:
        BackendUnavailable: the C++ extension is missing.
    """
    return frozenset(_asked().extensions())


@cache
def device_class() -> str:
    """Return the class of CPUs that give the same bits: architecture and vector extensions in use."""
    return "+".join(["cpu", platform.machine(), *(name for name in _DECISIVE if name in extensions())])


def vectors() -> str:
    """Return the vector extensions in a few words for names of files: "avx512-vnni-bf16", "avx2", "neon"."""
    found = extensions()
    width = next((word for name, word in _WIDTHS if name in found), "sse2" if is_x86() else "plain")
    return "-".join([width, *(word for word, names in _PRODUCTS if found & set(names))])


def is_x86() -> bool:
    """Return whether this is an x86-64 processor."""
    return platform.machine().lower() in ("x86_64", "amd64")


def sums_8_bit_products_exactly() -> bool:
    """Return whether sums of uint8 × int8 products are exact in the libraries that run graphs.

    x86 processors without VNNI add pairs of products in 16 bits, which saturate: 2 · 255 · 127 is more than 32,767.
    """
    return not is_x86() or bool(extensions() & {"avx_vnni", "avx512_vnni"})


def resident_bytes() -> int:
    """Return the bytes of memory that this process has."""
    with open("/proc/self/statm", encoding="ascii") as handle:
        return int(handle.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def processor() -> str:
    """Return the processor's name, as people know it."""
    try:
        if name := " ".join(_asked().model().split()):
            return name
    except BackendUnavailable:
        pass
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as handle:
            if found := re.search(r"model name\s*:\s*(.+)", handle.read()):
                return found.group(1).strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _asked() -> ModuleType:
    try:
        from fsfast import _processor
    except ImportError as error:
        raise extension_missing(error) from error
    return _processor


def available_threads() -> int:
    """Return the number of processors that this process may use, a container's share of them included."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    return allowed if quota is None else max(1, min(allowed, ceil(quota)))


def _quota() -> float | None:
    """Return how many processors' time the control group of this process gets; None for no limit.

    In a container the group's files stand at the mount's root; elsewhere in the folder that /proc/self/cgroup names.
    """
    found = []
    try:
        groups = [
            line.split(":", 2)[2]
            for line in _text("/proc/self/cgroup").splitlines()
            if line.startswith("0::")
        ]
    except (OSError, IndexError):
        groups = []
    for group in ["/", *groups]:
        try:
            quota, period = _text(f"/sys/fs/cgroup{group.rstrip('/')}/cpu.max").split()
            found.append(float(quota) / float(period))
        # "max" for no limit; no such file in older systems.
        except (OSError, ValueError):
            continue
    try:
        granted, whole = (float(_text(f"/sys/fs/cgroup/cpu/cpu.cfs_{n}_us")) for n in ("quota", "period"))
        found += [granted / whole] if granted > 0 else []
    except (OSError, ValueError):
        pass
    return min(found) if found else None


def _text(path: str) -> str:
    with open(path, encoding="ascii") as handle:
        return handle.read()
