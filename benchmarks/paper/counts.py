"""What networks cost, counted and not measured: operations, weights, activations of one sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from export.networks import PURIFIERS, encoder_config, features
from export.recipe import Recipe
from fsfast.models import FoldedMapper, FoldedUNet


@dataclass(frozen=True)
class Count:
    """One network, float32, on one sample.

    Attributes:
        flops: floating-point operations, 2 per multiplication and addition.
        weight_bytes: of its parameters.
        activation_bytes: the most that its intermediate results hold at a time.
    """

    flops: int
    weight_bytes: int
    activation_bytes: int


def counts(recipe: Recipe, blocks: int) -> dict[str, Count]:
    """Return stage → count of the stages that the recipe has, the mapper with so many blocks.

    Nothing is computed for it, and no memory is taken.
    """
    config = encoder_config(recipe)
    tokens, dim = config.feature_shape(recipe.output)
    shapes = {
        "purifier": (1, 3, *recipe.grid.size),
        "encoder": (1, 3, config.image_size, config.image_size),
        "mapper": (1, tokens, dim),
    }
    with torch.device("meta"):
        modules: Mapping[str, nn.Module] = {
            **({} if recipe.purifier is None else {"purifier": FoldedUNet(PURIFIERS[recipe.purifier])}),
            "encoder": features(recipe),
            "mapper": FoldedMapper(dim, blocks),
        }
        return {stage: _count(module, torch.empty(shapes[stage])) for stage, module in modules.items()}


def _count(module: nn.Module, example: Tensor) -> Count:
    weights = sum(p.numel() * p.element_size() for p in module.parameters())
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            module(example)
        with _Live(module) as live:
            module(example)
    return Count(int(counter.get_total_flops()), weights, live.most)


class _Live(TorchDispatchMode):
    """Follows how many bytes the results of operations hold; views of the module's weights hold none."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.most = 0
        self._weights = {p.untyped_storage()._cdata for p in (*module.parameters(), *module.buffers())}
        self._held: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self._held = {key: held for key, held in self._held.items() if not held[0].expired()}
        for tensor in tree_leaves(out):
            if (
                isinstance(tensor, Tensor)
                and (storage := tensor.untyped_storage())._cdata not in self._weights
            ):
                self._held[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.most = max(self.most, sum(size for _, size in self._held.values()))
        return out
