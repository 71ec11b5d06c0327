"""How much work a program takes: one table for every GPU, and one for each GPU that was measured.

Nothing is tuned while serving. `python -m benchmarks.gpu.tune` measures the candidates on a GPU and writes its table.
No choice changes a bit of any result.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

FOLDER = Path(__file__).parent / "tables"


@dataclass(frozen=True)
class Setting:
    """Of one kernel.

    Attributes:
        block: elements, rows or tokens of one program, a power of two; each kernel says which.
        num_warps: warps of 32 threads that share them.
    """

    block: int
    num_warps: int


def read(path: Path) -> dict[str, Setting]:
    """Return the table in a file: kernel → setting."""
    return {name: Setting(**entry) for name, entry in json.loads(path.read_text(encoding="utf-8")).items()}


def table_name(gpu: str) -> str:
    """Return the file name of a GPU's table: "NVIDIA H100 PCIe" → "nvidia-h100-pcie.json"."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-") + ".json"


@cache
def _table(gpu: str | None) -> dict[str, Setting]:
    table = read(FOLDER / "default.json")
    if gpu is not None and (measured := FOLDER / table_name(gpu)).exists():
        table |= read(measured)
    return table


def setting(kernel: str, device: torch.device) -> Setting:
    """Return the setting of a kernel: the measured one of this GPU, or else the default."""
    return _table(torch.cuda.get_device_name(device) if device.type == "cuda" else None)[kernel]
