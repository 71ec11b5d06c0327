"""Make an engine of a full-size tower of each family and write what came of it: `python -m benchmarks.cpu.families`.

Random weights, in the names under which the family's checkpoints are published, are saved to a temporary folder, and
exported by the family's recipe in a process of its own. A tower whose row is there already is left out, so that an
interrupted command goes on; `--again` measures anew. Results stand in benchmarks/results/engines/families.csv, and as
a table in docs/engines.md.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load
from safetensors.torch import save_file

from benchmarks.cpu.engines import DOCS, export_apart
from benchmarks.measuring.files import update_table
from benchmarks.measuring.harness import RESULTS, circumstances
from benchmarks.measuring.tables import markdown, measured_on, read
from export.networks import encoder_config
from export.recipe import load_recipe
from fsfast.engine.engine import load_engine
from fsfast.files import write_whole
from fsfast.models import ViTConfig
from tests.models import families, perception, published, qwen

CSV = RESULTS / "engines" / "families.csv"
# Name → shape of every tensor of a checkpoint.
Shapes = Mapping[str, Sequence[int]]
_PLACE = re.compile(r"(<!-- families -->\n).*?(<!-- end of families -->)", re.DOTALL)


@dataclass(frozen=True)
class Tower:
    """One checkpoint.

    Attributes:
        family: for the table.
        layout: whose names it has.
        recipe: that exports it, a name or the path of a file.
        shapes: of its tensors, for the recipe's configuration.
    """

    family: str
    layout: str
    recipe: str
    shapes: Callable[[ViTConfig], Shapes]


def _named(kind: str, **stored: int) -> Callable[[ViTConfig], Shapes]:
    """The names of a kind in tests/models/families.py; `stored`: what the checkpoint has otherwise than the recipe."""
    return lambda config: families.shapes(families.FAMILIES[kind], replace(config, **stored))


def _qwen(kind: str) -> Callable[[ViTConfig], Shapes]:
    """The names of a kind in tests/models/qwen.py, with learned positions for 48×48 patches where there are any."""
    return lambda config: qwen.shapes(replace(qwen.TOWERS[kind], config=config), stored_side=48)


def _clip_of_transformers(config: ViTConfig) -> Shapes:
    """CLIPVisionModelWithProjection."""
    tower = {
        name: torch.empty(shape, device="meta") for name, shape in published.tower_shapes(config).items()
    }
    named = published.as_transformers(tower, projection="visual_projection.weight")
    return {name: tensor.shape for name, tensor in named.items()}


# A new family is a line here.
TOWERS = (
    Tower("CLIP", "open_clip", "clip-b16", published.tower_shapes),
    Tower("CLIP", "transformers", "clip-l14", _clip_of_transformers),
    Tower("SigLIP", "transformers", "siglip-so400m-384", _named("SigLIP")),
    Tower("SigLIP 2", "transformers", "siglip2-so400m-384", _named("SigLIP")),
    Tower("DINOv2", "transformers", "dinov2-l14", _named("DINOv2", image_size=518)),
    Tower("DINOv2", "its authors", "dinov2-l14", _named("DINOv2 by its authors", image_size=518)),
    Tower(
        "DINOv2 with registers",
        "transformers",
        "dinov2-reg-l14",
        _named("DINOv2 with registers", image_size=518),
    ),
    Tower("DINOv3", "transformers", "dinov3-l16", _named("DINOv3")),
    Tower("InternViT", "transformers", "internvit-300m-448", _named("InternViT")),
    Tower("InternViT", "its authors", "internvit-300m-448", _named("InternViT by its authors")),
    Tower("Perception Encoder", "its authors", "pe-core-l14-336", perception.shapes),
    Tower("Qwen2.5-VL", "transformers", "qwen2.5-vl-448", _qwen("Qwen2.5-VL")),
    Tower("Qwen3-VL", "transformers", "qwen3-vl-448", _qwen("Qwen3-VL")),
)


@dataclass(frozen=True)
class Row:
    """One engine.

    Attributes:
        family, layout, recipe: see Tower.
        features: L×D.
        parameters_m: millions of numbers in the checkpoint.
        disk_mb: size of the engine, MB of 10⁶ bytes.
        export_s: seconds from the start of `python -m export` to its end.
        peak_mb: the most memory that it held, MB of 10⁶ bytes, weights mapped from a file included.
        largest: the largest magnitude of the golden output.
        max_abs: the largest deviation of ONNX Runtime's output from torch's, over batches.
    """

    family: str
    layout: str
    recipe: str
    features: str
    parameters_m: float
    disk_mb: float
    export_s: float
    peak_mb: float
    largest: float
    max_abs: float


def build(tower: Tower, folder: Path) -> Row:
    """Save a checkpoint below `folder`, export it, and measure that.

    Raises:
        ValueError: the export failed.
    """
    weights, out = folder / "model.safetensors", folder / "engine"
    tensors = families.drawn(tower.shapes(encoder_config(load_recipe(tower.recipe))))
    parameters = sum(tensor.numel() for tensor in tensors.values()) / 1e6
    save_file(tensors, weights)
    # A whole checkpoint must not stand beside the process that is measured.
    del tensors
    line = [tower.recipe, "--encoder", str(weights), "--out", str(out), "--micro-batch", "1"]
    cost = export_apart([sys.executable, "-m", "export", *line])
    engine = load_engine(out)
    manifest = engine.manifest
    return Row(
        tower.family,
        tower.layout,
        Path(tower.recipe).name.removesuffix(".toml"),
        f"{manifest.tokens}×{manifest.dim}",
        parameters,
        sum(file.stat().st_size for file in out.iterdir()) / 1e6,
        cost.seconds,
        cost.peak_mb,
        float(np.abs(load(engine.read(manifest.golden))["encoder.output"]).max()),
        max(row["max_abs"] for row in manifest.stages["encoder"]["float32"].parity),
    )


def render(path: Path = CSV) -> str:
    """Return the results as a Markdown table with the circumstances beneath; nothing where there are none."""
    if not path.exists():
        return ""
    rows = read(path)
    header = (
        "family",
        "names of",
        "recipe",
        "features",
        "parameters",
        "on disk",
        "export",
        "peak memory",
        "parity",
    )
    cells = [
        (
            row["family"],
            row["layout"],
            f"`{row['recipe']}`",
            row["features"],
            f"{float(row['parameters_m']):.0f} M",
            f"{float(row['disk_mb']):.0f} MB",
            f"{float(row['export_s']):.0f} s",
            f"{float(row['peak_mb']) / 1e3:.1f} GB",
            f"{float(row['max_abs']) / float(row['largest']):.0e}",
        )
        for row in rows
    ]
    return (
        f"{markdown(header, cells)}\nParity is the largest deviation of ONNX Runtime from torch, as a share of the "
        f"largest output. Random weights; measured on {measured_on(rows)}.\n"
    )


def updated(text: str, path: Path = CSV) -> str:
    """Return docs/engines.md with its table made anew."""
    return _PLACE.sub(lambda match: match[1] + render(path) + match[2], text)


def measure(towers: Sequence[Tower], path: Path = CSV, again: bool = False) -> list[str]:
    """Build what has no row yet, each row written as soon as it is there; returns what failed, in words."""
    there = {(row["family"], row["layout"]) for row in read(path)} if path.exists() and not again else set()
    failed = []
    for tower in towers:
        if (tower.family, tower.layout) in there:
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                row = build(tower, Path(folder))
            except ValueError as error:
                failed.append(f"{tower.family} in the names of {tower.layout}: {error}")
                continue
        update_table(path, [row], ("family", "layout"), circumstances(), digits=6)
        print(row, flush=True)
    return failed


def main(argv: list[str] | None = None) -> int:
    """Measure the families that are named, update the results file and docs/engines.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu.families", description=__doc__)
    names = list(dict.fromkeys(tower.family for tower in TOWERS))
    parser.add_argument(
        "--families",
        nargs="+",
        default=names,
        choices=names,
        metavar="NAME",
        help=f"of {', '.join(names)} (default: all)",
    )
    parser.add_argument("--again", action="store_true", help="measure anew what has a row, too")
    args = parser.parse_args(argv)
    failed = measure([tower for tower in TOWERS if tower.family in args.families], again=args.again)
    for line in failed:
        print(f"python -m benchmarks.cpu.families: {line}", file=sys.stderr)
    write_whole(DOCS, updated(DOCS.read_text(encoding="utf-8")).encode())
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
