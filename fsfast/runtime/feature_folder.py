"""A folder of smoothed features that grows: shards of many images, and an index with one line per image.

`features-00000.safetensors`, …  are batches as `SmoothedFeatures.save` writes them. A line of `index.jsonl` says which
row of which shard belongs to a name, with its source, its hash and its seed (`schemas/feature-index.schema.json`).
A shard is written whole; then its lines follow. So a shard counts when all of its lines are there: what an interruption
leaves beyond that is dropped, and written anew. Images with equal pixels share a row.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

from fsfast.errors import FsfastError, brief
from fsfast.files import append, file_sha256
from fsfast.images.grid import RESIZE, GridImage
from fsfast.runtime.features import SmoothedFeatures, joined, load_features, read_header
from fsfast.strict_json import check_schema, parse_json

INDEX = "index.jsonl"


@dataclass(frozen=True)
class Entry:
    """One image of a folder.

    Attributes:
        name: its path when it was encoded.
        shard, row: where its features lie.
        seed: of its serving noise, 0x and 16 digits.
        grid_sha256: the hash of its pixels on the grid.
        source: where it came from, and how it came onto the grid, as in a certificate.
    """

    name: str
    shard: str
    row: int
    seed: str
    grid_sha256: str
    source: dict[str, Any]


class FeatureFolder:
    """What `fsfast encode -o FOLDER` wrote; iterating yields one image after the other, shard by shard.

    Each is a SmoothedFeatures of one image, with its name and source. One shard is in memory at a time.

    Args:
        path: the folder; it may still grow, and what came after the opening is not seen.

    Attributes:
        entries: one `Entry` per image, in the order of the index.
        shards: the files in their order, for `fsfast.load_features`.

    Raises:
        FsfastError: it is no such folder, or something else is in its index.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.entries, _ = _read_index(self.path)
        self.shards = [self.path / name for name in dict.fromkeys(e.shard for e in self.entries)]
        self._load = lru_cache(maxsize=1)(load_features)

    def __repr__(self) -> str:
        return f"FeatureFolder({str(self.path)!r}: {len(self)} images in {len(self.shards)} shards)"

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[SmoothedFeatures]:
        for entry in sorted(self.entries, key=lambda entry: (entry.shard, entry.row)):
            yield self._features(entry)

    @property
    def names(self) -> list[str]:
        """The names of the images, in the order of the index."""
        return [entry.name for entry in self.entries]

    @property
    def by_pixels(self) -> Mapping[str, SmoothedFeatures]:
        """The features of single images by their `grid_sha256`, read when they are asked for."""
        return _ByPixels(self)

    def _features(self, entry: Entry) -> SmoothedFeatures:
        shard = self._load(self.path / entry.shard)
        if entry.row >= len(shard) or shard.grid_sha256[entry.row] != entry.grid_sha256:
            raise FsfastError(
                f"{self.path / INDEX} does not belong to {entry.shard}: row {entry.row} is another image; encode again "
                "into another folder"
            )
        return replace(shard[entry.row], names=(entry.name,), sources=(entry.source,))


