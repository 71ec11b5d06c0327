"""The fixed function f of an engine in torch, with gradients: for attacks, and for whoever trains through it."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from fsfast.engine.engine import Engine
from fsfast.models.folded import load_folded
from fsfast.models.resize import Resize


class TorchFunction(nn.Module):
    """Noisy grid values in, unit features out; what the engine's pipeline computes, up to rounding (1e-5).

    Args:
        engine: a verified engine.
        stages: the stages to use, "encoder" among them; None: all.

    Raises:
        EngineError: the networks cannot be built.
    """

    def __init__(self, engine: Engine, stages: Sequence[str] | None = None) -> None:
        super().__init__()
        manifest = engine.manifest
        chosen = manifest.stages if stages is None else stages
        self.networks = nn.ModuleDict({k: v for k, v in load_folded(engine).items() if k in chosen})
        self.sigma = manifest.sigma
        self.denoise = manifest.denoise if "purifier" in self.networks else None
        self.resize = Resize(manifest.grid.size, manifest.encoder_size, manifest.mean, manifest.std)

    def purified(self, noisy: Tensor) -> Tensor:
        """Return the images that the encoder gets, before resizing: [M, 3, H, W] grid values → about [0, 1]."""
        if self.denoise is None:
            return noisy / 255.0
        x_t = self.denoise.noisy(noisy)
        return self.denoise.purified(x_t, self.networks["purifier"](x_t))

    def forward(self, noisy: Tensor) -> Tensor:
        """Return f.

        Args:
            noisy: [M, 3, H, W] float, grid values 0…255 plus noise.

        Returns:
            [M, L, D]: every token divided by its norm and by √L, so that the whole has norm 1.
        """
        tokens = self.networks["encoder"](self.resize(self.purified(noisy)))
        if "mapper" in self.networks:
            tokens = self.networks["mapper"](tokens)
        return F.normalize(tokens, dim=-1, eps=1e-30) / tokens.shape[1] ** 0.5
