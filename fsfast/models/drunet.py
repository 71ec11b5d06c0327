"""A small denoising U-Net for one noise level, of convolutions and ReLU alone: every back end fuses and quantises them.

Zhang et al., "Plug-and-Play Image Restoration with Deep Denoiser Prior", 2021 (DRUNet: residual blocks without norms,
skip connections that are added); on the pixels of 2×2 squares as channels as in FFDNet, Zhang et al. 2018.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fsfast.models.unet_layers import zeroed

IMAGE_CHANNELS = 3


@dataclass(frozen=True)
class DRUNetConfig:
    """The shape of a DRUNet.

    Attributes:
        widths: channels of each level; each level halves the resolution.
        blocks: residual blocks of each level; all but the last level have as many again on the way up.
        unshuffle: the network works on the pixels of unshuffle × unshuffle squares as channels, 1 for none.

    Raises:
        ValueError: levels without channels or blocks, or not as many of the ones as of the others.
    """

    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    unshuffle: int = 2

    def __post_init__(self) -> None:
        if not self.widths or len(self.widths) != len(self.blocks):
            raise ValueError(f"wanted channels and blocks of at least one level, as many of both, got {self}")
        if min(*self.widths, *self.blocks, self.unshuffle) < 1:
            raise ValueError(f"wanted numbers of at least 1, got {self}")

    @property
    def size_multiple(self) -> int:
        """Height and width of an image must be multiples of this."""
        return int(self.unshuffle * 2 ** (len(self.widths) - 1))

    def to_record(self) -> dict[str, Any]:
        """The fields for JSON."""
        return asdict(self)


# 2.8 M parameters.
DRUNET_LIGHT = DRUNetConfig(widths=(32, 64, 128), blocks=(1, 2, 8))


class _Block(nn.Module):
    """x + two 3×3 convolutions with a ReLU between."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = zeroed(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """[M, C, H, W] → the same."""
        return x + self.conv2(F.relu(self.conv1(x)))


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(channels) for _ in range(count)))


class DRUNet(nn.Module):
    """The noise predictor ε̂(x_t) at the noise level that it was trained for: what an engine runs, without folding.

    Args:
        config: DRUNET_LIGHT, or another.
    """

    def __init__(self, config: DRUNetConfig) -> None:
        super().__init__()
        self.config = config
        # For training: recompute the activations of every level in the backward pass instead of keeping them.
        self.checkpointing = False
        squares, widths = config.unshuffle**2, config.widths
        self.stem = nn.Conv2d(IMAGE_CHANNELS * squares, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(map(_blocks, widths[:-1], config.blocks[:-1]))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.middle = _blocks(widths[-1], config.blocks[-1])
        # The pixels of 2×2 squares as channels: a transposed convolution of stride 2, without its operator.
        self.up = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in pairwise(widths))
        self.up_blocks = nn.ModuleList(map(_blocks, widths[:-1], config.blocks[:-1]))
        self.out = zeroed(nn.Conv2d(widths[0], IMAGE_CHANNELS * squares, 3, padding=1))

    def forward(self, x_t: Tensor) -> Tensor:
        """Predict the noise.

        Args:
            x_t: [M, 3, H, W] float, noisy images √ᾱ_t·y + √(1−ᾱ_t)·ε with y in [−1, 1] and the t of the training;
                H and W multiples of config.size_multiple.

        Returns:
            [M, 3, H, W]: the noise ε̂.

        Raises:
            ValueError: x_t has another shape.
        """
        multiple = self.config.size_multiple
        if x_t.ndim != 4 or x_t.shape[1] != IMAGE_CHANNELS or any(size % multiple for size in x_t.shape[2:]):
            raise ValueError(
                f"wanted x_t as [M, {IMAGE_CHANNELS}, H, W] with H and W multiples of {multiple}, "
                f"got {list(x_t.shape)}; resize the images, or choose a configuration with fewer levels"
            )
        unshuffle = self.config.unshuffle
        stem = h = self.stem(x_t if unshuffle == 1 else F.pixel_unshuffle(x_t, unshuffle))
        skips: list[Tensor] = []
        for blocks, down in zip(self.down_blocks, self.down, strict=True):
            skips.append(self._through(blocks, h))
            h = down(skips[-1])
        h = self._through(self.middle, h)
        for blocks, up in zip(reversed(self.up_blocks), reversed(self.up), strict=True):
            h = self._through(blocks, F.pixel_shuffle(up(h), 2) + skips.pop())
        noise = self.out(h + stem)
        return noise if unshuffle == 1 else F.pixel_shuffle(noise, unshuffle)

    def _through(self, blocks: nn.Module, h: Tensor) -> Tensor:
        if not (self.checkpointing and torch.is_grad_enabled()):
            return cast(Tensor, blocks(h))
        return cast(Tensor, checkpoint(blocks, h, use_reentrant=False))
