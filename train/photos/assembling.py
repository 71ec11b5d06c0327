"""Pictures of packages become a folder of training data.

pictures/KIND/: originals that are not held out, as their package has them; held-out/: photographs that no crop is of;
crops/KIND/: squares for training; manifest.csv: a line per original; summary.csv: a line per package and kind.
"""

from __future__ import annotations

import csv
import hashlib
import io
import shutil
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from fsfast.files import write_whole
from train.photos.alike import first_of_each, perceptual_hash
from train.photos.licences import licence_of, read_licences
from train.photos.packages import Package
from train.photos.sources import KINDS, Kind, Source

SIZE = 256
# Of photographs; a picture's place depends on its name alone, and another package moves none.
_HELD_OUT = 0.24
# Smaller ones are magnified too much; larger ones take seconds, and show no more.
_LEAST_SIDE = 120
_MOST_PIXELS = 30_000_000
_CROPS: dict[Kind, int] = {"photograph": 5, "drawing": 1, "stamp": 1, "medical": 5}
# The least part of the shorter side that a crop shows.
_LEAST_SHARE = 0.45
# Of 64 bits of the perceptual hash: two photographs of one building differ in more.
_ALIKE = 10
_FOLDERS = ("pictures", "held-out", "crops")


@dataclass(frozen=True)
class Picture:
    """A line of the manifest.

    Attributes:
        file: below the folder of the data.
        name: in its source.
        package, version: that it comes from.
        licence: as the package's copyright file says it.
        sha256: of the file.
        split: "train" or "held-out".
        kind: see `Rule`.
        width, height: pixels.
        crops: squares that were cut from it, FILE's stem with -0, -1, … below crops/KIND.
    """

    file: str
    name: str
    package: str
    version: str
    licence: str
    sha256: str
    split: str
    kind: Kind
    width: int
    height: int
    crops: int


@dataclass(frozen=True)
class _Candidate:
    source: Source
    package: Package
    name: str
    kind: Kind
    content: bytes
    size: tuple[int, int]
    bits: np.ndarray


def assemble(out: Path, packages: Iterable[tuple[Source, Package]], seed: int) -> list[Picture]:
    """Write the data and return the lines of its manifest.

    Args:
        out: the folder; what this command made there before is replaced.
        packages: sources with their packages.
        seed: of the crops.

    Raises:
        ValueError: a picture's licence is not said, or there is no picture at all.
    """
    candidates = [each for source, package in packages for each in _candidates(source, package)]
    if not candidates:
        raise ValueError("wanted at least one package with pictures, got none; see the messages above")
    # Photographs first, and of two sizes the larger: what is kept of those that are alike.
    candidates.sort(key=lambda c: (KINDS.index(c.kind), -c.size[0] * c.size[1], c.name))
    kept = [candidates[place] for place in first_of_each([c.bits for c in candidates], _ALIKE)]
    for folder in _FOLDERS:
        shutil.rmtree(out / folder, ignore_errors=True)
    pictures = [_write(out, each, seed) for each in tqdm(kept, desc="pictures", mininterval=5.0)]
    pictures.sort(key=lambda picture: picture.file)
    write_whole(out / "manifest.csv", _table([asdict(picture) for picture in pictures]))
    write_whole(out / "summary.csv", _table(_summary(pictures)))
    return pictures


