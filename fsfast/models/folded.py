"""The networks of an engine as torch modules: built from its architecture, filled with its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from safetensors.torch import load
from torch import nn

from fsfast.engine.engine import Engine
from fsfast.errors import EngineError, brief
from fsfast.models.drunet import DRUNet, DRUNetConfig
from fsfast.models.efficientnet import EfficientNetConfig, EfficientNetFeatures
from fsfast.models.low_rank_mapper import LowRankMapper
from fsfast.models.mapper import FoldedMapper
from fsfast.models.unet import FoldedUNet, UNetConfig
from fsfast.models.vit import ViTFeatures
from fsfast.models.vit_config import ViTConfig


def load_folded(
    engine: Engine, precision: str = "float32", stages: Sequence[str] | None = None
) -> dict[str, nn.Module]:
    """Return stage → module in evaluation mode: what the engine's graphs compute, for torch, with float32 weights.

    Args:
        engine: a verified engine.
        precision: one of its precisions.
        stages: those that are wanted; None: all.

    Raises:
        EngineError: its architecture is unknown, or does not fit its weights.
    """
    content = engine.read(engine.manifest.weights[precision])
    try:
        weights = load(content)
    # The reader raises its own errors and, for dtypes that it lacks, KeyError or AttributeError.
    except Exception as error:
        raise EngineError(f"{engine.path}: its weights are not a safetensors file: {brief(error)}") from None
    modules = {}
    for stage in engine.manifest.stages if stages is None else stages:
        own = {
            name.removeprefix(f"{stage}."): tensor.float() if tensor.dtype == torch.float16 else tensor
            for name, tensor in weights.items()
            if name.startswith(f"{stage}.")
        }
        try:
            with torch.device("meta"):
                module = _module(engine.manifest.record["architecture"][stage], len(own))
            module.load_state_dict(own, assign=True)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = brief(error)
            raise EngineError(
                f"{engine.path}: the {stage} cannot be built from its architecture: {reason}"
            ) from None
        modules[stage] = module.eval().requires_grad_(False)
    return modules


def _module(architecture: dict[str, Any], tensors: int) -> nn.Module:
    if architecture.get("type") == "onnx":
        raise ValueError(
            "it came as an ONNX graph, and no network in torch is known; on a GPU choose backend='onnxruntime' (or "
            "'tensorrt', 'tensorrt_rtx'); training takes the network with --module, attacks need another engine"
        )
    config: dict[str, Any] = architecture["config"]
    # Each block has weights; a number without them would only cost time.
    blocks = max(_count(config.get(name, 1)) for name in ("layers", "blocks", "res_blocks"))
    if blocks * len(config.get("multipliers", [0])) > tensors:
        raise ValueError(f"it has {blocks} blocks, its weights are {tensors} tensors")
    kind = architecture["type"]
    # JSON has lists where the configuration has tuples.
    listed: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
    if kind == "unet":
        return FoldedUNet(UNetConfig(**listed))
    if kind == "drunet":
        return DRUNet(DRUNetConfig(**listed))
    if kind == "vit":
        return ViTFeatures(ViTConfig.from_record(config), architecture["output"], architecture["ln_post"])
    if kind == "efficientnet":
        efficient = EfficientNetConfig.from_record(config)
        if efficient.blocks > tensors:
            raise ValueError(f"it has {efficient.blocks} blocks, its weights are {tensors} tensors")
        return EfficientNetFeatures(efficient, architecture["output"])
    if kind == "mapper":
        return FoldedMapper(**config)
    if kind == "low_rank_mapper":
        return LowRankMapper(**config)
    raise ValueError(
        f"wanted a type among unet, drunet, vit, efficientnet, mapper and low_rank_mapper, got {kind!r}"
    )


def _count(blocks: Any) -> int:
    """Return a number of blocks, of all levels together where each has its own."""
    return sum(map(int, blocks)) if isinstance(blocks, list) else int(blocks)
