"""A network in torch of the user's own, behind an engine that has no more than its graph."""

from __future__ import annotations

import torch
from safetensors.torch import load
from torch import Tensor, nn

from export.from_torch import made_by
from export.outside import LAYOUTS
from export.outside_network import as_tokens
from export.recipe import Recipe
from fsfast.engine.engine import Engine, load_engine
from fsfast.errors import brief


class _Tokens(nn.Module):
    """A module whose output, in a layout of export.outside.LAYOUTS, becomes tokens [M, L, D]."""

    def __init__(self, module: nn.Module, layout: str) -> None:
        super().__init__()
        self.module, self.layout = module, layout

    def forward(self, pixels: Tensor) -> Tensor:
        return as_tokens(self.module(pixels), self.layout)


def own_module(recipe: Recipe, factory: str | None) -> nn.Module | None:
    """Return the module that a factory makes, if it computes what the engine's encoder does; None where none is needed.

    Args:
        recipe: of an engine whose encoder came as an ONNX graph, or any other.
        factory: MODULE:FACTORY, or None.

    Returns:
        [M, 3, H, W] normalised pixels → [M, L, D]; in evaluation mode, without gradients of its weights.

    Raises:
        ValueError: a factory is missing, or not wanted; it fails, or its module computes something else.
    """
    if recipe.outside is None:
        if factory is not None:
            raise ValueError(f"{recipe.name} has a network in torch of its own; leave --module {factory} out")
        return None
    assert recipe.engine is not None
    engine = load_engine(recipe.engine)
    if factory is None:
        (source,) = (
            each["source"] for each in engine.manifest.record["provenance"] if each["stage"] == "encoder"
        )
        raise ValueError(
            f"{engine.path}: its encoder came as an ONNX graph ({source}), and training wants a network in torch; give "
            "the one that the graph was made of with --module MODULE:FACTORY, or train behind an engine of a recipe"
        )
    module = made_by(factory)
    return _Tokens(module, _layout(module, factory, engine))


def _layout(module: nn.Module, factory: str, engine: Engine) -> str:
    """The layout in which a module's output is the engine's golden one."""
    golden = load(engine.read(engine.manifest.golden))
    pixels, wanted = golden["encoder.input"], golden["encoder.output"]
    try:
        with torch.no_grad():
            output = module(pixels)
    # The user's code may raise anything.
    except Exception as error:
        raise ValueError(f"{factory}: {type(error).__name__}: {brief(error)}") from None
    tolerance = engine.manifest.stages["encoder"]["float32"].tolerance * float(wanted.abs().max())
    for layout, axes in LAYOUTS.items():
        if isinstance(output, Tensor) and output.ndim == len(axes):
            tokens = as_tokens(output, layout)
            if tokens.shape == wanted.shape and float((tokens - wanted).abs().max()) <= tolerance:
                return layout
    raise ValueError(
        f"wanted {factory} to compute what the encoder of {engine.path} does, got another output for the pixels that "
        "are stored there; give the module, and the weights, that the engine was made of"
    )
