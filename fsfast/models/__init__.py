"""The networks, in torch.

Import them from here (`from fsfast.models import UNet`): torch is imported at that moment, and a
missing torch is reported as BackendUnavailable.
"""

import importlib
from typing import TYPE_CHECKING, Any

from fsfast.errors import BackendUnavailable
from fsfast.installation import pip_install_extras

if TYPE_CHECKING:
    from fsfast.models.checkpoints import (
        Inspection,
        Loaded,
        LoadedEfficientNet,
        LoadedEncoder,
        inspect_checkpoint,
        load_efficientnet,
        load_encoder,
        load_mapper,
        load_purifier,
        load_text_tower,
    )
    from fsfast.models.drunet import DRUNET_LIGHT, DRUNet, DRUNetConfig
    from fsfast.models.efficientnet import (
        EFFICIENTNET_LITE0,
        EfficientNet,
        EfficientNetConfig,
        EfficientNetFeatures,
    )
    from fsfast.models.low_rank_mapper import LowRankMapper
    from fsfast.models.mapper import FoldedMapper, SmoothnessMapper
    from fsfast.models.purifier import Denoiser, DenoiserConfig, OneStepPurifier, new_denoiser, predict_noise
    from fsfast.models.text import TextConfig, TextTower
    from fsfast.models.unet import ADM256, UNET_LIGHT, UNET_TINY, FoldedUNet, UNet, UNetConfig
    from fsfast.models.vit import VisionTransformer, ViTFeatures
    from fsfast.models.vit_config import VIT_B_16, VIT_B_32, VIT_L_14, VIT_L_14_336, VIT_TINY, ViTConfig

__all__ = [
    "ADM256",
    "DRUNET_LIGHT",
    "EFFICIENTNET_LITE0",
    "UNET_LIGHT",
    "UNET_TINY",
    "VIT_B_16",
    "VIT_B_32",
    "VIT_L_14",
    "VIT_L_14_336",
    "VIT_TINY",
    "DRUNet",
    "DRUNetConfig",
    "Denoiser",
    "DenoiserConfig",
    "EfficientNet",
    "EfficientNetConfig",
    "EfficientNetFeatures",
    "FoldedMapper",
    "FoldedUNet",
    "Inspection",
    "Loaded",
    "LoadedEfficientNet",
    "LoadedEncoder",
    "LowRankMapper",
    "OneStepPurifier",
    "SmoothnessMapper",
    "TextConfig",
    "TextTower",
    "UNet",
    "UNetConfig",
    "ViTConfig",
    "ViTFeatures",
    "VisionTransformer",
    "inspect_checkpoint",
    "load_efficientnet",
    "load_encoder",
    "load_mapper",
    "load_purifier",
    "load_text_tower",
    "new_denoiser",
    "predict_noise",
]

_HOME = {
    "checkpoints": (
        *("Inspection", "inspect_checkpoint"),
        *("Loaded", "LoadedEfficientNet", "LoadedEncoder", "load_efficientnet", "load_encoder"),
        *("load_mapper", "load_purifier", "load_text_tower"),
    ),
    "drunet": ("DRUNET_LIGHT", "DRUNet", "DRUNetConfig"),
    "efficientnet": ("EFFICIENTNET_LITE0", "EfficientNet", "EfficientNetConfig", "EfficientNetFeatures"),
    "low_rank_mapper": ("LowRankMapper",),
    "mapper": ("FoldedMapper", "SmoothnessMapper"),
    "purifier": ("Denoiser", "DenoiserConfig", "OneStepPurifier", "new_denoiser", "predict_noise"),
    "text": ("TextConfig", "TextTower"),
    "unet": ("ADM256", "UNET_LIGHT", "UNET_TINY", "FoldedUNet", "UNet", "UNetConfig"),
    "vit": ("VisionTransformer", "ViTFeatures"),
    "vit_config": ("VIT_B_16", "VIT_B_32", "VIT_L_14", "VIT_L_14_336", "VIT_TINY", "ViTConfig"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        importlib.import_module("torch")
    except ImportError as error:
        raise BackendUnavailable(
            f"fsfast.models.{name} needs torch, which cannot be imported here ({error}); "
            f"install it with: {pip_install_extras('export')}"
        ) from error
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
