"""The U-Net as a GPU runs it: fewer passes over memory for the same function, up to rounding.

* Norms with SiLU are one operator, which reads a skip connection beside the network's own channels: nothing is
  concatenated. The 1×1 convolution of a block's skip connection is a product per tensor, added in place.
* No convolution adds its bias. A constant per channel survives additions, pooling and repetition, so it is carried
  along as `offset`, known when the network is built, until a norm takes it in.
* A repetition by two and the 3×3 convolution after it are one transposed convolution: 16 products per four pixels
  instead of 36, and no image of repeated pixels.
* Attention works on tokens, which is how channels_last images lie in memory.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsfast.kernels.library import group_norm_silu
from fsfast.models.unet import FoldedUNet
from fsfast.models.unet_layers import AttentionBlock, Downsample, ResidualBlock, Stage, Upsample


class Norm(nn.Module):
    """GroupNorm with or without SiLU, of one or two tensors plus a constant per channel.

    Args:
        norm: whose affine, groups and ε are taken.
        silu: apply SiLU.
        offset: [C] float64, of the channels that come.
    """

    def __init__(self, norm: nn.GroupNorm, silu: bool, offset: Tensor) -> None:
        super().__init__()
        self.groups, self.eps, self.silu = norm.num_groups, norm.eps, silu
        self.weight, self.bias = norm.weight, norm.bias
        self.offset = _constant(offset, norm.weight)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """[M, C, H, W] and [M, C', H, W] → [M, C + C', H, W], channels_last."""
        return group_norm_silu(
            x,
            self.weight,
            self.bias,
            self.groups,
            skip=skip,
            offset=self.offset,
            eps=self.eps,
            silu=self.silu,
        )


class Convolution(nn.Module):
    """A convolution without its bias, after a repetition by two if asked for.

    Args:
        conv: 3×3 with padding 1, of any stride; its bias is left to the caller.
        repeated: each pixel stands for four.
    """

    def __init__(self, conv: nn.Conv2d, repeated: bool = False) -> None:
        super().__init__()
        self.stride, self.repeated = conv.stride, repeated
        if not repeated:
            self.weight = conv.weight
            return
        # An output pixel of a repeated image sees 2×2 pixels of the image, whose weights are sums of the 3×3.
        pairs = torch.ones(1, 1, 2, 2, dtype=torch.float64, device=conv.weight.device)
        weight = conv.weight.detach().double().flip(2, 3).flatten(0, 1)[:, None]
        summed = F.conv2d(weight, pairs, padding=1)[:, 0].unflatten(0, conv.weight.shape[:2])
        self.weight = _constant(summed.transpose(0, 1).contiguous(), conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[M, C, H, W] → [M, C', H/stride, W/stride], or [M, C', 2H, 2W]."""
        if self.repeated:
            y = F.conv_transpose2d(x, self.weight, stride=2, padding=1)
        else:
            y = F.conv2d(x, self.weight, stride=self.stride, padding=1)
        # As it is on a GPU.
        return y.contiguous(memory_format=torch.channels_last)


class DeviceResidualBlock(nn.Module):
    """What a folded `ResidualBlock` computes, less a constant per channel.

    Args:
        block: without time embedding.
        offset: [C] float64, that the channels lack.

    Attributes:
        pending: [C'] float64, that the result lacks.
    """

    def __init__(self, block: ResidualBlock, offset: Tensor) -> None:
        super().__init__()
        first, _, conv_1 = block.in_layers
        second, _, _, conv_2 = block.out_layers
        self.resample = block.resample
        self.norm_1 = Norm(cast(nn.GroupNorm, first), True, offset)
        self.conv_1 = Convolution(cast(nn.Conv2d, conv_1), repeated=block.resample == "up")
        self.norm_2 = Norm(cast(nn.GroupNorm, second), True, _bias(conv_1))
        self.conv_2 = Convolution(cast(nn.Conv2d, conv_2))
        self.projection: nn.Parameter | None = None
        pending = offset
        if isinstance(block.skip_connection, nn.Conv2d):
            matrix = block.skip_connection.weight.detach()[:, :, 0, 0]
            pending = matrix.double() @ offset + _bias(block.skip_connection)
            self.projection = _constant(matrix.contiguous(), matrix)
        self.pending = pending + _bias(conv_2)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """[M, C, H, W], and what a skip connection brings → [M, C', H', W']; a new tensor, channels_last."""
        h = self.norm_1(x, skip)
        if self.resample == "down":
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        h = self.conv_2(self.norm_2(self.conv_1(h)))
        if self.projection is None:
            x = x if skip is None else torch.cat([x, skip], dim=1)
            return _add_repeated(h, x) if self.resample == "up" else h.add_(x)
        tokens, inputs = _tokens(h), [x] if skip is None else [x, skip]
        for part, matrix in zip(
            inputs, self.projection.split([i.shape[1] for i in inputs], dim=1), strict=True
        ):
            tokens.addmm_(_tokens(part), matrix.t())
        return h


