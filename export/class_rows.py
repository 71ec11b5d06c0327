"""The rows of an engine's classes: read from files, held to the engine's features, and put into its manifest."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from fsfast.commands.parser import Parser
from fsfast.engine.classes import TENSOR, ClassKind
from fsfast.errors import brief, printable
from fsfast.files import file_sha256, write_whole

from .recipe import ClassFiles
from .recipe_values import ROUNDED, Store

if TYPE_CHECKING:
    # With torch, which answers that it is missing only once it is needed.
    from fsfast.models import EfficientNetConfig

    from .networks import EncoderConfig

CLASSES = "classes.safetensors"
UNSTATED = "not stated"
# As fsfast/schemas/engine.schema.json has it.
_MOST_CLASSES, _LONGEST_NAME = 65536, 256
_FORMAT = "fsfast-classes"


@dataclass(frozen=True, eq=False)
class ClassRows:
    """Rows with their names.

    Attributes:
        names: of the K classes.
        rows: [K, D] float32, or float16 where an engine stores them so.
        kind: whether their norms count.
        source: where they come from, for the manifest.
        of_texts: whether a text tower made them, so that they lie in the space that it shares with an image tower.
        of_encoder: whether they come with the encoder's weights, and have their licence.
    """

    names: tuple[str, ...]
    rows: np.ndarray
    kind: ClassKind
    source: str
    of_texts: bool = False
    of_encoder: bool = False

    def check(self, features: str, dim: int, encoder: EncoderConfig | None) -> None:
        """Refuse rows that are no classes of an engine's features.

        Args:
            features: what the features are: "penultimate", "tokens" or "pooled".
            dim: their channels D.
            encoder: the configuration of an encoder of ours.

        Raises:
            ValueError: rows of another length, or of a text tower whose space the features do not share.
        """
        if self.of_texts:
            _check_shared(features, encoder)
        if self.rows.shape[1] != dim:
            remedy = (
                "take the text tower of the same checkpoint" if self.of_texts else "give rows of this length"
            )
            raise ValueError(
                f"wanted rows of classes of {dim} numbers, as the engine's {features} features have, got "
                f"{self.rows.shape[1]}; {remedy}"
            )

    def stored(self, store: Store) -> ClassRows:
        """Return the classes as an engine stores them, whose networks' weights are stored so.

        Raises:
            ValueError: float16 cannot hold a row.
        """
        if store == "float32":
            return self
        with np.errstate(over="ignore"):
            rows = self.rows.astype(np.float16)
        lost = ~np.isfinite(rows).all(1) | ((self.kind == "directions") & ~rows.any(1))
        if lost.any():
            raise ValueError(
                f"wanted rows of classes that float16 can hold, got others in row {int(lost.argmax())} (counted from "
                "0); store float32"
            )
        return replace(self, rows=rows, source=self.source + ROUNDED)

    def into(self, record: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Return a manifest with these classes, and the file that it names."""
        # Said only where norms count: engines of directions keep their digests.
        kind = {} if self.kind == "directions" else {"kind": self.kind}
        others = [entry for entry in record["provenance"] if entry["stage"] != "classes"]
        licences = {entry["stage"]: entry["licence"] for entry in others}
        licence = licences["encoder"] if self.of_encoder else UNSTATED
        own = {"stage": "classes", "source": self.source, "licence": licence}
        changed = {
            **record,
            "classes": {"names": list(self.names), "file": CLASSES, **kind},
            "provenance": [*others, own],
        }
        return changed, {CLASSES: save({TENSOR: self.rows}, {"format": _FORMAT})}


def add_arguments(parser: Parser, *, required: bool = False) -> None:
    """Add the options that say which classes an engine gets."""
    group = parser.add_argument_group("classes", "rows to compare features with (docs/engines.md)")
    group.add_argument(
        "--classes",
        metavar="FILE",
        required=required,
        help="one row per class, [K, D], as .safetensors or .npy; `fsfast export text` makes them of names",
    )
    group.add_argument(
        "--names",
        metavar="FILE",
        help="their names: a text file with one per line, or a .json list (default: those that FILE holds)",
    )
    group.add_argument(
        "--linear",
        action="store_true",
        help="they are a linear classifier's, without a bias, and keep their norms (default: directions)",
    )


def class_files(args: argparse.Namespace) -> ClassFiles | None:
    """Return what the options of `add_arguments` say.

    Raises:
        ValueError: names without rows.
    """
    if args.classes is None:
        if args.names is not None or args.linear:
            raise ValueError("wanted --classes FILE beside --names and --linear, got none")
        return None
    names = None if args.names is None else Path(args.names)
    return ClassFiles(Path(args.classes), names, "linear" if args.linear else "directions")


def read_classes(files: ClassFiles) -> ClassRows:
    """Read rows and names.

    Raises:
        ValueError: a file cannot be read; the rows are not finite numbers [K, D] of K ≥ 2 classes, or some have no
            direction; names are missing, too many or too few, empty, too long, or there twice.
    """
    path = files.rows
    array, said = _read_rows(path)
    if array.ndim != 2 or array.dtype.kind != "f" or not 2 <= len(array) <= _MOST_CLASSES:
        raise ValueError(
            f"{path}: wanted rows [K, D] of 2 to {_MOST_CLASSES} classes in floating point, got {array.dtype} "
            f"{list(array.shape)}"
        )
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(array, np.float32)
    for wrong, what in (
        (~np.isfinite(rows).all(1), "finite numbers in float32, got others"),
        ((files.kind == "directions") & ~rows.any(1), "directions, got zeros"),
    ):
        if wrong.any():
            raise ValueError(f"{path}: wanted {what} in row {int(wrong.argmax())} (counted from 0)")
    own = _own_names(path, said)
    given = read_names(files.names) if isinstance(files.names, Path) else files.names
    names = own if given is None else given
    if names is None:
        raise ValueError(f"{path} holds no names of classes; give them with --names FILE")
    if len(names) != len(rows) or own not in (None, names):
        where = files.names if isinstance(files.names, Path) else path
        raise ValueError(
            f"{where}: wanted the names of the {len(rows)} rows of {path.name}, got {len(names)} names"
            + ("" if own is None or len(names) != len(rows) else " other than those in it; leave out --names")
        )
    source = f"{path.name} (sha256 {file_sha256(path)})"
    if "source" in said:
        source += f": {printable(said['source'], keep='')}"
    return ClassRows(names, rows, files.kind, source, said.get("of") == "texts")


