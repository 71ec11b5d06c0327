"""A recipe says which networks make an engine, and how they are put together."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fsfast.engine.classes import ClassKind
from fsfast.images.grid import Grid
from fsfast.models.averages import Weights

from .recipe_values import Store, check_values

FOLDER = Path(__file__).parent / "recipes"
CLASS_NAMES = Path(__file__).parent / "class_names"
_KEYS = {
    "": {
        "name",
        "sigma",
        "n0",
        "grid",
        "normalise",
        "purifier",
        "encoder",
        "mapper",
        "classes",
        "weights",
        "store",
    },
    "grid": {"height", "width", "fit", "filter", "colour"},
    "normalise": {"mean", "std"},
    "purifier": {"preset"},
    "encoder": {"preset", "config", "checkpoint", "weights", "resize_positions", "output", "ln_post"},
    "mapper": {"blocks"},
    "classes": {"rows", "names", "kind", "classifier"},
    "weights": {"run", "random_seed", "encoder", "licence", "sha256"},
}
_SOURCES = ("run", "random_seed", "encoder")
_OPTIONAL = {
    "": {"purifier", "mapper", "classes", "store"},
    "grid": {"colour"},
    "encoder": {"preset", "config", "checkpoint", "weights", "resize_positions"},
    "classes": {"rows", "names", "kind", "classifier"},
    "weights": {*_SOURCES, "sha256"},
}
STAGES = ("purifier", "encoder", "mapper")
# In the place of a preset: the one that the file's shapes show.
BY_SHAPE = "by its shapes"


@dataclass(frozen=True)
class Outside:
    """An encoder that is none of the presets: what its graph takes and makes.

    Attributes:
        size: (height, width) of its input.
        tokens, dim: L and D of its output.
    """

    size: tuple[int, int]
    tokens: int
    dim: int


@dataclass(frozen=True)
class ClassFiles:
    """Where an engine's classes come from.

    Attributes:
        rows: file of [K, D].
        names: file of the K names, or the names; None: the first one holds them.
        kind: whether the rows' norms count.
    """

    rows: Path
    names: Path | tuple[str, ...] | None
    kind: ClassKind


@dataclass(frozen=True)
class Recipe:
    """One engine to build.

    Attributes:
        name: the engine's name.
        sigma: noise level in [0,1] pixel units.
        n0: default number of serving samples.
        grid: the smoothing grid.
        mean, std: channel normalisation of the encoder's input.
        purifier: its preset, BY_SHAPE, or None.
        encoder: its preset; the recipe's name where it has a configuration of its own, or the name of an encoder
            from outside.
        output: "penultimate", "tokens", "pooled" or "merged".
        ln_post: whether `tokens` are normalised by ln_post.
        mapper_blocks: residual blocks of the mapper, 0 where its file says them or has none, or None without a mapper.
        run: folder of the training run that the weights come from, or None.
        random_seed: weights are drawn from this seed where they come neither from a run nor from files.
        licence: licence of the weights; where they come from files, of the encoder's.
        sha256: of the file that has this licence, hex; None: whatever the file.
        classifier: file of the names of the classes whose rows come with the encoder's checkpoint, or None.
        encoder_from: where users get the encoder's file; not empty: weights come from files.
        files: stage → weights file or directory.
        weights: stage → which weights of its file are meant, where it holds raw ones and their average.
        licences: stage → licence, where it is not that of the recipe.
        encoder_config: fields of the encoder's configuration, None with a preset.
        encoder_type: whose fields these are, as an engine's architecture says it.
        resize_positions: whether learned positions for another number of patches are resized.
        outside: the encoder where it is none of the presets.
        classes: files of its classes, or None.
        engine: the engine that this describes: it stands in `files` for each of its networks that is kept; or None.
        engine_random: whether the weights of that engine were drawn.
        store: type of the weights in the engine's file: "float32", or "float16", to which they are then rounded.
        card: file of Markdown that the model card ends with, or None.
    """

    name: str
    sigma: float
    n0: int
    grid: Grid
    mean: tuple[float, ...]
    std: tuple[float, ...]
    purifier: str | None
    encoder: str
    output: str
    ln_post: bool
    mapper_blocks: int | None
    run: str | None
    random_seed: int
    licence: str
    encoder_from: tuple[str, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict)
    weights: Mapping[str, Weights] = field(default_factory=dict)
    licences: Mapping[str, str] = field(default_factory=dict)
    encoder_config: Mapping[str, Any] | None = None
    encoder_type: str = "vit"
    resize_positions: bool = False
    outside: Outside | None = None
    classes: ClassFiles | None = None
    sha256: str | None = None
    classifier: Path | None = None
    engine: Path | None = None
    engine_random: bool = False
    store: Store = "float32"
    card: Path | None = None

    @property
    def stages(self) -> tuple[str, ...]:
        """The engine's stages in their order."""
        absent = {"purifier": self.purifier is None, "mapper": self.mapper_blocks is None}
        return tuple(stage for stage in STAGES if not absent.get(stage))

    @property
    def output_name(self) -> str:
        """The encoder's output as --output names it; ln_post is a choice for tokens alone."""
        return "tokens+ln_post" if self.output == "tokens" and self.ln_post else self.output

    @property
    def random(self) -> bool:
        """Whether the weights are to be drawn."""
        return self.run is None and not self.encoder_from

    def licence_of(self, stage: str) -> str:
        """Return the licence of a stage's weights."""
        return self.licences.get(stage, self.licence)


