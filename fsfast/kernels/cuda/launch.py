"""One launch of a kernel, and the options that all of them share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from triton.runtime import JITFunction

# Multiplications and additions are rounded one by one, as in C++ (-ffp-contract=off): fusing them gives other bits.
OPTIONS: dict[str, Any] = {"enable_fp_fusion": False}


@dataclass(frozen=True)
class Launch:
    """A kernel with its arguments.

    Attributes:
        kernel: a function under triton.jit.
        programs: how many.
        arguments: by name; tensors are passed as pointers.
        num_warps: warps per program.
    """

    kernel: Callable[..., None]
    programs: int
    arguments: dict[str, Any]
    num_warps: int

    def run(self) -> None:
        """Launch on the current stream of the tensors' device.

        Raises:
            ValueError: the tensors are not on a GPU, and Triton's interpreter is off.
        """
        if not self.programs:
            return
        tensor = next(a for a in self.arguments.values() if isinstance(a, Tensor))
        if isinstance(self.kernel, JITFunction) and not tensor.is_cuda:
            raise ValueError(
                f"wanted tensors on a CUDA GPU, got {tensor.device}; move them with .to('cuda'), or use "
                "fsfast.kernels.library, which runs on both"
            )
        # Triton launches on the current device, which need not be the tensors'.
        with torch.cuda.device_of(tensor):
            self.kernel[(self.programs,)](**self.arguments, num_warps=self.num_warps, **OPTIONS)  # type: ignore[index]


@dataclass(frozen=True)
class Geometry:
    """How the work of a launch is divided, and where it lies.

    Attributes:
        programs: how many.
        numbers: sizes, strides and compile-time constants of the kernel, by name.
    """

    programs: int
    numbers: dict[str, int | bool]


def blocks(count: int, block: int) -> int:
    """Return how many blocks cover `count` items."""
    return -(-count // block)
