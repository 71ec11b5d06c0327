"""Hours and memory on GPUs, estimated from counts and printed speeds; nothing here is measured.

`python -m benchmarks.paper.estimate` writes the table of docs/paper.md.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measuring.tables import markdown, read
from benchmarks.paper.certified import MICRO_BATCH
from benchmarks.paper.counts import Count, counts
from benchmarks.paper.quoted import FOLDER
from export.options import Options, customise
from export.recipe import Recipe, load_recipe
from fsfast.certificates.evidence import PILOT
from fsfast.files import write_whole
from train.psm_setting import PsmConfig

DOCS = Path(__file__).parents[2] / "docs" / "paper.md"
# Of the printed rate of dense bfloat16 products: what a network is assumed to reach.
SHARE = 0.3
# Bytes of a number in bfloat16 and in float32.
_HALF, _SINGLE = 2, 4
# Weights, gradients, two moments and the moving average, float32 each.
_TRAINING_COPIES = 5
_PLACE = re.compile(r"(<!-- estimate -->\n).*?(<!-- end of estimate -->)", re.DOTALL)


@dataclass(frozen=True)
class Size:
    """How much is measured; the defaults are the command's.

    Attributes:
        images, n, sigmas: of the certificates.
        numbers: values of n0 of Table S.8.
        runs: timed encodes.
        attack_steps: per image.
    """

    images: int = 100
    n: int = 1000
    sigmas: int = 2
    numbers: Sequence[int] = (1, 2, 4, 8, 16)
    runs: int = 7
    attack_steps: int = 100


def measuring_flops(size: Size, purifiers: Sequence[Mapping[str, Count]], *, mapper: bool) -> float:
    """Return the operations of all tables.

    Args:
        size: how much.
        purifiers: stage → count with each purifier, the first of them that of Tables 2 and 5.
        mapper: whether there is one.
    """
    first = {stage: count.flops for stage, count in purifiers[0].items()}
    behind = [{"encoder"}, {"encoder", "mapper"}] if mapper else [{"encoder"}]
    sample = sum(
        sum(first[stage] for stage in {*stages, *before})
        for stages in behind
        for before in ((), ("purifier",))
    )
    certificates = size.images * (PILOT + size.n) * size.sigmas * sample
    attacks = 2 * size.images * size.attack_steps * first["encoder"]
    encodes = 0.0
    for count in purifiers:
        one = sum(c.flops for stage, c in count.items() if mapper or stage != "mapper")
        encodes += one * sum(size.numbers) * (size.runs + 1 + 2 * size.images)
    return certificates + attacks + encodes


def training_flops(count: Mapping[str, Count], config: PsmConfig) -> float:
    """Return the operations of Algorithm 1 with one purifier, whose activations are computed twice."""
    p, e, m = (count[stage].flops for stage in ("purifier", "encoder", "mapper"))
    # U-Net: forward, again, backward to weights and inputs. Encoder: clean; purified forward and backward.
    purifier = config.purifier.steps * config.purifier.batch * (4 * p + 3 * e)
    # Networks in front of the mapper are frozen.
    mapper = config.mapper.steps * config.mapper.batch * (e + config.noises * (p + e + 3 * m))
    return float(purifier + mapper)


def measuring_bytes(count: Mapping[str, Count], rows: int = MICRO_BATCH) -> float:
    """Return what a GPU holds while it certifies in bfloat16: all weights, and the largest stage's activations."""
    weights = sum(c.weight_bytes for c in count.values())
    activations = max(c.activation_bytes for c in count.values())
    return (weights + rows * activations) * _HALF / _SINGLE


def training_bytes(count: Mapping[str, Count]) -> float:
    """Return what is held before any activation while a purifier is trained."""
    return float(_TRAINING_COPIES * count["purifier"].weight_bytes + count["encoder"].weight_bytes)


def hours(flops: float, tflops: float) -> float:
    """Return the hours that operations take at SHARE of a printed rate."""
    return flops / (SHARE * tflops * 1e12) / 3600


def recipes(name: str = "llava-1.5") -> list[Recipe]:
    """Return the recipe with each of the paper's purifiers."""
    return [customise(load_recipe(name), Options(purifier=preset)) for preset in ("adm256", "unet-light")]


def rendered() -> str:
    """Return the estimate as Markdown."""
    config = PsmConfig()
    both = [counts(recipe, config.blocks) for recipe in recipes()]
    adm = both[0]
    lines = [
        [
            stage,
            f"{count.flops / 1e12:.2f}",
            f"{count.weight_bytes / _SINGLE / 1e6:.0f}",
            f"{count.activation_bytes / 1e9:.2f}",
        ]
        for stage, count in (
            ("adm256", adm["purifier"]),
            ("unet-light", both[1]["purifier"]),
            ("ViT-L/14-336", adm["encoder"]),
            ("mapper", adm["mapper"]),
        )
    ]
    work = {
        "no mapper": measuring_flops(Size(), both[:1], mapper=False),
        "mapper, both purifiers": measuring_flops(Size(), both, mapper=True),
        "training adm256 and its mapper, one σ": training_flops(adm, config),
    }
    gpus = read(FOLDER / "gpus.csv")
    rows = [
        [
            gpu["gpu"],
            gpu["memory_gb"],
            gpu["tflops"],
            *(_hours(hours(flops, float(gpu["tflops"]))) for flops in work.values()),
        ]
        for gpu in gpus
    ]
    petaflop = ", ".join(f"{flops / 1e15:,.0f} ({name})" for name, flops in work.items())
    without = sum(adm[stage].weight_bytes for stage in ("encoder", "mapper"))
    said = [
        f"10¹⁵ operations: {petaflop}.",
        f"Hours are operations ÷ ({SHARE:g} × the printed rate of dense bfloat16 products); the {SHARE:g} is assumed.",
        f"Memory while certifying with M = {MICRO_BATCH} in bfloat16: {measuring_bytes(adm) / 1e9:.1f} GB;",
        f"while training adm256, before any activation: {training_bytes(adm) / 1e9:.1f} GB.",
        f"On disk, for each σ: engines of {(without + adm['purifier'].weight_bytes) / 1e9:.1f} and "
        f"{without / 1e9:.1f} GB.",
    ]
    networks = ["network", "10¹² operations per sample", "10⁶ weights", "GB of activations, float32"]
    header = ["GPU", "GB", "printed TFLOP/s", *(f"hours: {name}" for name in work)]
    return "\n".join([markdown(networks, lines), markdown(header, rows), *said, ""])


def _hours(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def updated(text: str) -> str:
    """Return the document with the estimate in its place."""
    return _PLACE.sub(lambda found: f"{found[1]}{rendered()}{found[2]}", text)


def main() -> int:
    """Write the estimate into docs/paper.md."""
    write_whole(DOCS, updated(DOCS.read_text(encoding="utf-8")).encode())
    print(f"→ {DOCS}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
