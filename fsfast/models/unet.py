"""The denoising U-Net of guided-diffusion, in three sizes, with and without its time embedding."""

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fsfast.engine.schedule import t_star
from fsfast.models.unet_layers import (
    AttentionBlock,
    Downsample,
    Resample,
    ResidualBlock,
    Stage,
    Upsample,
    zeroed,
)

IMAGE_CHANNELS = 3


@dataclass(frozen=True)
class UNetConfig:
    """The shape of a U-Net; the fields that are not explained are named as in guided-diffusion.

    Args:
        base: channels of the first level (`model_channels`).
        multipliers: channels of level i are base·multipliers[i]; each level halves the resolution.
        res_blocks: residual blocks per encoder level; the decoder has one more.
        attention_levels: levels (0 is full resolution) whose residual blocks are followed by attention.
        middle_attention: whether attention stands between the two residual blocks of the middle.
        residual_resampling: resample inside a residual block, without weights (`resblock_updown`);
            otherwise by a convolution of stride 2 and by nearest ×2 followed by a convolution.
        head_channels: channels per attention head.
        out_channels: 3 for the noise, 6 with the learned variances.
        groups: groups of every GroupNorm.
        unshuffle: the network works on the pixels of unshuffle × unshuffle squares as channels
            (`pixel_unshuffle`), 1 for none.

    Raises:
        ValueError: channels do not divide into groups or heads, or fewer than 3 outputs.
    """

    base: int
    multipliers: tuple[int, ...]
    res_blocks: int
    attention_levels: tuple[int, ...] = ()
    middle_attention: bool = False
    residual_resampling: bool = False
    head_channels: int = 64
    out_channels: int = IMAGE_CHANNELS
    groups: int = 32
    unshuffle: int = 1

    def __post_init__(self) -> None:
        if self.base % self.groups or self.base % 2:
            raise ValueError(
                f"wanted base to be even and a multiple of groups={self.groups}, got {self.base}"
            )
        if not self.multipliers or min(self.multipliers) < 1 or self.res_blocks < 1 or self.unshuffle < 1:
            raise ValueError(f"wanted at least one level, multiplier, block and unshuffle factor, got {self}")
        if any(not 0 <= level < len(self.multipliers) for level in self.attention_levels):
            raise ValueError(
                f"wanted attention_levels within 0..{len(self.multipliers) - 1}, got {self.attention_levels}"
            )
        attended = [self.multipliers[level] for level in self.attention_levels]
        attended += [self.multipliers[-1]] if self.middle_attention else []
        if any(self.base * multiplier % self.head_channels for multiplier in attended):
            raise ValueError(
                f"wanted attended channels to be multiples of head_channels={self.head_channels}, "
                f"got {[self.base * multiplier for multiplier in attended]}"
            )
        if self.out_channels < IMAGE_CHANNELS:
            raise ValueError(f"wanted out_channels >= {IMAGE_CHANNELS}, got {self.out_channels}")

    @property
    def time_dim(self) -> int:
        """Channels of the time embedding."""
        return 4 * self.base

    @property
    def size_multiple(self) -> int:
        """Height and width of an image must be multiples of this."""
        return int(self.unshuffle * 2 ** (len(self.multipliers) - 1))


# guided-diffusion, 256×256 unconditional (Dhariwal & Nichol 2021): 552,814,086 parameters.
ADM256 = UNetConfig(
    base=256,
    multipliers=(1, 1, 2, 2, 4, 4),
    res_blocks=2,
    attention_levels=(3, 4, 5),
    middle_attention=True,
    residual_resampling=True,
    out_channels=6,
)
# The paper gives the total alone (43.7M); this reading has 43,696,515 parameters.
UNET_LIGHT = UNetConfig(base=96, multipliers=(1, 2, 2, 4, 4), res_blocks=1, attention_levels=(4,))
# For the built-in engine.
UNET_TINY = UNetConfig(base=16, multipliers=(1, 1, 3), res_blocks=1, groups=4, unshuffle=2)


