"""The paper's purifier and mapper for a published encoder, on any folder of images: both stages of Algorithm 1."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from export.networks import PURIFIERS, feature_dim, fold
from export.published import Published
from export.recipe import Recipe
from fsfast.kernels.tables import resize_tables
from fsfast.models import OneStepPurifier, SmoothnessMapper, UNet
from fsfast.models.function import axis_matrix
from fsfast.schedule import Denoise
from train.checkpoint import save_weights
from train.config import Schedule
from train.images import ImageFolder
from train.loop import Place, Stage, run_stage, step_generator
from train.losses import add_noise, feature_cosine, mapper_loss, purifier_loss

_PURIFIER = Schedule(steps=12_000, batch=4, rate=5e-5, weight_decay=0.01)
# 8 epochs of 5,000 images.
_MAPPER = Schedule(steps=2_500, batch=16, rate=2e-4, weight_decay=0.01)


@dataclass(frozen=True)
class PsmConfig:
    """Sizes and schedules; the defaults are the paper's, where it says them.

    Attributes:
        seed: of the order of the images, new weights and noise.
        purifier, mapper: the stages' optimisation.
        blocks: of the mapper.
        noises: per image and step of the mapper.
        cosine_weight, pixel_weight: of the purifier's loss.
        stats_weight, identity_weight: of the mapper's loss.
        bf16: compute the networks in bfloat16 (weights, losses and optimiser stay float32).
        checkpointing: recompute the U-Net's activations in the backward pass instead of keeping them.
    """

    seed: int = 0
    purifier: Schedule = _PURIFIER
    mapper: Schedule = _MAPPER
    blocks: int = 3
    noises: int = 8
    cosine_weight: float = 0.25
    pixel_weight: float = 0.25
    stats_weight: float = 100.0
    identity_weight: float = 0.25
    bf16: bool = False
    checkpointing: bool = False


class FrozenEncoder(nn.Module):
    """What an engine does behind the purifier: antialiased resize, normalisation, encoder.

    Args:
        recipe: grid, normalisation and output.
        features: the encoder's network for that output.
        size: height and width of its input.
    """

    mean: Tensor
    std: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, recipe: Recipe, features: nn.Module, size: int) -> None:
        super().__init__()
        self.features = features
        resize = resize_tables((recipe.grid.height, recipe.grid.width), (size, size))
        self.register_buffer("rows", axis_matrix(resize.rows))
        self.register_buffer("columns", axis_matrix(resize.columns))
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(recipe, name)).reshape(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode [B, 3, H, W] in [0, 1] on the grid to [B, L, D] float32."""
        # Weights of the resize are not for bfloat16.
        with torch.autocast(pixels.device.type, enabled=False):
            fitted = self.rows @ pixels.float() @ self.columns.T
        features: Tensor = self.features((fitted - self.mean) / self.std)
        return features.float()