def recipe_names() -> list[str]:
    """Return the recipes that come with the repository."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_recipe(name_or_path: str) -> Recipe:
    """Read a recipe by name or path.

    Raises:
        ValueError: there is none, it is not TOML, a key is missing or unknown, or a value is not what it may be.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = FOLDER / f"{name_or_path}.toml"
    # Imported only now: the second comes with the extra [export], and --help answers without.
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        record = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"wanted a recipe ({', '.join(recipe_names())}) or a .toml file, got {name_or_path!r}"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: {error}") from None
    return _parse(record, path)


def _parse(record: dict[str, Any], path: Path) -> Recipe:
    _check_keys(record, "", path)
    for table in _KEYS.keys() & record.keys():
        if not isinstance(record[table], dict):
            raise ValueError(f"{path}: wanted a table [{table}], got {record[table]!r}")
        _check_keys(record[table], table, path)
    weights, encoder = record["weights"], record["encoder"]
    if ("preset" in encoder) == ("config" in encoder):
        raise ValueError(
            f"[encoder] of {path}: wanted one of preset and config (a table of ViTConfig's fields)"
        )
    if sum(key in weights for key in _SOURCES) != 1:
        raise ValueError(
            f"[weights] of {path}: wanted one of run (a training run's folder), random_seed, and encoder (a list of "
            "where users get its file)"
        )
    for key in ("checkpoint", "weights"):
        if key in encoder and "encoder" not in weights:
            raise ValueError(
                f"{path}: encoder.{key} wants [weights] with encoder, a list of where users get this file"
            )
    check_values(record, str(path))
    return Recipe(
        name=record["name"],
        sigma=float(record["sigma"]),
        n0=record["n0"],
        grid=Grid(**record["grid"]),
        mean=tuple(map(float, record["normalise"]["mean"])),
        std=tuple(map(float, record["normalise"]["std"])),
        purifier=record["purifier"]["preset"] if "purifier" in record else None,
        encoder=encoder.get("preset", record["name"]),
        encoder_config=encoder.get("config"),
        resize_positions=encoder.get("resize_positions", False),
        output=encoder["output"],
        ln_post=encoder["ln_post"],
        mapper_blocks=record["mapper"]["blocks"] if "mapper" in record else None,
        run=weights.get("run"),
        random_seed=weights.get("random_seed", 0),
        licence=weights["licence"],
        encoder_from=tuple(weights.get("encoder", ())),
        sha256=weights.get("sha256"),
        store=record.get("store", "float32"),
        classes=_classes(record.get("classes"), path),
        classifier=_classifier(record.get("classes")),
        files={"encoder": path.parent / encoder["checkpoint"]} if "checkpoint" in encoder else {},
        weights={"encoder": encoder["weights"]} if "weights" in encoder else {},
    )


def _classes(record: dict[str, Any] | None, path: Path) -> ClassFiles | None:
    if record is None or "classifier" in record:
        if record and len(record) > 1:
            raise ValueError(
                f"[classes] of {path}: wanted classifier alone, or rows, got {', '.join(sorted(record))}"
            )
        return None
    if "rows" not in record:
        raise ValueError(f"[classes] of {path}: missing key 'rows'")
    names = Path(record["names"]) if "names" in record else None
    return ClassFiles(Path(record["rows"]), names, record.get("kind", "directions"))


def _classifier(record: dict[str, Any] | None) -> Path | None:
    return CLASS_NAMES / f"{record['classifier']}.txt" if record and "classifier" in record else None


def _check_keys(table: dict[str, Any], name: str, path: Path) -> None:
    where = f"[{name}] of {path}" if name else str(path)
    if unknown := sorted(table.keys() - _KEYS[name]):
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(sorted(_KEYS[name]))}")
    if missing := sorted(_KEYS[name] - table.keys() - _OPTIONAL.get(name, set())):
        raise ValueError(f"{where}: missing key {missing[0]!r}")
