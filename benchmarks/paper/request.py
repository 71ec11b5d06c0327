"""What is asked for, the files that it names, and whether they can be used: all of it before any work."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measuring import harness
from export.networks import PURIFIERS, check_networks, encoder_config
from export.options import Options, customise
from export.published import Published
from export.recipe import Recipe, load_recipe
from fsfast.backends.device.place import cuda_device
from fsfast.commands.inputs import image_paths
from fsfast.errors import FsfastError
from fsfast.files import file_sha256
from fsfast.images.grid import to_grid_image
from fsfast.models import UNet, load_encoder, load_mapper, load_purifier
from fsfast.models.averages import Weights
from fsfast.models.checkpoints import ReadFile


@dataclass(frozen=True)
class Request:
    """The command's arguments.

    Attributes:
        purifiers: files of U-Nets; the first is the one of Tables 2 and 5.
        encoder, mapper: files of weights, of the encoder also a directory.
        images: folder of images; the first `count` of them by name.
        recipe: how the encoder is used.
        sigmas: noise levels; Table S.8 is measured at the first.
        numbers: values of n0.
        n, alpha: of the certificates.
        runs: timed runs of an encode, after one that warms up.
        attack_steps: of the attack under which the FCS is measured.
        train: folder of images to train purifier and mapper on, or None.
        purifier_steps, mapper_steps: of the training.
        device: "cuda" or "cpu".
        backend, precision: as of SmoothedEncoder.
        micro_batch: M of the certificates.
        out, work: folders of the results, and of engines and training runs.
        rehearsal: "" or what of; the weights are then random.
        weights: stage → which weights of its files are meant, where they hold raw ones and their average.
    """

    purifiers: tuple[Path, ...]
    encoder: Path
    mapper: Path | None
    images: Path
    count: int
    recipe: str
    sigmas: tuple[float, ...]
    numbers: tuple[int, ...]
    n: int
    alpha: float
    runs: int
    attack_steps: int
    train: Path | None
    purifier_steps: int
    mapper_steps: int
    device: str
    backend: str
    precision: str
    micro_batch: int | None
    out: Path
    work: Path
    rehearsal: str = ""
    weights: Mapping[str, Weights] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on a GPU."""
        return self.device == "cuda"

    @property
    def machine(self) -> str:
        """The device's name, as folders of results have it."""
        return harness.gpu() if self.on_gpu else harness.machine()


@dataclass(frozen=True)
class File:
    """A file of weights that was read: what it is for, and the rest as ReadFile."""

    role: str
    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Inputs:
    """What the files hold.

    Attributes:
        purifiers: preset → file, in the order of the request.
        files: all that were read.
        images: paths.
        images_sha256: over the sha256 of all of them.
    """

    purifiers: dict[str, Path]
    files: tuple[File, ...]
    images: tuple[str, ...]
    images_sha256: str


class Refused(FsfastError):
    """Something that the request names cannot be used; the message has a line for each."""


def recipe_for(
    request: Request, sigma: float, purifier: tuple[str, Path] | None, mapper: Path | None
) -> Recipe:
    """Return the recipe of an engine with these files; the purifier as preset and file.

    Raises:
        ValueError: the recipe does not exist, or does not go together with them.
    """
    chosen = "none" if purifier is None else f"{purifier[0]}={purifier[1]}"
    files = {"encoder": request.encoder, "purifier": purifier and purifier[1], "mapper": mapper}
    # Those that were trained here hold one state dict.
    named = {request.encoder, *request.purifiers, request.mapper} - {None}
    weights = [(stage, meant) for stage, meant in request.weights.items() if files[stage] in named]
    options = Options(
        str(request.encoder), chosen, None if mapper is None else str(mapper), sigma=sigma, weights=weights
    )
    return customise(load_recipe(request.recipe), options)


