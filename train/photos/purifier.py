"""The photo engine's purifier: Algorithm 1's first stage in two parts, pixels first, then features.

A new network learns little from the features of pictures that it cannot denoise yet, and the encoder costs more than
the network itself. So small patches come first, without the encoder.
"""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import asdict, dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsfast.engine.schedule import Denoise
from fsfast.models import DRUNET_LIGHT, DRUNet, DRUNetConfig, EfficientNetFeatures
from train.checkpoint import save_weights
from train.config import Schedule
from train.loop import Place, run_stage, step_generator
from train.losses import add_noise
from train.photos.crops import RandomCrops

# Added to squared differences under the root of Charbonnier's loss, in [0, 1] pixel units.
_CHARBONNIER = 1e-3
# Of the encoder's maps those at strides 8, 16 and 32.
_MAPS = 3
_RECONSTRUCTION = Schedule(steps=2500, batch=16, rate=1.5e-3, weight_decay=0.0, ema=0.998)
_ROBUSTNESS = Schedule(steps=2400, batch=8, rate=3e-4, weight_decay=0.0, ema=0.998)


@dataclass(frozen=True)
class PurifierConfig:
    """Sizes, schedules and weights of the losses.

    Attributes:
        sigma: noise level in [0, 1] pixel units.
        seed: of crops, new weights and noise.
        unet: the network's shape.
        reconstruction, robustness: of the two parts; 0 steps of the first leave it out.
        patch: side of the first part's squares in pixels.
        pooled, tokens, maps, classes, pixels: weights of the second part's losses, see `Robustness`.
        bf16: compute the networks in bfloat16; weights, losses and the optimiser stay float32.
    """

    sigma: float
    seed: int = 0
    unet: DRUNetConfig = DRUNET_LIGHT
    reconstruction: Schedule = _RECONSTRUCTION
    robustness: Schedule = _ROBUSTNESS
    patch: int = 96
    pooled: float = 1.0
    tokens: float = 0.5
    maps: float = 0.5
    classes: float = 0.1
    pixels: float = 1.0
    bf16: bool = False

    def digest(self, part: str) -> str:
        """Return a sha256 that changes with every field that a part's weights depend on."""
        record = asdict(self)
        if part == "reconstruction":
            for name in ("robustness", "pooled", "tokens", "maps", "classes", "pixels"):
                del record[name]
        return hashlib.sha256(json.dumps([part, record], sort_keys=True).encode()).hexdigest()


