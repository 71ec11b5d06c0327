"""Who encodes the images of a command: an engine here, or a server."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from fsfast.commands.common import check_sampling, open_encoder

if TYPE_CHECKING:
    from fsfast.images.grid import Grid
    from fsfast.runtime.features import SmoothedFeatures
    from fsfast.runtime.many import Outcome

# Of the engine that would run here, and what a server does not give.
_LOCAL = ("device", "backend", "precision", "threads", "micro_batch", "graph_threads", "stages", "raw_mean")


@dataclass(frozen=True)
class Encoding:
    """What a command knows of who encodes.

    Attributes:
        function_id: what computes the features.
        n0: samples per image where a call does not say otherwise.
        sigma: noise level in [0, 1] pixel units.
        grid: the size on which images are smoothed.
        random_weights: whether the networks were never trained.
        encode_iter: as of `SmoothedEncoder`.
    """

    function_id: str
    n0: int
    sigma: float
    grid: Grid
    random_weights: bool
    encode_iter: Callable[..., Iterator[Outcome[SmoothedFeatures]]]


def server_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option that names a server."""
    parser.add_argument(
        "--server",
        metavar="URL",
        help="take the features from `fsfast serve` there; ENGINE is then the name of its model, and FSFAST_API_KEY "
        "the key where one is wanted",
    )


@contextmanager
def encoding(args: argparse.Namespace) -> Iterator[Encoding]:
    """Open the engine that the arguments name, here or on their server.

    Raises:
        ValueError: an option of an engine here, and a server.
        FsfastError: as `open_encoder` and `Client`.
    """
    if args.server is None:
        with open_encoder(args) as encoder:
            encode_iter = partial(encoder.encode_iter, raw_mean=args.raw_mean)
            random = encoder.manifest.random_weights
            yield Encoding(encoder.function_id, encoder.n0, encoder.sigma, encoder.grid, random, encode_iter)
        return
    for name in _LOCAL:
        if getattr(args, name) not in (None, "auto", False):
            option = name.replace("_", "-")
            raise ValueError(
                f"wanted --server or --{option}, got both: the server chooses how its engines run"
            )
    check_sampling(args)
    from fsfast.client import Client

    key = os.environ.get("FSFAST_API_KEY") or None
    with Client(args.server, args.engine, key=key) as client:
        model = client.describe()
        yield Encoding(
            model.function_id, model.n0, model.sigma, model.grid, model.random_weights, client.encode_iter
        )
