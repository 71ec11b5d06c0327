"""Stage 0: the vanilla encoder, trained without any noise, and the directions of its classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fsfast.models import VisionTransformer, ViTConfig
from train.config import EncoderConfig, StudyConfig
from train.data import StudyData
from train.glyphs import CLASSES
from train.losses import class_cosines, encoder_loss

# CLIP's, as every engine's.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class VanillaEncoder(VisionTransformer):
    """The ViT on pixels in [0, 1], with the engine's normalisation and output."""

    def tokens(self, pixels: Tensor) -> Tensor:
        """Encode [B, 3, S, S] in [0, 1] to tokens after ln_post, [B, L, D]."""
        mean, std = (pixels.new_tensor(values).reshape(1, 3, 1, 1) for values in (MEAN, STD))
        return self((pixels - mean) / std, "tokens", True)


class Classifier(nn.Module):
    """The encoder and one direction per class.

    Args:
        config: of the encoder.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.encoder = VanillaEncoder(config)
        self.class_features = nn.Parameter(torch.randn(CLASSES, config.width))


class EncoderStage:
    """Cross-entropy over cosines on freshly drawn images, on plain grounds first.

    Args:
        config: of the run.
        data: training data.
    """

    name = "encoder"

    def __init__(self, config: StudyConfig, data: StudyData) -> None:
        self.config: EncoderConfig = config.encoder
        self.schedule = self.config.schedule
        self.digest = config.digest("encoder")
        self.parts: dict[str, str] = {}
        self.data = data
        torch.manual_seed(config.seed)
        self.module = Classifier(self.config.vit).to(data.device)

    def texture(self, step: int) -> float:
        """Return the strength of the grounds' texture at a step: 0, then rising, then 1."""
        share = step / self.schedule.steps
        plain, full = self.config.plain, self.config.full
        return min(1.0, max(0.0, (share - plain) / (full - plain)))

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """See `Stage`."""
        batch = self.data.batch(step, self.schedule.batch, self.texture(step))
        tokens = self.module.encoder.tokens(batch.images / 255.0)
        classes = self.module.class_features
        loss = encoder_loss(tokens, classes, batch.labels, self.config.temperature, self.config.token_weight)
        right = class_cosines(tokens.detach(), classes.detach()).argmax(1) == batch.labels
        return loss, {"accuracy": right.float().mean().item()}