class _ByPixels(Mapping[str, SmoothedFeatures]):
    def __init__(self, folder: FeatureFolder) -> None:
        self._folder = folder
        self._entries = {entry.grid_sha256: entry for entry in reversed(folder.entries)}

    def __getitem__(self, grid_sha256: str) -> SmoothedFeatures:
        return self._folder._features(self._entries[grid_sha256])

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class FeatureWriter:
    """Adds images to a folder of features, new or begun; use it as a context manager, which writes the last shard.

    Whoever uses it keeps other writers away.

    Args:
        path: the folder.
        settings: what must be the same for all images: "engine or profile", "n0", "raw mean", and perhaps "seed".
        rows: images per shard at most.
        size: bytes per shard at most, unless a single image has more.

    Raises:
        FsfastError: the folder was written with another setting, which is named, or holds something else.
    """

    def __init__(self, path: Path, settings: Mapping[str, object], *, rows: int, size: int) -> None:
        self._path, self._rows, self._size = path, rows, size
        # What kill -9 left; nobody else writes here.
        for left in path.glob(".????????????.part"):
            left.unlink()
        entries: list[Entry] = []
        if (path / INDEX).exists():
            entries, end = _read_index(path)
            _refuse_others(path, entries, settings)
            os.truncate(path / INDEX, end)
        self._shards = len({entry.shard for entry in entries})
        self._places: dict[str, Entry] = {}
        self._names: set[tuple[str, str]] = set()
        for entry in entries:
            self._remember(entry)
        # Another version may put the same file onto the grid in another way.
        self._files = {e.source.get("sha256"): e for e in entries if e.source.get("resize", RESIZE) == RESIZE}
        self._claimed: set[str] = set()
        self._pending: list[SmoothedFeatures] = []
        self._again: list[Entry] = []

    def __enter__(self) -> FeatureWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After an interruption, too: what is computed is kept.
        self.flush()

    def has_file(self, path: str, name: str) -> bool:
        """Return whether these bytes are in the folder since before; another name for them gets a line of its own."""
        if not self._files or not os.path.isfile(path):
            return False
        entry = self._files.get(file_sha256(Path(path)))
        if entry is not None:
            self._again.append(replace(entry, name=name))
        return entry is not None

    def claim(self, image: GridImage) -> bool:
        """Return whether an image is to be encoded and added; its pixels may be there, or on their way."""
        key = image.grid_sha256
        if key in self._places or key in self._claimed:
            self._again.append(Entry(str(image.name), "", 0, "", key, image.source))
            return False
        self._claimed.add(key)
        return True

    def add(self, features: SmoothedFeatures) -> None:
        """Add an image that was claimed; a full shard is written."""
        self._pending.append(features)
        size = sum(part.nbytes for part in self._pending)
        if len(self._pending) == self._rows or size + features.nbytes > self._size:
            self.flush()

    def flush(self) -> None:
        """Write what was added as a shard, and then the lines that make it count."""
        lines = []
        if self._pending:
            shard, whole = f"features-{self._shards:05d}.safetensors", joined(self._pending)
            whole.save(self._path / shard)
            self._pending, self._shards = [], self._shards + 1
            rows = zip(whole.names, whole.seeds, whole.grid_sha256, whole.sources, strict=True)
            for row, (name, seed, key, source) in enumerate(rows):
                lines.append(Entry(str(name), shard, row, f"0x{int(seed):016x}", key, source))
                self._remember(lines[-1])
        waiting = []
        for entry in self._again:
            if (place := self._places.get(entry.grid_sha256)) is None:
                waiting.append(entry)
            elif (entry.name, entry.grid_sha256) not in self._names:
                lines.append(replace(place, name=entry.name, source=entry.source))
                self._remember(lines[-1])
        self._again = waiting
        text = "".join(json.dumps(asdict(entry), ensure_ascii=False) + "\n" for entry in lines)
        if text:
            append(self._path / INDEX, text.encode())

    def _remember(self, entry: Entry) -> None:
        self._places.setdefault(entry.grid_sha256, entry)
        self._names.add((entry.name, entry.grid_sha256))


def _read_index(folder: Path) -> tuple[list[Entry], int]:
    """Return the lines of an index that count, and the bytes that they take.

    Raises:
        FsfastError: there is none, or something else is in it.
    """
    path = folder / INDEX
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FsfastError(f"wanted a folder of features, {path}: {error.strerror}") from None
    # What follows the last newline was cut off.
    lines = content.split(b"\n")[:-1]
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            record = parse_json(line)
            check_schema(record, "feature-index.schema.json")
        except ValueError as error:
            raise FsfastError(f"{path}, line {number}: {brief(error)}") from None
        # 1.0 is an integer, too.
        entries.append(Entry(**{**record, "row": int(record["row"])}))
    if entries:
        last = max(entry.shard for entry in entries)
        listed = {entry.row for entry in entries if entry.shard == last}
        if len(listed) < _header(folder / last)["rows"]:
            first = next(i for i, entry in enumerate(entries) if entry.shard == last)
            entries = entries[:first]
    return entries, sum(len(line) + 1 for line in lines[: len(entries)])


def _header(shard: Path) -> dict[str, Any]:
    """Return the settings of a shard by their names, and its number of rows, without its features.

    Raises:
        FsfastError: it is no shard.
    """
    record, shapes = read_header(shard)
    try:
        return {
            "rows": shapes["seeds"][0],
            "engine or profile": record["function_id"],
            "n0": record["n0"],
            "raw mean": "raw_mean" in shapes,
        }
    except (KeyError, IndexError, TypeError) as error:
        raise FsfastError(f"{shard} is not a file of smoothed features: {brief(error)}") from None


def _refuse_others(folder: Path, entries: list[Entry], wanted: Mapping[str, object]) -> None:
    """Refuse a folder that was written with another setting.

    Raises:
        FsfastError: it names the setting.
    """
    there = _header(folder / entries[0].shard) if entries else dict(wanted)
    for name, now in wanted.items():
        found = {entry.seed for entry in entries} if name == "seed" else {there[name]}
        if others := sorted(found - {now}, key=str):
            raise FsfastError(
                f"{folder} has another {name} ({others[0]} there, {now} now); choose another folder for --output"
            )
