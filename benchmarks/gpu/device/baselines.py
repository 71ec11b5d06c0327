"""What people write in torch: the purifier, the encoder and the mapper on noisy images, eager or compiled."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measuring.cases import MEAN, SIGMA, STD
from fsfast.engine.schedule import Denoise


class Baseline:
    """Smoothed features with torch alone.

    Args:
        modules: stage → network, float32; it has a copy.
        size: of the encoder's input.
        dtype: that the networks compute in.
        compile: what to wrap the way from noisy images to unit features in.
    """

    def __init__(
        self,
        modules: dict[str, nn.Module],
        size: int,
        dtype: torch.dtype,
        compile: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda function: function,
    ):
        self._modules = {stage: copy.deepcopy(module).to(dtype) for stage, module in modules.items()}
        self._size, self._dtype = size, dtype
        self._step = Denoise.at_sigma(SIGMA)
        device = next(modules["encoder"].parameters()).device
        self._mean, self._std = (
            torch.tensor(v, dtype=torch.float32, device=device).reshape(3, 1, 1) for v in (MEAN, STD)
        )
        self._unit = compile(self._unit_features)

    def _unit_features(self, noisy: Tensor) -> Tensor:
        """[n, 3, H, W] float32 in [0, 1] plus noise → [n, L, D] float32, every token of norm 1."""
        x_t = (2 * noisy - 1) * self._step.alpha_bar**0.5
        estimate = self._modules["purifier"](x_t.to(self._dtype)).float()
        x_0 = (self._step.a * x_t - self._step.b * estimate).clamp(-1, 1)
        pixels = F.interpolate((x_0 + 1) / 2, (self._size, self._size), mode="bicubic", antialias=True)
        tokens = self._modules["encoder"](((pixels - self._mean) / self._std).to(self._dtype))
        return F.normalize(self._modules["mapper"](tokens).float(), dim=-1)

    @torch.no_grad()
    def batched(self, image: Tensor, n0: int, noisy: Tensor | None = None) -> Tensor:
        """Return the mean direction [L, D] of n0 samples at once; `noisy` in place of fresh noise."""
        if noisy is None:
            noisy = image + SIGMA * torch.randn((n0, *image.shape), device=image.device)
        return F.normalize(self._unit(noisy).mean(0), dim=-1)

    @torch.no_grad()
    def one_by_one(self, image: Tensor, n0: int, noisy: Tensor | None = None) -> Tensor:
        """The same, sample after sample: the researcher's loop."""
        total = torch.zeros(())
        for i in range(n0):
            x = image + SIGMA * torch.randn_like(image) if noisy is None else noisy[i]
            total = total.to(x.device) + self._unit(x[None])[0]
        return F.normalize(total, dim=-1)
