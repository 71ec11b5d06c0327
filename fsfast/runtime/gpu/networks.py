"""What leads from x_t to features: the networks, and the kernel between purifier and encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fsfast.backends.device.stages import Stage, Stages
from fsfast.engine.manifest import Manifest
from fsfast.engine.schedule import Denoise
from fsfast.kernels import resize_tables
from fsfast.kernels.library import denoise_resize_normalise
from fsfast.kernels.tensors import FLOATS, ResizeTensors


@dataclass(frozen=True)
class Networks:
    """From x_t to features, launched on the current stream.

    Attributes:
        stages: the networks, and who runs them.
        denoise: the purifier's step, or None without one.
        resize, mean, std: from the grid to the encoder's input.
    """

    stages: Stages
    denoise: Denoise | None
    resize: ResizeTensors
    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, manifest: Manifest, stages: Stages, device: torch.device) -> Networks:
        """Join an engine's networks."""
        step = manifest.denoise if "purifier" in stages.run else None
        grid = manifest.grid.size
        mean, std = (
            torch.tensor(v, dtype=torch.float64, device=device) for v in (manifest.mean, manifest.std)
        )
        return cls(
            stages,
            step,
            ResizeTensors.from_arrays(resize_tables(grid, manifest.encoder_size), device),
            mean,
            std,
        )

    def running(self, stages: Mapping[str, Stage]) -> Networks:
        """Return the same way through other networks."""
        return replace(self, stages=replace(self.stages, run=stages))

    def features(self, x_t: Tensor) -> Tensor:
        """Return the features of noisy images.

        Args:
            x_t: [M, 3, H, W] float32 in the stages' memory order; without a purifier the encoder's input.

        Returns:
            [M, L, D], contiguous, in the stages' dtype.
        """
        if self.denoise is None:
            pixels = x_t.to(FLOATS[self.stages.dtype])
        else:
            # 4. Purifier and 5. Resize: the estimate is rounded to the network's precision, the noisy image is not.
            pixels = self.to_pixels(x_t, self.predicted_noise(x_t), (self.denoise.a, self.denoise.b))
        # 6. Encoder
        tokens = self.encoded(pixels)
        # 7. Mapper
        if "mapper" in self.stages.run:
            # The self-test's memory order, too: a compiled network would be compiled once more for another.
            tokens = self.stages.run["mapper"](tokens.contiguous())
        return tokens.contiguous()

    def predicted_noise(self, x_t: Tensor) -> Tensor:
        """Return the purifier's ε̂, [M, 3, H, W] in the stages' dtype."""
        return self.stages.run["purifier"](x_t.to(FLOATS[self.stages.dtype]))

    def encoded(self, pixels: Tensor) -> Tensor:
        """Return the encoder's tokens, [M, L, D] in the stages' dtype."""
        return self.stages.run["encoder"](pixels)

    def to_pixels(self, x_t: Tensor, eps_hat: Tensor | None, denoise: tuple[float, float]) -> Tensor:
        """Return the encoder's input, [M, 3, h, w] in the stages' dtype and memory order."""
        return denoise_resize_normalise(
            x_t,
            eps_hat,
            denoise,
            self.resize,
            self.mean,
            self.std,
            dtype=self.stages.dtype,
            layout=self.stages.layout,
        )
