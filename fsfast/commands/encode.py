"""Write the smoothed features of images to a file, or to a folder that grows.

A name ending in .safetensors or .npz is a file for a few images: it is written at the end, whole, and
fsfast.load_features reads it. Any other name is a folder for many: shards of bounded size, and an index with names,
sources and seeds. Run the same command again after an interruption, and what is done is left out.
fsfast.FeatureFolder reads it.

With --server URL the features come from `fsfast serve` there, and ENGINE is the name of its model.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

from fsfast.commands.common import as_text, complain, engine_arguments, parse_seed, readable
from fsfast.commands.encoding import Encoding, encoding, server_argument
from fsfast.commands.fitted import Fitted
from fsfast.commands.inputs import image_arguments, image_paths
from fsfast.commands.journal import locked
from fsfast.files import check_target
from fsfast.report.text import RANDOM_WEIGHTS
from fsfast.runtime.progress import progress_bar

if TYPE_CHECKING:
    from fsfast.images.grid import GridImage
    from fsfast.runtime.feature_folder import FeatureWriter
    from fsfast.runtime.features import SmoothedFeatures

_INDEX = "index.jsonl"
_SHARD_ROWS, _SHARD_MB = 256, 128


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    engine_arguments(parser)
    image_arguments(parser)
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="NAME",
        help="a file ending in .safetensors or .npz, or a folder, which is made and may be continued",
    )
    parser.add_argument("--n0", type=int, help="samples per image (default: the engine's)")
    parser.add_argument("--seed", type=parse_seed, help="use this seed for every image, to replay a result")
    server_argument(parser)
    parser.add_argument("--raw-mean", action="store_true", help="also store the mean of the raw features")
    parser.add_argument(
        "--shard-rows",
        type=int,
        default=_SHARD_ROWS,
        metavar="N",
        help=f"images per shard of a folder at most, and lost at a crash at most (default {_SHARD_ROWS})",
    )
    parser.add_argument(
        "--shard-mb",
        type=float,
        default=_SHARD_MB,
        metavar="MB",
        help=f"size of a shard at most (default {_SHARD_MB})",
    )
    parser.add_argument("--json", action="store_true", help="print a summary as JSON")


class OneFile:
    """A file for a few images, written at the end."""

    def __init__(self) -> None:
        self._parts: list[SmoothedFeatures] = []

    def has_file(self, path: str, name: str) -> bool:
        """Nothing is done before."""
        return False

    def claim(self, image: GridImage) -> bool:
        """Every image has a row of its own."""
        return True

    def add(self, features: SmoothedFeatures) -> None:
        """Take the features of one image."""
        self._parts.append(features)

    def save(self, path: str) -> SmoothedFeatures:
        """Write the file, and return what is in it."""
        from fsfast.runtime.features import joined

        whole = joined(self._parts)
        whole.save(path)
        return whole


@dataclass
class Counts:
    """What became of the images."""

    written: int = 0
    before: int = 0
    failed: int = 0
    fitted: Fitted = field(default_factory=Fitted)


def run(args: argparse.Namespace) -> int:
    """Encode the images one after the other; one that fails does not stop the rest unless that is asked for."""
    folder = _folder(args)
    paths = image_paths(args)
    if folder is not None:
        folder.mkdir(exist_ok=True)
    index = None if folder is None else str(folder / _INDEX)
    with encoding(args) as engine, locked(index, "encode"):
        if folder is not None:
            with _writer(args, folder, engine) as writer:
                counts = _encode(args, paths, engine, writer)
            _report_folder(args, counts, engine)
        else:
            file = OneFile()
            try:
                counts = _encode(args, paths, engine, file)
            except KeyboardInterrupt:
                complain(
                    "encode", args.output, "nothing is written; in a folder (-o NAME/) what is done stays"
                )
                raise
            if counts.written and not (counts.failed and args.on_error == "stop"):
                _report_file(args, file.save(args.output), counts)
    return 1 if counts.failed else 0


def _folder(args: argparse.Namespace) -> Path | None:
    """Return the folder to write to, or None for a file; refuse what could not be written, before any work."""
    if args.shard_rows < 1 or not args.shard_mb > 0:
        raise ValueError(
            f"wanted shards of at least one row and some MB, got {args.shard_rows} and {args.shard_mb:g}"
        )
    output = Path(args.output)
    if output.suffix in (".safetensors", ".npz"):
        check_target(output)
        return None
    if output.suffix and not output.is_dir() and not args.output.endswith("/"):
        raise ValueError(
            f"wanted an output name ending in .safetensors or .npz, or a folder, got {args.output!r}; let the name "
            "of a new folder end in /"
        )
    check_target(output / _INDEX if output.is_dir() else output, append=True)
    if not (output / _INDEX).exists() and any(output.glob("features-*.safetensors")):
        raise ValueError(
            f"{output} has shards and no {_INDEX}, which says what they are; choose another folder"
        )
    return output


def _writer(args: argparse.Namespace, folder: Path, engine: Encoding) -> FeatureWriter:
    from fsfast.runtime.feature_folder import FeatureWriter

    settings: dict[str, object] = {
        "engine or profile": engine.function_id,
        "n0": args.n0 or engine.n0,
        "raw mean": args.raw_mean,
    }
    if args.seed is not None:
        settings["seed"] = f"0x{args.seed:016x}"
    return FeatureWriter(folder, settings, rows=args.shard_rows, size=int(args.shard_mb * 1e6))


def _encode(
    args: argparse.Namespace, paths: list[str], engine: Encoding, writer: FeatureWriter | OneFile
) -> Counts:
    counts = Counts()
    seeds = None if args.seed is None else repeat(args.seed)
    with progress_bar(None, len(paths), "encode") as advance:
        images = _Images(_new(args, paths, engine, writer, counts, advance), len(paths))
        for outcome in engine.encode_iter(images, args.n0, seeds=seeds, progress=advance):
            assert outcome.result is not None, "images that cannot be read are left out before"
            writer.add(outcome.result)
            counts.written += 1
    return counts


@dataclass(frozen=True)
class _Images:
    """Images that are read one after the other, and how many there are at most."""

    each: Iterator[GridImage]
    most: int

    def __iter__(self) -> Iterator[GridImage]:
        return self.each

    def __len__(self) -> int:
        return self.most


def _new(
    args: argparse.Namespace,
    paths: list[str],
    engine: Encoding,
    writer: FeatureWriter | OneFile,
    counts: Counts,
    advance: Callable[[float], object],
) -> Iterator[GridImage]:
    """Yield the images that are to be encoded, and count the others."""

    def others() -> Iterator[str]:
        for path in paths:
            if writer.has_file(path, as_text(path)):
                counts.before += 1
                advance(1)
            else:
                yield path

    for image in counts.fitted.watch(readable(others(), engine.grid, "encode", args.on_error)):
        if image is None:
            counts.failed += 1
            advance(1)
        elif writer.claim(image):
            yield image
        else:
            counts.before += 1
            advance(1)


def _report_folder(args: argparse.Namespace, counts: Counts, engine: Encoding) -> None:
    n0 = args.n0 or engine.n0
    if args.json:
        summary = {
            "output": as_text(args.output),
            "written": counts.written,
            "done_before": counts.before,
            "failed": counts.failed,
            "n0": n0,
            "function_id": engine.function_id,
            "random_weights": engine.random_weights,
        }
        print(json.dumps(summary))
        return
    said = [
        f"{counts.written} image{'' if counts.written == 1 else 's'} written",
        f"{counts.before} done before",
        f"{counts.failed} failed",
    ]
    print(f"{as_text(args.output)}: {', '.join(said)}, n0 = {n0}, σ = {engine.sigma:g}")
    _explain(counts, engine.random_weights)


def _report_file(args: argparse.Namespace, out: SmoothedFeatures, counts: Counts) -> None:
    if args.json:
        summary = {
            "output": as_text(args.output),
            "images": list(out.names),
            "shape": list(out.features.shape),
            "n0": out.n0,
            "seeds": [f"0x{int(seed):016x}" for seed in out.seeds],
            "function_id": out.function_id,
            "random_weights": out.random_weights,
        }
        print(json.dumps(summary))
    else:
        shape = " × ".join(map(str, out.features.shape))
        print(f"{as_text(args.output)}: features {shape}, n0 = {out.n0}, σ = {out.sigma:g}")
        _explain(counts, out.random_weights)


def _explain(counts: Counts, random_weights: bool) -> None:
    for line in counts.fitted.lines():
        print(line)
    if random_weights:
        print(RANDOM_WEIGHTS)
