"""Networks of the paper's shapes with random weights, made on the device, and fsfast's function of them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.device.place import Place
from benchmarks.measuring.cases import MEAN, SIGMA, STD
from export.thresholds import gaussian_thresholds
from fsfast.backends.device.arithmetic import fixed_arithmetic
from fsfast.backends.device.lane import Lane
from fsfast.backends.device.place import device_class
from fsfast.backends.torch import place_modules
from fsfast.engine.engine import Engine
from fsfast.engine.manifest import STAGES, Manifest
from fsfast.engine.profile import Profile
from fsfast.engine.schedule import Denoise
from fsfast.images.grid import Grid
from fsfast.kernels.types import Dtype
from fsfast.models.mapper import FoldedMapper
from fsfast.models.unet import ADM256, UNET_LIGHT, UNET_TINY, FoldedUNet, UNetConfig
from fsfast.models.vit import ViTFeatures
from fsfast.models.vit_config import VIT_L_14_336, ViTConfig
from fsfast.runtime.gpu.function import GpuFunction
from fsfast.runtime.gpu.networks import Networks
from fsfast.runtime.gpu.pipeline import GpuPipeline


@dataclass(frozen=True)
class Case:
    """Which networks.

    Attributes:
        name: of the purifier.
        purifier, encoder: their shapes; the mapper has three blocks.
        side: of the grid.
    """

    name: str
    purifier: UNetConfig
    encoder: ViTConfig
    side: int


CASES = {
    "adm256": Case("adm256", ADM256, VIT_L_14_336, 256),
    "unet-light": Case("unet-light", UNET_LIGHT, VIT_L_14_336, 256),
}
_SMALL = ViTConfig(width=64, layers=2, heads=2, patch=8, image_size=24, embed_dim=64)


def case_of(name: str, place: Place) -> Case:
    """Return a case, or in a rehearsal a small one of the same name."""
    return Case(name, UNET_TINY, _SMALL, 16) if place.rehearsed else CASES[name]


def modules_of(case: Case) -> dict[str, nn.Module]:
    """Return stage → module on torch's default device, as they are initialised."""
    return {
        "purifier": FoldedUNet(case.purifier),
        "encoder": ViTFeatures(case.encoder, "penultimate"),
        "mapper": FoldedMapper(case.encoder.width),
    }


def random_modules(case: Case, device: torch.device) -> dict[str, nn.Module]:
    """Return stage → module, float32, with random weights."""
    torch.manual_seed(0)
    with device:
        modules = modules_of(case)
    for module in modules.values():
        for parameter in module.parameters():
            # Blocks that start as zero would let rounding off lightly.
            if not parameter.detach().any():
                nn.init.normal_(parameter, std=0.01)
    return {stage: module.eval().requires_grad_(False) for stage, module in modules.items()}


def engine_of(case: Case) -> Engine:
    """Return an engine without files for a case."""
    side = case.encoder.image_size
    manifest = Manifest(
        name=f"{case.name}-random",
        version="1",
        sigma=SIGMA,
        n0=4,
        random_weights=True,
        noise_file="",
        grid=Grid(case.side, case.side),
        denoise=Denoise.at_sigma(SIGMA),
        encoder_size=(side, side),
        mean=tuple(MEAN.tolist()),
        std=tuple(STD.tolist()),
        output="penultimate",
        tokens=case.encoder.patches,
        dim=case.encoder.width,
        stages={},
        weights={},
        golden="",
        files={},
        record={},
    )
    return Engine(Path(manifest.name), manifest, "0" * 64, gaussian_thresholds(SIGMA))


def placed(
    case: Case, modules: dict[str, nn.Module], lane: Lane, precision: Dtype, *, compiled: bool = False
) -> Networks:
    """Return the way from x_t to features through a copy of the modules."""
    with lane.current(), fixed_arithmetic():
        stages = place_modules(copy.deepcopy(modules), precision, lane.device, compiled=compiled)
        return Networks.of(engine_of(case).manifest, stages, lane.device)


def plain(case: Case, modules: dict[str, nn.Module], lane: Lane, precision: Dtype) -> Networks:
    """Return the way through the networks that torch-compile compiles, uncompiled: torch's own operators alone."""
    networks = placed(case, modules, lane, precision, compiled=True)
    assert networks.stages.plain is not None
    return networks.running(networks.stages.plain)


def function_of(
    case: Case,
    modules: dict[str, nn.Module],
    place: Place,
    precision: Dtype,
    micro_batch: int,
    *,
    compiled: bool = False,
) -> GpuFunction:
    """Return fsfast's function of the modules, of which it has a copy."""
    engine, lane = engine_of(case), Lane(place.device)
    compiled = compiled and not place.rehearsed
    networks = placed(case, modules, lane, precision, compiled=compiled)
    stages = networks.stages
    backend = "torch-compile" if compiled else "torch"
    profile = Profile(backend, stages.version, precision, micro_batch, device_class(place.device), STAGES)
    # The study says what memory it takes; it is not planned.
    pipeline = GpuPipeline(engine, networks, micro_batch, lane, plan=None)
    return GpuFunction(engine.manifest, engine.digest, profile, pipeline)


def stage_shapes(case: Case) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return stage → shapes of one row of its input and of its output."""
    image, tokens = (3, case.side, case.side), (case.encoder.patches, case.encoder.width)
    pixels = (3, case.encoder.image_size, case.encoder.image_size)
    return {"purifier": (image, image), "encoder": (pixels, tokens), "mapper": (tokens, tokens)}


@cache
def flops(case: Case) -> int:
    """Return the floating-point operations of one sample: 2 per multiplication and addition, counted by torch."""
    shapes = stage_shapes(case)
    # Nothing is computed there, and no memory is taken.
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        for stage, module in modules_of(case).items():
            module(torch.empty((1, *shapes[stage][0])))
    return int(counter.get_total_flops())
