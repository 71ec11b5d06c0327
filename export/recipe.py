"""A recipe says which networks make an engine, and how they are put together."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsfast.images import Grid

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent / "recipes"
_KEYS = {
    "": {"name", "sigma", "n0", "grid", "normalise", "purifier", "encoder", "mapper", "weights"},
    "grid": {"height", "width", "fit", "filter"},
    "normalise": {"mean", "std"},
    "purifier": {"preset"},
    "encoder": {"preset", "output", "ln_post"},
    "mapper": {"blocks"},
    "weights": {"run", "random_seed", "licence"},
}
_OPTIONAL = {"": {"purifier", "mapper"}, "weights": {"run", "random_seed"}}


@dataclass(frozen=True)
class Recipe:
    """One engine to build.

    Attributes:
        name: the engine's name.
        sigma: noise level in [0,1] pixel units.
        n0: default number of serving samples.
        grid: the smoothing grid.
        mean, std: channel normalisation of the encoder's input.
        purifier: preset of the U-Net, or None.
        encoder: preset of the ViT.
        output: "penultimate", "tokens" or "pooled".
        ln_post: whether `tokens` are normalised by ln_post.
        mapper_blocks: residual blocks of the mapper, or None without one.
        run: folder of the training run that the weights come from, or None.
        random_seed: weights are drawn from this seed where there is no run.
        licence: licence of the weights.
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


def recipe_names() -> list[str]:
    """Return the recipes that come with the repository."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_recipe(name_or_path: str) -> Recipe:
    """Read a recipe by name or path.

    Raises:
        ValueError: there is none, it is not TOML, a key is missing or unknown.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = FOLDER / f"{name_or_path}.toml"
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
    for table, value in record.items():
        if isinstance(value, dict):
            _check_keys(value, table, path)
    if ("run" in record["weights"]) == ("random_seed" in record["weights"]):
        raise ValueError(f"[weights] of {path}: wanted one of run (a training run's folder) and random_seed")
    return Recipe(
        name=record["name"],
        sigma=float(record["sigma"]),
        n0=record["n0"],
        grid=Grid(**record["grid"]),
        mean=tuple(record["normalise"]["mean"]),
        std=tuple(record["normalise"]["std"]),
        purifier=record["purifier"]["preset"] if "purifier" in record else None,
        encoder=record["encoder"]["preset"],
        output=record["encoder"]["output"],
        ln_post=record["encoder"]["ln_post"],
        mapper_blocks=record["mapper"]["blocks"] if "mapper" in record else None,
        run=record["weights"].get("run"),
        random_seed=record["weights"].get("random_seed", 0),
        licence=record["weights"]["licence"],
    )


def _check_keys(table: dict[str, Any], name: str, path: Path) -> None:
    where = f"[{name}] of {path}" if name else str(path)
    if unknown := sorted(table.keys() - _KEYS[name]):
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(sorted(_KEYS[name]))}")
    if missing := sorted(_KEYS[name] - table.keys() - _OPTIONAL.get(name, set())):
        raise ValueError(f"{where}: missing key {missing[0]!r}")