def check(request: Request) -> Inputs:
    """Look at everything that the request names: names, shapes and values of weights, every image.

    Raises:
        Refused: with one line for each file that cannot be used.
    """
    faults = _Faults()
    if request.on_gpu:
        faults.tried(cuda_device, request.device)
    recipe = faults.tried(load_recipe, request.recipe)
    meant = request.weights.get
    unets = [faults.tried(_unet, path, meant("purifier")) for path in request.purifiers]
    load_tower = partial(load_encoder, weights=meant("encoder"))
    tower = faults.tried(load_tower, request.encoder, encoder_config(recipe)) if recipe else None
    load = partial(load_mapper, weights=meant("mapper"))
    mapper = faults.tried(load, request.mapper) if request.mapper else None
    images = faults.tried(_images, request) if recipe else None
    if request.train is not None:
        faults.tried(_check_training, request)
    faults.refuse()
    purifiers = {preset: path for (preset, _), path in zip(unets, request.purifiers, strict=True)}
    if len(purifiers) < len(unets):
        raise Refused(
            f"wanted purifiers of different kinds, got {', '.join(p for p, _ in unets)}; name one of each"
        )
    for sigma in request.sigmas:
        for purifier in (None, *purifiers.items()):
            faults.tried(_check_together, request, sigma, purifier)
    faults.refuse()
    assert tower is not None
    assert images is not None
    roles = [*(("purifier", files) for _, files in unets), ("encoder", tower.files)]
    roles += [("mapper", mapper.files)] if mapper else []
    files = (File(role, file.name, file.bytes, file.sha256) for role, found in roles for file in found)
    return Inputs(purifiers, tuple(files), *images)


class _Faults(list[str]):
    """What cannot be used, in words."""

    def tried(self, work: Callable[..., Any], *arguments: object) -> Any:
        """Return what a check returns, or None and keep what it says."""
        try:
            return work(*arguments)
        except (FsfastError, ValueError, OSError) as error:
            self.append(str(error))
            return None

    def refuse(self) -> None:
        """Raise Refused where there are any."""
        if self:
            raise Refused("\n".join(dict.fromkeys(self)))


def _unet(path: Path, weights: Weights | None) -> tuple[str, tuple[ReadFile, ...]]:
    loaded = load_purifier(path, weights=weights)
    if not isinstance(loaded.module, UNet):
        raise ValueError(
            f"{path}: wanted a U-Net, which serves at every sigma, got a DRUNet, which is for one"
        )
    return next(name for name, config in PURIFIERS.items() if config == loaded.module.config), loaded.files


def _check_together(request: Request, sigma: float, purifier: tuple[str, Path] | None) -> None:
    recipe = recipe_for(request, sigma, purifier, request.mapper)
    check_networks(recipe)
    Published(recipe)


def _images(request: Request) -> tuple[tuple[str, ...], str]:
    if not request.images.is_dir():
        raise ValueError(f"wanted a folder of images, found none at {request.images}")
    found = image_paths(argparse.Namespace(images=[str(request.images)], null=False))[: request.count]
    if len(found) < 2:
        raise ValueError(
            f"wanted at least two images, since each is attacked towards the next, got {len(found)} in "
            f"{request.images}"
        )
    grid, digest, faults = load_recipe(request.recipe).grid, hashlib.sha256(), []
    for path in found:
        try:
            to_grid_image(path, grid)
            digest.update(file_sha256(Path(path)).encode())
        except (FsfastError, OSError) as error:
            faults.append(str(error))
    if faults:
        raise ValueError("\n".join(faults))
    return tuple(found), digest.hexdigest()


def _check_training(request: Request) -> None:
    assert request.train is not None
    if not request.train.is_dir():
        raise ValueError(f"wanted a folder of images to train on, found none at {request.train}")
    if request.train.resolve() == request.images.resolve():
        raise ValueError(
            f"wanted other images to train on than to measure on, got {request.train} for both; name another --train"
        )
    if request.mapper is not None:
        raise ValueError("wanted --train or --mapper, got both: training makes a mapper; leave one out")