class DeviceAttention(nn.Module):
    """What an `AttentionBlock` computes, less a constant per channel; attributes as in `DeviceResidualBlock`."""

    def __init__(self, block: AttentionBlock, offset: Tensor) -> None:
        super().__init__()
        proj_out = cast(nn.Conv1d, block.proj_out)
        self.heads = block.heads
        self.norm = Norm(block.norm, False, offset)
        self.qkv, self.qkv_bias = _constant(block.qkv.weight[:, :, 0], block.qkv.weight), block.qkv.bias
        self.projection = _constant(proj_out.weight[:, :, 0], proj_out.weight)
        self.pending = offset + _bias(proj_out)

    def queries(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[M, C, H, W] → q, k, v, each [M, heads, H·W, C/heads] with its channels side by side."""
        tokens = _tokens(self.norm(x)).unflatten(0, (len(x), -1))
        qkv = F.linear(tokens, self.qkv, self.qkv_bias).unflatten(2, (self.heads, -1))
        q, k, v = qkv.transpose(1, 2).chunk(3, dim=-1)
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        """[M, C, H, W] → the same shape; x is overwritten."""
        attended = F.scaled_dot_product_attention(*self.queries(x)).transpose(1, 2).flatten(2).flatten(0, 1)
        _tokens(x).addmm_(attended, self.projection.t())
        return x


class DeviceResampling(nn.Module):
    """What a `Downsample` or `Upsample` computes, less its bias; attributes as in `DeviceResidualBlock`."""

    def __init__(self, layer: Downsample | Upsample, offset: Tensor) -> None:
        super().__init__()
        up = isinstance(layer, Upsample)
        conv = cast(nn.Conv2d, layer.conv if up else layer.op)
        self.conv = Convolution(conv, repeated=up)
        # Beside the edge a convolution sees zeros, so constants cannot be carried through it.
        self.offset = _constant(offset, conv.weight)
        self.pending = _bias(conv)

    def forward(self, x: Tensor) -> Tensor:
        """[M, C, H, W] → [M, C, H/2, W/2] or [M, C, 2H, 2W]."""
        return self.conv(x + self.offset[:, None, None])


class DeviceUNet(nn.Module):
    """What a FoldedUNet computes, up to rounding, for channels_last images; most weights are its own.

    Args:
        network: stays as it is.
    """

    def __init__(self, network: FoldedUNet) -> None:
        super().__init__()
        self.config = network.config
        (stem,) = cast(Stage, network.input_blocks[0])
        self.stem = Convolution(cast(nn.Conv2d, stem))
        offset = _bias(stem)
        skips = [offset]
        self.input_blocks = nn.ModuleList()
        for stage in list(network.input_blocks)[1:]:
            layers, offset = _stage(cast(Stage, stage), offset)
            self.input_blocks.append(layers)
            skips.append(offset)
        self.middle_block, offset = _stage(network.middle_block, offset)
        self.output_blocks = nn.ModuleList()
        for stage in network.output_blocks:
            layers, offset = _stage(cast(Stage, stage), torch.cat([offset, skips.pop()]))
            self.output_blocks.append(layers)
        norm, _, conv = network.out
        self.norm = Norm(cast(nn.GroupNorm, norm), True, offset)
        self.out = conv

    def forward(self, x_t: Tensor) -> Tensor:
        """As `FoldedUNet.forward`."""
        squares = self.config.unshuffle
        x = x_t if squares == 1 else F.pixel_unshuffle(x_t, squares)
        h = self.stem(x.contiguous(memory_format=torch.channels_last))
        skips = [h]
        for stage in self.input_blocks:
            h = _run(stage, h, None)
            skips.append(h)
        h = _run(self.middle_block, h, None)
        for stage in self.output_blocks:
            h = _run(stage, h, skips.pop())
        h = self.out(self.norm(h))
        return h if squares == 1 else F.pixel_shuffle(h, squares)


def _stage(stage: Stage, offset: Tensor) -> tuple[nn.ModuleList, Tensor]:
    """Return a stage's layers, and what their result lacks; `offset` is what its input lacks."""
    layers = nn.ModuleList()
    for layer in stage:
        if isinstance(layer, ResidualBlock):
            layers.append(DeviceResidualBlock(layer, offset))
        elif isinstance(layer, AttentionBlock):
            layers.append(DeviceAttention(layer, offset))
        else:
            layers.append(DeviceResampling(cast(Downsample | Upsample, layer), offset))
        offset = cast(Tensor, layers[-1].pending)
    return layers, offset


def _run(stage: nn.Module, h: Tensor, skip: Tensor | None) -> Tensor:
    """Run a stage whose first layer, if any, takes the skip connection."""
    for layer in cast(nn.ModuleList, stage):
        if isinstance(layer, DeviceResidualBlock):
            h, skip = layer(h, skip), None
        else:
            h = layer(h)
    return h


def _tokens(image: Tensor) -> Tensor:
    """[M, C, H, W] channels_last → [M·H·W, C], the same memory."""
    return image.permute(0, 2, 3, 1).view(-1, image.shape[1])


def _add_repeated(h: Tensor, x: Tensor) -> Tensor:
    """Add [M, C, H, W], each pixel four times, to [M, C, 2H, 2W] in place."""
    squares = h.permute(0, 2, 3, 1).unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
    squares += x.permute(0, 2, 3, 1)[:, :, None, :, None]
    return h


def _bias(layer: nn.Module) -> Tensor:
    """Return a convolution's bias, [C] float64."""
    bias = cast(nn.Conv2d, layer).bias
    assert bias is not None
    return bias.detach().double()


def _constant(value: Tensor, like: Tensor) -> nn.Parameter:
    """Return a weight of one tensor's values and another's dtype."""
    return nn.Parameter(value.detach().to(like.dtype), requires_grad=False)
