"""An engine in the place of a recipe: its networks stay as they are, and others join them."""

from __future__ import annotations

from pathlib import Path

from fsfast.engine.engine import MANIFEST, Engine, load_engine
from fsfast.engine.onnx_bytes import external_tensors

from .recipe import BY_SHAPE, ClassFiles, Outside, Recipe, load_recipe, recipe_names
from .recipe_values import Store


def find_recipe(name_or_path: str) -> Recipe:
    """Return a recipe by name or path, or what the engine in a directory was made by.

    Raises:
        ValueError: as `load_recipe`.
        EngineError: the engine is damaged.
    """
    if name_or_path in recipe_names() or not is_engine(name_or_path):
        return load_recipe(name_or_path)
    return recipe_of_engine(load_engine(name_or_path))


def is_engine(path: str | Path) -> bool:
    """Return whether a path is the directory of an engine."""
    return (Path(path) / MANIFEST).is_file()


def recipe_of_engine(engine: Engine) -> Recipe:
    """Return the recipe that a verified engine says of itself."""
    manifest = engine.manifest
    record = manifest.record
    encoder = record["architecture"]["encoder"]
    graph = encoder.get("type") == "onnx"
    return Recipe(
        name=manifest.name,
        sigma=manifest.sigma,
        n0=manifest.n0,
        grid=manifest.grid,
        mean=manifest.mean,
        std=manifest.std,
        purifier=BY_SHAPE if "purifier" in manifest.stages else None,
        encoder=manifest.name,
        output=manifest.output,
        ln_post=record["output"]["ln_post"],
        mapper_blocks=record["architecture"]["mapper"]["config"].get("blocks", 0)
        if "mapper" in manifest.stages
        else None,
        run=None,
        random_seed=0,
        licence="",
        encoder_from=(f"the engine {engine.path}",),
        files=dict.fromkeys(manifest.stages, engine.path),
        encoder_config=None if graph else encoder["config"],
        encoder_type=encoder.get("type", "vit"),
        outside=Outside(manifest.encoder_size, manifest.tokens, manifest.dim) if graph else None,
        classes=_classes(engine),
        engine=engine.path,
        engine_random=manifest.random_weights,
        store=_store(engine),
    )


def _store(engine: Engine) -> Store:
    precision, *_ = engine.manifest.stages["encoder"]
    stored = external_tensors(engine.graph("encoder", precision))
    return "float16" if any(tensor.dtype == "float16" for tensor in stored) else "float32"


def _classes(engine: Engine) -> ClassFiles | None:
    """Return the files of an engine's classes, which the new one has, too."""
    said = engine.manifest.record.get("classes")
    if said is None:
        return None
    return ClassFiles(engine.path / said["file"], tuple(said["names"]), said.get("kind", "directions"))


def check_known_in_torch(recipe: Recipe) -> None:
    """Refuse an engine whose encoder came as an ONNX graph, with the command that takes it.

    Raises:
        ValueError: it is one.
    """
    if recipe.engine is None or recipe.outside is None:
        return
    mean, std = (",".join(f"{value:g}" for value in values) for values in (recipe.mean, recipe.std))
    raise ValueError(
        f"{recipe.engine}: its encoder came as an ONNX graph, which is exported again by: fsfast export onnx "
        f"{recipe.engine / 'encoder.float32.onnx'} --mean {mean} --std {std} --fit {recipe.grid.fit} --filter "
        f"{recipe.grid.filter}, with --purifier and --mapper"
    )
