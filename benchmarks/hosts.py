"""How far the grid is from what the hosts' image processors make: `python -m benchmarks.hosts`.

Needs transformers and torchvision (the environment of `make parity`). Writes benchmarks/results/images/hosts.csv.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageDraw

import fsfast
from benchmarks.measuring.files import write_table
from fsfast.images.grid import Grid, to_grid_image

RESULTS = Path(__file__).parent / "results" / "images" / "hosts.csv"
SIZES = ((300, 451), (451, 300), (480, 640), (1080, 1920), (67, 100))
CLIP = Grid(224, 224, "crop")
TRANSFORMERS = Grid(224, 224, "crop-floor")
LLAVA = Grid(336, 336, "pad", colour=(122, 116, 104))


@dataclass(frozen=True)
class Host:
    """A program's preparation of images.

    Attributes:
        name: with its version.
        grid: what imitates it.
        prepare: PIL image → [H, W, 3] levels.
    """

    name: str
    grid: Grid
    prepare: Callable[[Image.Image], np.ndarray]


def hosts() -> list[Host]:
    """Return the processors of torchvision (open_clip's) and transformers."""
    import torchvision
    import transformers
    from torchvision import transforms

    clip = transforms.Compose(
        [
            transforms.Resize(224, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
        ]
    )
    levels = {"do_rescale": False, "do_normalize": False}
    side = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    version = torchvision.__version__.partition("+")[0]
    found = [Host(f"torchvision {version} (open_clip)", CLIP, lambda image: np.asarray(clip(image)))]
    for kind, grid, options in (
        ("CLIPImageProcessorPil", TRANSFORMERS, levels),
        ("CLIPImageProcessor", TRANSFORMERS, levels),
        ("LlavaImageProcessorPil", LLAVA, {**levels, **side, "do_pad": True}),
        ("LlavaImageProcessor", LLAVA, {**levels, **side, "do_pad": True}),
    ):
        processor = getattr(transformers, kind)(**options)
        found.append(Host(f"transformers {transformers.__version__} {kind}", grid, _levels(processor)))
    return found


def _levels(processor: Callable[..., dict[str, list[np.ndarray]]]) -> Callable[[Image.Image], np.ndarray]:
    def prepare(image: Image.Image) -> np.ndarray:
        return np.moveaxis(np.asarray(processor(image, return_tensors="np")["pixel_values"][0]), 0, -1)

    return prepare


def pictures() -> Iterator[tuple[str, Image.Image]]:
    """Yield a photograph, rectangles and dots, in several sizes."""
    photograph = Image.open(Path(fsfast.__file__).parent / "assets" / "cat.jpg").convert("RGB")
    rng = np.random.default_rng(0)
    for height, width in SIZES:
        yield "photograph", photograph.resize((width, height), Image.Resampling.LANCZOS)
        edges = Image.new("RGB", (width, height), "white")
        draw = ImageDraw.Draw(edges)
        for _ in range(height * width // 60):
            x, y, w, h = (int(rng.integers(end)) for end in (width, height, 12, 12))
            draw.rectangle((x, y, x + w, y + h), fill=("black", "white")[int(rng.integers(2))])
        yield "hard edges", edges
        dots = 255 * rng.integers(0, 2, (height, width, 1)).astype(np.uint8)
        yield "single black and white dots", Image.fromarray(np.repeat(dots, 3, axis=2))


def rows() -> Iterator[dict[str, object]]:
    """Yield, per host and picture, how far the grid is from the host's pixels."""
    for host in hosts():
        for kind, image in pictures():
            grid = to_grid_image(image, host.grid)
            apart = np.abs(grid.pixels - host.prepare(image).astype(np.float64))
            yield {
                "host": host.name,
                "pillow": PIL.__version__,
                "fit": host.grid.fit,
                "picture": kind,
                "height": image.height,
                "width": image.width,
                "largest": float(apart.max()),
                "share_above_one": float((apart > 1).mean()),
                "l2": float(np.linalg.norm(apart / 255)),
            }


def main() -> int:
    """Write the table."""
    found = list(rows())
    write_table(RESULTS, found)
    largest = max(float(str(row["largest"])) for row in found)
    print(f"{RESULTS}: {len(found)} rows, the largest deviation is {largest:g} levels")
    return 0


if __name__ == "__main__":
    sys.exit(main())
