"""The paper's purifier and mapper for any encoder, on any folder of images: both stages of Algorithm 1."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from export.networks import PURIFIERS, check_networks, feature_dim, fold
from export.published import Published
from export.recipe import Recipe
from fsfast.engine.schedule import Denoise
from fsfast.models import Denoiser, FoldedUNet, OneStepPurifier, SmoothnessMapper, new_denoiser
from train.checkpoint import save_weights
from train.images import ImageFolder
from train.loop import Place, log, run_stage
from train.losses import feature_cosine, mapper_loss
from train.own_module import own_module
from train.psm_setting import FrozenEncoder, PsmConfig, Setting
from train.purifier import purifying

# Images that frozen networks see at once: 16 · 8 noises through adm256 would take tens of GB. No option, because sums
# round differently with other numbers, and a resumed run is to repeat every bit.
_ROWS = 8


class PsmPurifier:
    """Stage 1: L_P through the frozen encoder.

    Args:
        common: of both stages.
        unet: to be trained.
    """

    name = "purifier"

    def __init__(self, common: Setting, unet: Denoiser) -> None:
        self.common = common
        self.schedule = common.config.purifier
        self.digest, self.parts = common.digest(self.name), common.parts(self.name)
        self.module = unet
        self.denoise = Denoise.at_sigma(common.recipe.sigma)

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """See `Stage`."""
        common, config = self.common, self.common.config
        clean = common.data.batch(step, self.schedule.batch)
        images = (clean, *common.noisy(self.name, step, clean))
        weights = (config.cosine_weight, config.pixel_weight)
        return purifying(self.module, self.denoise, common.encoder, images, weights, common.autocast())


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
        self.digest, self.parts = common.digest(self.name), common.parts(self.name)
        self.purifier = purifier
        self.module = mapper

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """See `Stage`."""
        common, config = self.common, self.common.config
        clean = common.data.batch(step, self.schedule.batch)
        _, noisy = common.noisy(self.name, step, clean.repeat_interleave(config.noises, 0))
        tokens = self._tokens(noisy, self.purifier)
        anchor = self._tokens(clean, None).repeat_interleave(config.noises, 0)
        with common.autocast():
            refined = self.module(tokens, common.recipe.sigma).float()
            # One image is enough for a term that is zero by construction.
            at_zero = self.module(tokens[:1], 0.0).float() - tokens[:1]
        loss = mapper_loss(refined, anchor, at_zero, config.stats_weight, config.identity_weight)
        shown = {
            "before": feature_cosine(tokens, anchor).mean().item(),
            "cosine": feature_cosine(refined.detach(), anchor).mean().item(),
        }
        return loss, shown

    def on_held_out(self, mapper: SmoothnessMapper) -> dict[str, float]:
        """Return mean cosines to the clean features on the images that are held out, one noise each.

        Args:
            mapper: finished.

        Returns:
            of noisy images without purifier and mapper, with the purifier (if there is one), and with both.
        """
        common, found = self.common, dict[str, list[Tensor]]()
        paths = common.data.held_out
        for i in range(0, len(paths), _ROWS):
            clean = common.data.read(paths[i : i + _ROWS])
            _, noisy = common.noisy("held out", i, clean)
            anchor, tokens = self._tokens(clean, None), {"noisy": self._tokens(noisy, None)}
            if self.purifier is not None:
                tokens["purified"] = self._tokens(noisy, self.purifier)
            with common.autocast(), torch.no_grad():
                tokens["mapped"] = mapper([*tokens.values()][-1], common.recipe.sigma).float()
            for name, features in tokens.items():
                found.setdefault(name, []).append(feature_cosine(features, anchor))
        return {name: torch.cat(cosines).mean().item() for name, cosines in found.items()}

    @torch.no_grad()
    def _tokens(self, levels: Tensor, purifier: OneStepPurifier | None) -> Tensor:
        """Tokens of grid values [B, 3, H, W], a few images at a time: [B, L, D] float32."""
        parts = []
        with self.common.autocast():
            for part in levels.split(_ROWS):
                pixels = part / 255.0 if purifier is None else purifier(part).float()
                parts.append(self.common.encoder(pixels))
        return torch.cat(parts)


def train_psm(
    config: PsmConfig,
    recipe: Recipe,
    folder: Path,
    place: Place,
    device: torch.device,
    factory: str | None = None,
    held_out: float = 0.0,
) -> None:
    """Train purifier (unless the recipe has none) and mapper; write purifier.safetensors and mapper.safetensors.

    Args:
        config: sizes and schedules; with 0 steps the purifier stays as its file has it, and is not written.
        recipe: encoder, σ and grid, with the files of the encoder and, to start from, of the purifier.
        folder: of images.
        place: where the run lives; finished stages are taken from their last checkpoint.
        device: of networks and data.
        factory: MODULE:FACTORY of the encoder's network, where the recipe's engine has no more than its graph.
        held_out: share of the images that are not trained on; what networks do on them goes to the log.

    Raises:
        ValueError, CheckpointError, EngineError: files are missing or do not fit, the encoder has no network in torch,
            images cannot be decoded, or checkpoints of another run are in the way.
        OSError: the disk is full.
    """
    if recipe.purifier is not None and not config.purifier.steps and "purifier" not in recipe.files:
        raise ValueError(
            f"wanted a trained purifier for 0 steps (--purifier {recipe.purifier}=FILE), got new weights; "
            "give the file, or steps"
        )
    own = own_module(recipe, factory)
    preset = recipe.purifier if "purifier" in recipe.files else None
    start = Published(replace(recipe, purifier=preset, mapper_blocks=None))
    check_networks(replace(recipe, mapper_blocks=config.blocks))
    data = ImageFolder(folder, recipe.grid, config.seed, device, held_out)
    features = own or fold(recipe, start.load("encoder")).module
    frozen = FrozenEncoder(recipe, features).to(device)
    torch.manual_seed(config.seed + 1)
    unet = _unet(recipe, start)
    weights = {stage: start.hashes(stage) for stage in recipe.files}
    common = Setting(config, recipe, data, frozen, unet.config if unet else None, weights)
    purifier = None
    if unet is not None:
        unet.checkpointing = config.checkpointing
        trained = _purifier(common, unet.to(device), place)
        purifier = OneStepPurifier(trained, recipe.sigma)
        # The average goes on; weights and gradients of the training must not stay beside it.
        del unet, trained
    torch.manual_seed(config.seed + 2)
    mapper = SmoothnessMapper(feature_dim(recipe), config.blocks).to(device)
    stage = PsmMapper(common, purifier, mapper)
    finished = _finished(stage, place)
    if data.held_out:
        assert isinstance(finished, SmoothnessMapper)
        log(place.folder, {"stage": "held out", "images": len(data.held_out), **stage.on_held_out(finished)})


def _unet(recipe: Recipe, start: Published) -> Denoiser | FoldedUNet | None:
    if recipe.purifier is None:
        return None
    if "purifier" not in recipe.files:
        return new_denoiser(PURIFIERS[recipe.purifier])
    unet = start.load("purifier")
    # An engine's cannot be trained: σ is folded into it.
    if isinstance(unet, FoldedUNet):
        return unet
    assert isinstance(unet, Denoiser)
    return unet.requires_grad_(True)


def _purifier(common: Setting, unet: Denoiser | FoldedUNet, place: Place) -> Denoiser | FoldedUNet:
    """The purifier behind which the mapper is trained."""
    if isinstance(unet, FoldedUNet) or not common.config.purifier.steps:
        return unet.requires_grad_(False)
    trained = _finished(PsmPurifier(common, unet), place)
    assert isinstance(trained, Denoiser)
    return trained


def _finished(stage: PsmPurifier | PsmMapper, place: Place) -> nn.Module:
    module = run_stage(stage, place).requires_grad_(False)
    path = place.folder / f"{stage.name}.safetensors"
    common = stage.common
    save_weights(path, module.state_dict(), stage.digest, common.recipe.sigma, common.about())
    return module