def read_classifier(checkpoint: Path, config: EfficientNetConfig, names: Path) -> ClassRows:
    """Read the rows of the classifier that an encoder's checkpoint brings along.

    Args:
        checkpoint: the encoder's.
        config: of the encoder.
        names: file of the names.

    Raises:
        CheckpointError: it cannot be read, or has none.
        ValueError: as `read_classes`.
    """
    from fsfast.models.checkpoints.efficientnet import classifier_of

    rows, biases = (tensor.numpy() for tensor in classifier_of(checkpoint, config))
    known = read_names(names)
    if len(known) != len(rows):
        raise ValueError(
            f"{checkpoint}: its classifier has {len(rows)} rows, and {names.name} names {len(known)} classes; give "
            "classes with --classes FILE --names FILE"
        )
    left_out = f"{biases.min():.2g} to {biases.max():.2g}"
    source = f"{checkpoint.name}: rows of its classifier, without its biases of {left_out}"
    return ClassRows(known, rows, "linear", source, of_encoder=True)


def read_names(path: Path) -> tuple[str, ...]:
    """Read the names of classes: a JSON list where the file's name ends in .json, else one per line.

    Raises:
        ValueError: the file cannot be read, or a name is empty, too long, or there twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        names = json.loads(text) if path.suffix == ".json" else text.rstrip().splitlines()
    except OSError as error:
        raise ValueError(f"cannot read the names in {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise ValueError(f"cannot read the names in {path}: {brief(error)}") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: wanted a list of names, one text per class")
    names = [name.strip() for name in names]
    check_names(names, str(path))
    return tuple(names)


def check_names(names: list[str], where: str) -> None:
    """Refuse names that classes of an engine cannot have; raises ValueError."""
    for number, name in enumerate(names, 1):
        if not 1 <= len(name) <= _LONGEST_NAME or not name.isprintable():
            raise ValueError(
                f"{where}: wanted names of 1 to {_LONGEST_NAME} printable characters, name {number} is "
                f"{brief(repr(name[:_LONGEST_NAME]))}"
            )
    for name, same in groupby(sorted(names)):
        if len(list(same)) > 1:
            places = " and ".join(str(number) for number, other in enumerate(names, 1) if other == name)
            raise ValueError(f"{where}: names {places} are both {printable(name)!r}; tell them apart")


def save_texts(path: Path, names: tuple[str, ...], rows: np.ndarray, source: str) -> None:
    """Write directions that a text tower made, with their names, for `read_classes`.

    Args:
        path: a .safetensors file.
        names: of the K classes.
        rows: [K, D] float32.
        source: where they come from.
    """
    said = {"format": _FORMAT, "names": json.dumps(names), "source": source, "of": "texts"}
    write_whole(path, save({TENSOR: rows}, said))


def _read_rows(path: Path) -> tuple[np.ndarray, dict[str, str]]:
    """Return the one array of a file, and what a safetensors file says of itself."""
    if path.suffix not in (".npy", ".safetensors"):
        raise ValueError(f"wanted rows of classes in a .safetensors or .npy file, got {path}")
    try:
        if path.suffix == ".npy":
            return np.asarray(np.load(path, allow_pickle=False)), {}
        with safe_open(path, "numpy") as file:
            names = sorted(file.keys())
            name = names[0] if len(names) == 1 else TENSOR
            if name in names:
                return file.get_tensor(name), file.metadata() or {}
    # Two file formats, each with errors of its own.
    except Exception as error:
        raise ValueError(f"cannot read rows of classes in {path}: {brief(error)}") from None
    bias = (
        "; a bias cannot be kept, as it would make the class depend on norms" if "bias" in str(names) else ""
    )
    raise ValueError(
        f"{path}: wanted one tensor, or one that is called {TENSOR}, got {', '.join(names[:3]) or 'none'}; save the "
        f"rows alone{bias}"
    )


def _own_names(path: Path, said: Mapping[str, str]) -> tuple[str, ...] | None:
    if said.get("format") != _FORMAT or "names" not in said:
        return None
    try:
        names = [str(name) for name in json.loads(said["names"])]
    except (ValueError, TypeError) as error:
        raise ValueError(f"cannot read the names in {path}: {brief(error)}") from None
    check_names(names, str(path))
    return tuple(names)


def _check_shared(features: str, encoder: EncoderConfig | None) -> None:
    """Refuse features that do not lie in the space of any text tower; raises ValueError."""
    if features != "pooled":
        raise ValueError(
            "directions of texts lie in the space of an image tower's pooled features, and this engine's are "
            f"{features}; export it with --output pooled"
        )
    if encoder is not None and not (encoder.projection or encoder.pooling == "map"):
        raise ValueError(
            "directions of texts lie in the space into which CLIP projects and SigLIP pools, and this engine's encoder "
            f"does neither (pooling {encoder.pooling}, no projection); give rows that were made for its features"
        )
