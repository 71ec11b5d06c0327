"""The engine's networks on a device: folded modules, one dtype, and what leads from x_t to features."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from fsfast.backends.torch.arithmetic import DTYPES, STORED, fixed_arithmetic
from fsfast.engine import Engine
from fsfast.kernels import resize_tables
from fsfast.kernels.library import denoise_resize_normalise
from fsfast.kernels.tensors import ResizeTensors
from fsfast.kernels.types import Dtype
from fsfast.models.folded import load_folded


@dataclass(frozen=True)
class Networks:
    """From x_t to features, launched on the current stream.

    Attributes:
        modules: stage → network on the device.
        precision: what they compute in.
        denoise: (a, b) of the purifier's step, or None without one.
        resize, mean, std: from the grid to the encoder's input.
    """

    modules: dict[str, nn.Module]
    precision: Dtype
    denoise: tuple[float, float] | None
    resize: ResizeTensors
    mean: Tensor
    std: Tensor

    @classmethod
    def load(
        cls,
        engine: Engine,
        precision: Dtype,
        stages: tuple[str, ...],
        device: torch.device,
        *,
        compiled: bool = False,
    ) -> Networks:
        """Build the networks of some stages from the engine's float32 weights.

        Raises:
            EngineError: its architecture is unknown, or does not fit its weights.
        """
        return cls.of(engine, load_folded(engine, STORED), precision, stages, device, compiled=compiled)

    @classmethod
    def of(
        cls,
        engine: Engine,
        modules: dict[str, nn.Module],
        precision: Dtype,
        stages: tuple[str, ...],
        device: torch.device,
        *,
        compiled: bool = False,
    ) -> Networks:
        """Put modules that are there already on the device."""
        manifest = engine.manifest
        placed: dict[str, nn.Module] = {}
        for stage in stages:
            module = modules[stage].to(device, DTYPES[precision])
            for weight in module.parameters():
                if weight.ndim == 4:
                    weight.data = weight.data.contiguous(memory_format=torch.channels_last)
            placed[stage] = cast(nn.Module, torch.compile(module, dynamic=False)) if compiled else module
        step = manifest.denoise if "purifier" in stages else None
        grid = (manifest.grid.height, manifest.grid.width)
        mean, std = (
            torch.tensor(v, dtype=torch.float64, device=device) for v in (manifest.mean, manifest.std)
        )
        return cls(
            placed,
            precision,
            None if step is None else (step.a, step.b),
            ResizeTensors.from_arrays(resize_tables(grid, manifest.encoder_size), device),
            mean,
            std,
        )

    def uncompiled(self) -> Networks:
        """Return the same networks without torch.compile, which would compile anew for every number of rows."""
        return replace(self, modules={k: getattr(m, "_orig_mod", m) for k, m in self.modules.items()})

    def features(self, x_t: Tensor) -> Tensor:
        """Return the features of noisy images.

        Args:
            x_t: [M, 3, H, W] float32; without a purifier the encoder's input.

        Returns:
            [M, L, D], contiguous, in the networks' precision.
        """
        if self.denoise is None:
            pixels = x_t.to(DTYPES[self.precision])
        else:
            # The estimate is rounded to the network's precision, the noisy image is not.
            pixels = self.to_pixels(x_t, self.predicted_noise(x_t), self.denoise)
        tokens = self.modules["encoder"](pixels)
        if "mapper" in self.modules:
            # The self-test's memory order, too: a compiled network would be compiled once more for another.
            tokens = self.modules["mapper"](tokens.contiguous())
        return tokens.contiguous()

    def predicted_noise(self, x_t: Tensor) -> Tensor:
        """Return the purifier's ε̂, [M, 3, H, W] in its precision."""
        return self.modules["purifier"](x_t.to(DTYPES[self.precision]))

    def to_pixels(self, x_t: Tensor, eps_hat: Tensor | None, denoise: tuple[float, float]) -> Tensor:
        """Return the encoder's input, [M, 3, h, w] channels_last."""
        return denoise_resize_normalise(
            x_t, eps_hat, denoise, self.resize, self.mean, self.std, dtype=self.precision, layout="nhwc"
        )


class NetworkGraph:
    """One network as the self-test calls it: arrays in, arrays out.

    Args:
        module: on its device.
        dtype: that it computes in.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype, device: torch.device):
        self._module, self._dtype, self._device = module, dtype, device

    def run(self, x: np.ndarray, out: np.ndarray) -> None:
        """Compute the network on `x` [M, …] float32 into `out` [M, …] float32."""
        rows = torch.from_numpy(x).to(self._device, self._dtype)
        if rows.ndim == 4:
            rows = rows.contiguous(memory_format=torch.channels_last)
        with torch.no_grad(), fixed_arithmetic():
            out[...] = self._module(rows).float().cpu().numpy()