def read_manifest(out: Path) -> list[Picture]:
    """Return the lines of a folder's manifest.

    Raises:
        ValueError: it is not what `assemble` writes.
    """
    with open(out / "manifest.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = [field.name for field in fields(Picture)]
    if not rows or list(rows[0]) != wanted:
        raise ValueError(
            f"wanted the columns {', '.join(wanted)} in {out / 'manifest.csv'}; make the data again"
        )
    numbers = ("width", "height", "crops")
    return [Picture(**{name: int(v) if name in numbers else v for name, v in row.items()}) for row in rows]  # type: ignore[arg-type]


def _candidates(source: Source, package: Package) -> list[_Candidate]:
    found = []
    # Warned of are the pictures that are left out for their size.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    for name, content in sorted(package.pictures.items(), key=lambda item: _place(item[0])):
        kind = source.kind(name)
        # Reads the header alone.
        size = Image.open(io.BytesIO(content)).size
        if kind is None or min(size) < _LEAST_SIDE or size[0] * size[1] > _MOST_PIXELS:
            continue
        bits = perceptual_hash(_flat(_decoded(content), (255, 255, 255)))
        found.append(_Candidate(source, package, name, kind, content, size, bits))
        if len(found) == source.most:
            break
    return found


def _place(name: str) -> float:
    """A number in [0, 1) that depends on a picture's name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48


def _decoded(content: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(content))
    return picture.convert("RGBA" if picture.has_transparency_data else "RGB")


def _flat(picture: Image.Image, ground: tuple[int, ...]) -> Image.Image:
    """What shows on a plain ground."""
    if picture.mode == "RGB":
        return picture
    under = Image.new("RGBA", picture.size, (*ground, 255))
    under.alpha_composite(picture)
    return under.convert("RGB")


def _write(out: Path, candidate: _Candidate, seed: int) -> Picture:
    kind, name = candidate.kind, candidate.name
    split = "held-out" if kind == "photograph" and _place(name) < _HELD_OUT else "train"
    digest = hashlib.sha256(candidate.content).hexdigest()
    path = Path(name)
    stem = f"{path.parent.name}-{path.stem}-{digest[:8]}"
    folder = "held-out" if split == "held-out" else f"pictures/{kind}"
    file = f"{folder}/{stem}{path.suffix}"
    (out / folder).mkdir(parents=True, exist_ok=True)
    write_whole(out / file, candidate.content)
    crops = _CROPS[kind] if split == "train" else 0
    if crops:
        (out / "crops" / kind).mkdir(parents=True, exist_ok=True)
        for number, crop in enumerate(
            _crops(_decoded(candidate.content), crops, (seed, int(digest[:8], 16)))
        ):
            crop.save(out / "crops" / kind / f"{stem}-{number}.png")
    package = candidate.package
    return Picture(
        *(file, name, candidate.source.package, package.version, _licence(candidate), digest, split, kind),
        *(*candidate.size, crops),
    )


def _crops(picture: Image.Image, count: int, seed: Sequence[int]) -> Iterable[Image.Image]:
    """Squares of random places and sizes, SIZE pixels wide; what is transparent gets a random ground."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        flat = _flat(picture, tuple(rng.integers(0, 256, 3).tolist()))
        if count == 1:
            # The whole thing: it has one crop.
            side = max(flat.size)
            square = Image.new("RGB", (side, side), flat.getpixel((0, 0)))  # type: ignore[arg-type]
            square.paste(flat, ((side - flat.width) // 2, (side - flat.height) // 2))
        else:
            short = min(flat.size)
            side = short if number == 0 else int(rng.integers(max(1, round(_LEAST_SHARE * short)), short + 1))
            left, top = (int(rng.integers(0, length - side + 1)) for length in flat.size)
            square = flat.crop((left, top, left + side, top + side))
        yield square.resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def _licence(candidate: _Candidate) -> str:
    source, package = candidate.source, candidate.package
    said = source.licence or source.licences.get(candidate.name)
    said = said or licence_of(candidate.name, read_licences(package.copyright))
    if said is None:
        raise ValueError(
            f"{package.path}: its copyright file says no licence for {candidate.name}; leave the picture out in "
            "train/photos/sources.py"
        )
    return said


def _summary(pictures: Sequence[Picture]) -> list[dict[str, object]]:
    groups = sorted(
        {(picture.package, picture.kind) for picture in pictures}, key=lambda g: (KINDS.index(g[1]), g[0])
    )
    rows: list[dict[str, object]] = []
    for package, kind in groups:
        own = [picture for picture in pictures if (picture.package, picture.kind) == (package, kind)]
        licences = Counter(picture.licence for picture in own)
        rows.append(
            {
                "package": package,
                "version": own[0].version,
                "kind": kind,
                "pictures": len(own),
                "held_out": sum(picture.split == "held-out" for picture in own),
                "crops": sum(picture.crops for picture in own),
                "licences": "; ".join(f"{licence} ({n})" for licence, n in sorted(licences.items())),
            }
        )
    return rows


def _table(rows: Sequence[dict[str, object]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