class FrozenClassifier(nn.Module):
    """The encoder with its classifier, on pixels in [0, 1] on its own grid.

    Args:
        features: the network.
        mean, std: of its normalisation, in [0, 1] units.
        rows, biases: [K, D] and [K] of its classifier.
    """

    mean: Tensor
    std: Tensor
    rows: Tensor
    biases: Tensor

    def __init__(
        self,
        features: EfficientNetFeatures,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        rows: Tensor,
        biases: Tensor,
    ) -> None:
        super().__init__()
        self.features = features.requires_grad_(False).to(memory_format=torch.channels_last)
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).reshape(1, 3, 1, 1))
        self.register_buffer("rows", rows)
        self.register_buffer("biases", biases)

    def forward(self, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the encoder's maps [M, C, h, w], the largest first, and its tokens [M, L, D], in float32."""
        maps, tokens = self.features.maps((pixels - self.mean) / self.std)
        return [found.float() for found in maps], tokens.float()

    def logits(self, pooled: Tensor) -> Tensor:
        """Return the classifier's logits [M, K] of pooled features [M, D]."""
        return pooled @ self.rows.T + self.biases


class _Part:
    """What both parts share.

    Args:
        config: of the run.
        data: crops.
        unet: to be trained, as it is at the beginning.
        begin: digests of the weights that it begins with, and learns from.
    """

    name: str

    def __init__(self, config: PurifierConfig, data: RandomCrops, unet: DRUNet, *begin: str) -> None:
        self.config, self.data = config, data
        self.module = unet.to(data.device, memory_format=torch.channels_last)
        self.denoise = Denoise.at_sigma(config.sigma)
        self.parts = {
            "pictures": data.digest,
            "configuration": config.digest(self.name),
            "weights": " ".join(begin),
        }
        self.digest = hashlib.sha256(json.dumps(self.parts, sort_keys=True).encode()).hexdigest()

    def _purified(self, step: int, clean: Tensor) -> Tensor:
        """The purifier's answer to the clean images of a step under fresh noise."""
        generator = step_generator(self.config.seed, self.name, step, clean.device)
        z = torch.randn(clean.shape, generator=generator, device=clean.device)
        x_t = self.denoise.noisy(add_noise(clean, z, self.config.sigma))
        with self._autocast(clean):
            noise_hat = self.module(x_t.contiguous(memory_format=torch.channels_last)).float()
        purified: Tensor = self.denoise.purified(x_t, noise_hat)
        return purified

    def _autocast(self, on: Tensor) -> torch.autocast:
        return torch.autocast(on.device.type, torch.bfloat16, enabled=self.config.bf16)


class Reconstruction(_Part):
    """Charbonnier's loss of the purified pixels, on patches."""

    name = "reconstruction"

    @property
    def schedule(self) -> Schedule:
        """See `Stage`."""
        return self.config.reconstruction

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """See `Stage`."""
        clean = self.data.patches(step, self.schedule.batch, self.config.patch, 2 * self.config.patch)
        purified = self._purified(step, clean)
        return charbonnier(purified, clean / 255.0), {"psnr": psnr(purified.detach(), clean / 255.0)}


class Robustness(_Part):
    """The encoder's answers to purified and to clean images, and the pixels.

    pooled·(1 − Cos of pooled features) + tokens·(1 − mean Cos of tokens) + maps·(mean relative squared error of the
    maps at strides 8, 16, 32) + classes·KL(clean ‖ purified) + pixels·Charbonnier.

    Args:
        config, data, unet, begin: see `_Part`.
        encoder: frozen.
    """

    name = "robustness"

    def __init__(
        self, config: PurifierConfig, data: RandomCrops, unet: DRUNet, encoder: FrozenClassifier, *begin: str
    ) -> None:
        super().__init__(config, data, unet, *begin)
        self.encoder = encoder.to(data.device)

    @property
    def schedule(self) -> Schedule:
        """See `Stage`."""
        return self.config.robustness

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """See `Stage`."""
        config = self.config
        side = self.encoder.features.config.image_size
        clean = self.data.batch(step, self.schedule.batch, side)
        purified = self._purified(step, clean)
        with self._autocast(clean):
            with torch.no_grad():
                clean_maps, clean_tokens = self.encoder(_channels_last(clean / 255.0))
            maps, tokens = self.encoder(_channels_last(purified))
        pooled, clean_pooled = tokens.mean(1), clean_tokens.mean(1)
        cosines = F.cosine_similarity(pooled, clean_pooled, dim=-1)
        of_maps = [
            (a - b).square().mean() / b.square().mean()
            for a, b in zip(maps[-_MAPS:], clean_maps[-_MAPS:], strict=True)
        ]
        logits, clean_logits = self.encoder.logits(pooled), self.encoder.logits(clean_pooled)
        divergence = F.kl_div(
            F.log_softmax(logits, -1), F.log_softmax(clean_logits, -1), reduction="batchmean", log_target=True
        )
        loss = (
            config.pooled * (1 - cosines.mean())
            + config.tokens * (1 - F.cosine_similarity(tokens, clean_tokens, dim=-1).mean())
            + config.maps * torch.stack(of_maps).mean()
            + config.classes * divergence
            + config.pixels * charbonnier(purified, clean / 255.0)
        )
        agreement = (logits.argmax(-1) == clean_logits.argmax(-1)).float().mean()
        return loss, {
            "cosine": cosines.mean().item(),
            "divergence": divergence.item(),
            "agreement": agreement.item(),
            "psnr": psnr(purified.detach(), clean / 255.0),
        }


def charbonnier(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean of √((a − b)² + 10⁻⁶): the absolute error, smooth at 0."""
    return ((a - b).square() + _CHARBONNIER**2).sqrt().mean()


def psnr(a: Tensor, b: Tensor) -> float:
    """Return the peak signal-to-noise ratio of images in [0, 1], over all of them at once, in dB."""
    return -10 * torch.log10((a - b).square().mean()).item()


def train_purifier(
    config: PurifierConfig,
    data: RandomCrops,
    encoder: FrozenClassifier,
    place: Place,
    weights: str,
    start: tuple[str, dict[str, Tensor]] | None = None,
) -> DRUNet:
    """Train both parts, write purifier.safetensors, and return the network, frozen.

    Args:
        config: sizes and schedules.
        data: crops.
        encoder: frozen.
        place: where the run lives; finished parts are taken from their last checkpoint.
        weights: sha256 of the encoder's file.
        start: a purifier to begin with, such as another σ's: sha256 of its file, and weights; None: new ones.

    Raises:
        ValueError: checkpoints of another run are in the way.
        RuntimeError: `start` is of another shape.
        OSError: the disk is full.
    """
    torch.manual_seed(config.seed + 1)
    unet, begin = DRUNet(config.unet), []
    if start is not None:
        begin.append(start[0])
        unet.load_state_dict(start[1])
    first = Reconstruction(config, data, unet, *begin)
    if config.reconstruction.steps:
        # Parameters of an average have no gradients.
        unet = cast(DRUNet, copy.deepcopy(run_stage(first, place)).requires_grad_(True))
    second = Robustness(config, data, unet, encoder, first.digest, weights)
    trained = run_stage(second, place).requires_grad_(False)
    assert isinstance(trained, DRUNet)
    save_weights(place.folder / "purifier.safetensors", trained.state_dict(), second.digest, config.sigma)
    return trained


def _channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)