class _Trunk(nn.Module):
    """Encoder, middle and decoder: what the networks with and without a time embedding share."""

    def __init__(self, config: UNetConfig, time_dim: int | None, out_channels: int) -> None:
        super().__init__()
        self.config = config
        self._time_dim = time_dim
        # For training: recompute the activations of every stage in the backward pass instead of keeping them.
        self.checkpointing = False
        squares = config.unshuffle**2
        channels = config.base * config.multipliers[0]
        stem = nn.Conv2d(IMAGE_CHANNELS * squares, channels, 3, padding=1)
        self.input_blocks = nn.ModuleList([Stage([stem])])
        skips = [channels]
        last = len(config.multipliers) - 1
        for level, multiplier in enumerate(config.multipliers):
            for _ in range(config.res_blocks):
                self.input_blocks.append(Stage(self._layers(channels, config.base * multiplier, level)))
                channels = config.base * multiplier
                skips.append(channels)
            if level < last:
                self.input_blocks.append(Stage([self._resampler(channels, "down")]))
                skips.append(channels)

        between = [self._attention(channels)] if config.middle_attention else []
        self.middle_block = Stage(
            [self._block(channels, channels), *between, self._block(channels, channels)]
        )

        self.output_blocks = nn.ModuleList()
        for level in range(last, -1, -1):
            for index in range(config.res_blocks + 1):
                layers = self._layers(channels + skips.pop(), config.base * config.multipliers[level], level)
                channels = config.base * config.multipliers[level]
                if level and index == config.res_blocks:
                    layers.append(self._resampler(channels, "up"))
                self.output_blocks.append(Stage(layers))

        self.out = nn.Sequential(
            nn.GroupNorm(config.groups, channels),
            nn.SiLU(),
            zeroed(nn.Conv2d(channels, out_channels * squares, 3, padding=1)),
        )

    def _block(self, channels: int, out_channels: int, resample: Resample = None) -> nn.Module:
        return ResidualBlock(channels, out_channels, self.config.groups, self._time_dim, resample)

    def _attention(self, channels: int) -> nn.Module:
        return AttentionBlock(channels, self.config.groups, self.config.head_channels)

    def _layers(self, channels: int, out_channels: int, level: int) -> list[nn.Module]:
        block = self._block(channels, out_channels)
        return [block, self._attention(out_channels)] if level in self.config.attention_levels else [block]

    def _resampler(self, channels: int, resample: Resample) -> nn.Module:
        if self.config.residual_resampling:
            return self._block(channels, channels, resample)
        return Downsample(channels) if resample == "down" else Upsample(channels)

    def _check(self, x_t: Tensor) -> None:
        multiple = self.config.size_multiple
        if x_t.ndim != 4 or x_t.shape[1] != IMAGE_CHANNELS or any(size % multiple for size in x_t.shape[2:]):
            raise ValueError(
                f"wanted x_t as [M, {IMAGE_CHANNELS}, H, W] with H and W multiples of {multiple}, "
                f"got {list(x_t.shape)}; resize the images, or choose a configuration with fewer levels"
            )

    def _run(self, x_t: Tensor, embedding: Tensor | None) -> Tensor:
        h = x_t if self.config.unshuffle == 1 else F.pixel_unshuffle(x_t, self.config.unshuffle)
        skips: list[Tensor] = []
        for stage in self.input_blocks:
            h = self._through(stage, h, embedding)
            skips.append(h)
        h = self._through(self.middle_block, h, embedding)
        for stage in self.output_blocks:
            h = self._through(stage, torch.cat([h, skips.pop()], dim=1), embedding)
        h = self.out(h)
        return h if self.config.unshuffle == 1 else F.pixel_shuffle(h, self.config.unshuffle)

    def _through(self, stage: nn.Module, h: Tensor, embedding: Tensor | None) -> Tensor:
        if not (self.checkpointing and torch.is_grad_enabled()):
            return cast(Tensor, stage(h, embedding))
        return cast(Tensor, checkpoint(stage, h, embedding, use_reentrant=False))


