"""Build an engine around an encoder from outside; purifier and mapper come from files."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from torch import Tensor as TorchTensor
from torch import nn

from fsfast.engine.graph_check import check_graph

from .build import build_engine
from .onnx_file import OnnxFile, Tensor
from .onnx_rows import for_any_rows
from .outside import input_size, recipe_of
from .outside_network import ENDS, OutsideEncoder
from .published import Published
from .recipe import Recipe
from .weights import point_into


class WithOutside:
    """Networks of such an engine.

    Args:
        recipe: what to build.
        encoder: the encoder.
        origin: where it comes from, for the manifest.

    Raises:
        CheckpointError, ValueError: as `Published`, of purifier and mapper.
    """

    def __init__(self, recipe: Recipe, encoder: OutsideEncoder, origin: str) -> None:
        self._encoder, self._origin = encoder, origin
        self._files = Published(recipe)

    def load(self, stage: str) -> nn.Module:
        """See `export.networks.Source`."""
        return self._encoder if stage == "encoder" else self._files.load(stage)

    def provenance(self, stage: str) -> tuple[str, str]:
        """See `export.networks.Source`."""
        if stage == "encoder":
            return self._origin, self._files.licence(stage)
        return self._files.provenance(stage)


def chosen(tensors: Sequence[Tensor], asked: str | None, side: str) -> Tensor:
    """Return the tensor of this name, or the only one.

    Args:
        tensors: the inputs or the outputs of a graph.
        asked: a name, or None.
        side: "input" or "output", for messages.

    Raises:
        ValueError: there is none of this name, or several where none is named.
    """
    names = ", ".join(repr(tensor.name) for tensor in tensors)
    found = [tensor for tensor in tensors if asked in (None, tensor.name)]
    if len(found) != 1:
        wanted = f"the {side} {asked!r}" if asked is not None else f"one {side}"
        raise ValueError(
            f"wanted {wanted} of the graph, which has {names or 'none'}; choose with --{side} NAME"
        )
    return found[0]


def build_outside(
    args: argparse.Namespace,
    file: OnnxFile,
    ends: tuple[Tensor, Tensor],
    original: Callable[[TorchTensor], TorchTensor],
    name: str,
    origin: str,
) -> None:
    """Build the engine.

    Args:
        args: parsed by a parser that has `export.outside.add_arguments`.
        file: the encoder's graph.
        ends: its input and output.
        original: what the graph is compared with, [M, 3, H, W] → its output.
        name: of the encoder.
        origin: where it comes from, for the manifest.

    Raises:
        ValueError: the graph is none for an engine, or options contradict it or each other.
        EngineError, CheckpointError: as `export.build.build_engine`.
    """
    entry, target = ends
    if entry.dtype != "float32":
        raise ValueError(f"wanted a float32 input, got {entry.name!r} of type {entry.dtype or 'unknown'}")
    size = input_size(entry.shape, args.size, f"the input {entry.name!r}")
    found = for_any_rows(file, entry.name, target.name, size, args.layout, ENDS)
    # Budgets, before anything is run.
    check_graph(point_into(found.graph, dict.fromkeys(found.graph.weights, 0), 0, "weights"), "weights")
    print(
        f"{target.name}: {found.layout}, {'×'.join(map(str, found.features))}, of {size[0]}×{size[1]} pixels"
    )
    recipe = recipe_of(args, name, size, found.features, found.layout)
    source = WithOutside(recipe, OutsideEncoder(original, found.layout, found.graph), origin)
    build_engine(recipe, args.out, force=args.force, micro_batch=args.micro_batch, source=source)