@dataclass(frozen=True)
class Setting:
    """What both stages work with.

    Attributes:
        config: sizes and schedules.
        sigma: noise level in [0,1] pixel units.
        data: images.
        encoder: frozen.
        origin: of weights that were loaded, and how they are put together.
    """

    config: PsmConfig
    sigma: float
    data: ImageFolder
    encoder: FrozenEncoder
    origin: str

    def digest(self, stage: str) -> str:
        """Return a sha256 that changes with everything that a stage depends on."""
        record = asdict(self.config) | {
            "sigma": self.sigma,
            "origin": self.origin,
            "data": self.data.digest(),
        }
        if stage == "purifier":
            record = {k: v for k, v in record.items() if k not in ("mapper", "blocks", "noises")}
        return hashlib.sha256(json.dumps([stage, record], sort_keys=True).encode()).hexdigest()

    def autocast(self) -> torch.autocast:
        """Return the context in which networks compute."""
        return torch.autocast(self.data.device.type, torch.bfloat16, enabled=self.config.bf16)

    def noisy(self, stage: str, step: int, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Return the noise, standard normal, and the noisy grid values."""
        generator = step_generator(self.config.seed, stage, step, clean.device)
        z = torch.randn(clean.shape, generator=generator, device=clean.device)
        return z, add_noise(clean, z, self.sigma)


class PsmPurifier:
    """Stage 1: L_P through the frozen encoder.

    Args:
        common: of both stages.
        unet: to be trained.
    """

    name = "purifier"

    def __init__(self, common: Setting, unet: UNet) -> None:
        self.common = common
        self.schedule = common.config.purifier
        self.digest = common.digest(self.name)
        self.module = unet
        self.denoise = Denoise.at_sigma(common.sigma)

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """See `Stage`."""
        common, config, denoise = self.common, self.common.config, self.denoise
        clean = common.data.batch(step, self.schedule.batch)
        noise, noisy = common.noisy(self.name, step, clean)
        x_t = denoise.scale * noisy + denoise.offset
        with common.autocast():
            noise_hat = self.module(x_t, denoise.t)[:, :3].float()
            purified = ((denoise.a * x_t - denoise.b * noise_hat).clamp(-1.0, 1.0) + 1.0) / 2.0
            with torch.no_grad():
                anchor = common.encoder(clean / 255.0)
            tokens = common.encoder(purified)
        cosines = feature_cosine(tokens, anchor)
        weights = (config.cosine_weight, config.pixel_weight)
        loss = purifier_loss(noise_hat, noise, purified, clean / 255.0, cosines, *weights)
        error = (purified.detach() - clean / 255.0).square().mean().sqrt().item()
        return loss, {"cosine": cosines.mean().item(), "rmse": error}


class PsmMapper:
    """Stage 2: L_M behind the frozen purifier and encoder.

    Args:
        common: of both stages.
        purifier: frozen, or None.
        mapper: to be trained.
    """

    name = "mapper"

    def __init__(self, common: Setting, purifier: OneStepPurifier | None, mapper: SmoothnessMapper) -> None:
        self.common = common
        self.schedule = common.config.mapper
        self.digest = common.digest(self.name)
        self.purifier = purifier
        self.module = mapper

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """See `Stage`."""
        common, config = self.common, self.common.config
        clean = common.data.batch(step, self.schedule.batch)
        with torch.no_grad(), common.autocast():
            _, noisy = common.noisy(self.name, step, clean.repeat_interleave(config.noises, 0))
            pixels = noisy / 255.0 if self.purifier is None else self.purifier(noisy).float()
            tokens = common.encoder(pixels)
            anchor = common.encoder(clean / 255.0).repeat_interleave(config.noises, 0)
        with common.autocast():
            refined = self.module(tokens, common.sigma).float()
            # One image is enough for a term that is zero by construction.
            at_zero = self.module(tokens[:1], 0.0).float() - tokens[:1]
        loss = mapper_loss(refined, anchor, at_zero, config.stats_weight, config.identity_weight)
        shown = {
            "before": feature_cosine(tokens, anchor).mean().item(),
            "cosine": feature_cosine(refined.detach(), anchor).mean().item(),
        }
        return loss, shown


def train_psm(config: PsmConfig, recipe: Recipe, folder: Path, place: Place, device: torch.device) -> None:
    """Train purifier (unless the recipe has none) and mapper; write purifier.safetensors and mapper.safetensors.

    Args:
        config: sizes and schedules.
        recipe: encoder, σ and grid, with the files of the encoder and, to start from, of the purifier.
        folder: of images.
        place: where the run lives; finished stages are taken from their last checkpoint.
        device: of networks and data.

    Raises:
        ValueError, CheckpointError: files are missing or do not fit, or checkpoints of another run are in the way.
    """
    start = Published(recipe if "purifier" in recipe.files else replace(recipe, purifier=None))
    encoder = start.load("encoder")
    features = fold(recipe, encoder).module
    frozen = FrozenEncoder(recipe, features, encoder.config.image_size).to(device)
    torch.manual_seed(config.seed + 1)
    unet = _unet(recipe, start)
    sources = [start.provenance(stage)[0] for stage in recipe.files]
    origin = json.dumps([*sources, recipe.purifier, recipe.output, recipe.ln_post, asdict(recipe.grid)])
    data = ImageFolder(folder, recipe.grid, config.seed, device)
    common = Setting(config, recipe.sigma, data, frozen, origin)
    purifier = None
    if unet is not None:
        unet.checkpointing = config.checkpointing
        trained = _finished(PsmPurifier(common, unet.to(device)), place, recipe.sigma)
        assert isinstance(trained, UNet)
        purifier = OneStepPurifier(trained, recipe.sigma)
    torch.manual_seed(config.seed + 2)
    mapper = SmoothnessMapper(feature_dim(recipe), config.blocks).to(device)
    _finished(PsmMapper(common, purifier, mapper), place, recipe.sigma)


def _unet(recipe: Recipe, start: Published) -> UNet | None:
    if recipe.purifier is None:
        return None
    if "purifier" not in recipe.files:
        return UNet(PURIFIERS[recipe.purifier])
    unet = start.load("purifier")
    assert isinstance(unet, UNet)
    return unet.requires_grad_(True)


def _finished(stage: Stage, place: Place, sigma: float) -> nn.Module:
    module = run_stage(stage, place).requires_grad_(False)
    save_weights(place.folder / f"{stage.name}.safetensors", module.state_dict(), stage.digest, sigma)
    return module