class UNet(_Trunk):
    """The noise predictor ε̂(x_t, t), with guided-diffusion's names of weights.

    Equal to `UNetModel` of github.com/openai/guided-diffusion with scale-shift norm and without dropout, so
    that `256x256_diffusion_uncond.pt` loads into UNet(ADM256).

    Args:
        config: one of ADM256, UNET_LIGHT, UNET_TINY, or another.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config, config.time_dim, config.out_channels)
        self.time_embed = nn.Sequential(
            nn.Linear(config.base, config.time_dim), nn.SiLU(), nn.Linear(config.time_dim, config.time_dim)
        )

    def forward(self, x_t: Tensor, t: Tensor | int) -> Tensor:
        """Predict the noise.

        Args:
            x_t: [M, 3, H, W] float, noisy images √ᾱ_t·y + √(1−ᾱ_t)·ε with y in [−1, 1];
                H and W multiples of config.size_multiple.
            t: [M] timesteps in 0..999, or one for all.

        Returns:
            [M, out_channels, H, W]: the noise ε̂ in the first 3 channels, then the variances if there are any.

        Raises:
            ValueError: a shape is not as above.
        """
        self._check(x_t)
        steps = torch.as_tensor(t, device=x_t.device)
        if steps.ndim > 1 or (steps.ndim == 1 and steps.shape[0] != x_t.shape[0]):
            raise ValueError(
                f"wanted t as one timestep or as [M] = [{x_t.shape[0]}], got {list(steps.shape)}; "
                "give one timestep per image"
            )
        return self._run(x_t, self._embedding(steps.expand(x_t.shape[0])))

    def _embedding(self, t: Tensor) -> Tensor:
        """[M] → [M, time_dim]: cosines first, then sines, in float32 as upstream."""
        half = self.config.base // 2
        frequencies = torch.exp(
            -math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half
        )
        angles = t[:, None].float() * frequencies
        waves = torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)
        return self.time_embed(waves.to(next(self.time_embed.parameters()).dtype))

    @torch.no_grad()
    def at_sigma(self, sigma: float) -> "FoldedUNet":
        """A copy for one noise level, without time embedding and variances.

        At a fixed t the scale and shift of every block are constants. GroupNorm's affine takes them in:
        w' = w·(1+scale), b' = b·(1+scale) + shift. The products are taken in float64 and rounded once;
        in float32 outputs differ from the original's by 7e-7 of their range (unet-light, random weights, 64²).

        Args:
            sigma: standard deviation of the noise on pixels in [0, 1]; t is t_star(sigma).

        Returns:
            a FoldedUNet in evaluation mode that shares no memory with this one; same dtype and device.

        Raises:
            ValueError: sigma is outside the schedule.
        """
        parameter = next(self.parameters())
        embedding = self._embedding(torch.tensor([t_star(sigma)], device=parameter.device))
        weights = {
            name: tensor.detach().clone()
            for name, tensor in self.state_dict().items()
            if not name.startswith("time_embed.") and ".emb_layers." not in name
        }
        for name, block in self.named_modules():
            if isinstance(block, ResidualBlock):
                scale, shift = block.emb_layers(embedding)[0].double().chunk(2)
                norm = cast(nn.GroupNorm, block.out_layers[0])
                weight, bias = norm.weight.double(), norm.bias.double()
                weights[f"{name}.out_layers.0.weight"] = (weight * (1 + scale)).to(norm.weight.dtype)
                weights[f"{name}.out_layers.0.bias"] = (bias * (1 + scale) + shift).to(norm.bias.dtype)
        kept = IMAGE_CHANNELS * self.config.unshuffle**2
        for name in ("out.2.weight", "out.2.bias"):
            weights[name] = weights[name][:kept].clone()
        with torch.device("meta"):
            folded = FoldedUNet(self.config)
        folded.load_state_dict(weights, assign=True)
        return folded.eval().requires_grad_(False)


class FoldedUNet(_Trunk):
    """The noise predictor at one fixed timestep: what an engine runs, built by `UNet.at_sigma`.

    Its weights are named as the U-Net's, without `time_embed` and `emb_layers`; `out.2` is cut to the noise.

    Args:
        config: the configuration of the U-Net that it was folded from.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config, None, IMAGE_CHANNELS)

    def forward(self, x_t: Tensor) -> Tensor:
        """Predict the noise at the timestep that was folded in.

        Args:
            x_t: [M, 3, H, W] float; see `UNet.forward`.

        Returns:
            [M, 3, H, W]: the noise ε̂.

        Raises:
            ValueError: x_t has another shape.
        """
        self._check(x_t)
        return self._run(x_t, None)
