"""Which recipe makes an engine of a checkpoint that was inspected, and the command."""

from __future__ import annotations

import json
import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from fsfast.errors import FsfastError
from fsfast.models import Inspection, ViTConfig
from fsfast.models.checkpoints.inspection import CONVOLUTIONAL, WEIGHTS

from .networks import encoder_config
from .options import OUTPUTS, Options, customise
from .published import Published
from .recipe import Recipe, load_recipe, recipe_names

# Names of files that say nothing about what is in them.
_PLAIN = re.compile(r"((open_clip_)?(pytorch_)?model|weights|checkpoint|encoder)\b")
_PADDED = 'write a recipe with fit = "pad" and its colour (docs/engines.md)'
_RECIPE = """\
{comments}
name = {name}
sigma = 0.25
n0 = 4

[grid]
height = {size}
width = {size}
fit = {fit}
filter = {filter}

[normalise]
mean = {mean}
std = {std}

[encoder]
output = {output}
ln_post = {ln_post}

[encoder.config]
{config}

[weights]
encoder = [{path}]
licence = "not stated"
"""


@dataclass(frozen=True)
class Suggestion:
    """How an engine is made of a checkpoint.

    Attributes:
        command: the command line; None where there is none.
        recipe: a recipe to write first, None where one that comes with fsfast fits.
        recipe_file: its name.
        recipes: those that come with fsfast and fit.
        recipe_says: what the first of them says and nobody else: field of ViTConfig → value.
        resized: where it resizes learned positions, the side of pictures in pixels before and after.
        problem: why there is no command, where something stands against it.
    """

    command: str | None = None
    recipe: str | None = None
    recipe_file: str | None = None
    recipes: tuple[str, ...] = ()
    recipe_says: Mapping[str, Any] = field(default_factory=dict)
    resized: tuple[int, int] | None = None
    problem: str | None = None


def suggest(found: Inspection) -> Suggestion:
    """Return how an engine is made of a checkpoint; what is suggested was held against its names and shapes.

    Args:
        found: without a problem.
    """
    path = str(found.path)
    if found.kind.endswith("mapper"):
        words = ["--encoder", "FILE_OR_DIR", "--mapper", path, *_weights(found, "mapper=")]
        return Suggestion(_command("RECIPE", words, "DIR"))
    if found.kind == CONVOLUTIONAL:
        name = "efficientnet-lite0"
        return Suggestion(_command(name, ["--encoder", path, *_weights(found)], name), recipes=(name,))
    if found.kind in ("U-Net", "DRUNet"):
        purifier = f"{found.family}={path}"
        words = ["--encoder", "FILE_OR_DIR", "--purifier", purifier, *_weights(found, "purifier=")]
        return Suggestion(_command("RECIPE", words, "DIR"))
    encoder = ["--encoder", path, *_weights(found)]
    # First those that need no other output.
    fitting = sorted(_fitting(found), key=lambda each: each[1] is not None)
    if fitting:
        recipe, output = fitting[0]
        config, own = encoder_config(recipe), found.config
        assert own is not None
        assert isinstance(config, ViTConfig)
        words = [*encoder, *(["--output", output] if output else [])]
        return Suggestion(
            _command(recipe.name, words, recipe.name),
            recipes=tuple(recipe.name for recipe, _ in fitting),
            recipe_says={name: getattr(config, name) for name in found.unknown},
            resized=None if _side(own) == _side(config) else (own.image_size, config.image_size),
        )
    if found.unknown:
        return Suggestion()
    if (fit := found.preparation["fit"]).value == "pad":
        return Suggestion(
            problem=f"{fit.by} asks for pictures on a canvas, whose colour nobody says; {_PADDED}"
        )
    name = _name(found.path)
    file, text = f"{name}.toml", _recipe(found, name)
    try:
        with tempfile.TemporaryDirectory(prefix="fsfast-inspect-") as folder:
            written = Path(folder) / file
            written.write_text(text, encoding="utf-8")
            Published(customise(load_recipe(str(written)), _options(found)))
    except (FsfastError, ValueError) as error:
        return Suggestion(problem=str(error))
    return Suggestion(_command(file, encoder, name), text, file)


def _command(recipe: str, words: list[str], name: str) -> str:
    return shlex.join(["fsfast", "export", recipe, *words, "--out", f"engines/{name}"])


def _weights(found: Inspection, stage: str = "") -> list[str]:
    """The option that says which weights were inspected, where that was asked for."""
    return ["--weights", f"{stage}{found.weights}"] if found.weights else []


def _options(found: Inspection, output: str | None = None) -> Options:
    weights = [("encoder", found.weights)] if found.weights else []
    return Options(str(found.path), output=output, weights=weights)


def _fitting(found: Inspection) -> Iterator[tuple[Recipe, str | None]]:
    """The recipes that come with fsfast and take a tower, with the output that has to be asked for, or None."""
    for name in recipe_names():
        recipe = load_recipe(name)
        if not recipe.encoder_from or not _alike(found, recipe):
            continue
        output = None if recipe.output_name in found.outputs else next(iter(found.outputs))
        try:
            Published(customise(recipe, _options(found, output)))
        except (FsfastError, ValueError):
            continue
        yield recipe, output


def _alike(found: Inspection, recipe: Recipe) -> bool:
    """Whether a recipe's tower is the one that was found, as far as that is known."""
    config, own = encoder_config(recipe), found.config
    assert own is not None
    if not isinstance(config, ViTConfig):
        return False
    free = set(found.unknown) if found.projection else {*found.unknown, "embed_dim"}
    # Positions say how many patches there are, and not how many pixels are left over.
    by_patches = found.fields["image_size"].by == WEIGHTS and _side(own) == _side(config)
    # Towers with a merger take pictures of any size.
    if recipe.resize_positions or by_patches or own.merge > 1:
        free.add("image_size")
    known = (each.name for each in fields(ViTConfig) if each.name not in free)
    return all(getattr(config, name) == getattr(own, name) for name in known)


def _side(config: ViTConfig) -> int:
    """Patches along one side."""
    return config.image_size // config.patch


def _recipe(found: Inspection, name: str) -> str:
    """A recipe of its own for a tower of which everything is known."""
    config, prepared = found.config, {key: said.value for key, said in found.preparation.items()}
    assert config is not None
    output, ln_post = OUTPUTS[list(found.outputs)[-1]]
    record = {
        each.name: getattr(config, each.name)
        for each in fields(ViTConfig)
        if getattr(config, each.name) != each.default
    }
    by: dict[str, list[str]] = {}
    for key, said in {**found.fields, **found.preparation}.items():
        by.setdefault(said.by, []).append(key)
    return _RECIPE.format(
        comments="\n".join(f"# {', '.join(keys)}: {who}" for who, keys in by.items()),
        size=config.image_size,
        config="\n".join(f"{key} = {_toml(value)}" for key, value in record.items()),
        **{key: _toml(value) for key, value in prepared.items()},
        **{key: _toml(value) for key, value in {"name": name, "output": output, "ln_post": ln_post}.items()},
        path=_toml(str(found.path)),
    )


def _toml(value: Any) -> str:
    # JSON, whose strings, numbers and lists are TOML's, too.
    return json.dumps(value, ensure_ascii=False)


def _name(path: Path) -> str:
    """The name of an engine: that of the checkpoint's file, or of its folder where the file's says nothing."""
    path = path.resolve()
    stem = path.name if path.is_dir() else path.name.partition(".")[0]
    if _PLAIN.match(stem):
        stem = path.parent.name
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", stem).lstrip("._+-")[:64] or "tower"
