"""Fixtures that several test files share."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fsfast.engine import engine_path

RECIPES = Path(__file__).parent / "data" / "recipes"


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    """Keep self-test marks out of the user's cache folder, and measurements of back ends out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FSFAST_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("FSFAST_BACKEND", "onnxruntime")
        patch.delenv("FSFAST_SECRET", raising=False)
        yield


@pytest.fixture(scope="session")
def demo_path() -> Path:
    """The built-in engine: purifier, tokens, mapper."""
    return engine_path("demo")


@pytest.fixture
def engine(demo_path: Path, tmp_path: Path) -> Path:
    """A copy of the built-in engine to damage."""
    return Path(shutil.copytree(demo_path, tmp_path / "engine"))


def _build(recipe: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from export.build import build_engine
    from export.recipe import load_recipe

    path = tmp_path_factory.mktemp(Path(recipe).stem) / "engine"
    build_engine(replace(load_recipe(recipe), run=None), path, report=lambda line: None)
    return path


@pytest.fixture(scope="session")
def random_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in engine's structure with random weights."""
    return _build("demo", tmp_path_factory)


@pytest.fixture(scope="session")
def pooled_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine of the encoder alone, with pooled features."""
    return _build(str(RECIPES / "pooled.toml"), tmp_path_factory)


@pytest.fixture(scope="session")
def reduced_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in engine with every precision that this machine can measure."""
    from export.quantise import add_precisions
    from export.reduce import Options
    from export.variants import backends_for
    from fsfast.examples import FOLDER

    path = tmp_path_factory.mktemp("reduced") / "engine"
    precisions = ("bfloat16", "int8", "int8+bfloat16") if backends_for("bfloat16") else ("int8",)
    add_precisions("demo", FOLDER, path, Options(precisions, samples=8), report=lambda line: None)
    return path


@pytest.fixture(scope="session")
def resized_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine whose grid (40×56) is not the encoder's input (64×64): purifier and penultimate tokens."""
    return _build(str(RECIPES / "resized.toml"), tmp_path_factory)


@pytest.fixture(scope="session")
def photograph() -> Path:
    """The photograph in the package, 451×300 pixels."""
    return engine_path("demo").parent.parent / "assets" / "cat.jpg"


@pytest.fixture
def picture() -> np.ndarray:
    """A colourful picture that fits no grid, [50, 90, 3] uint8."""
    y, x = np.mgrid[0:50, 0:90]
    return np.stack([x * 2 % 256, y * 5 % 256, (x + y) * 3 % 256], axis=-1).astype(np.uint8)


@pytest.fixture
def pictures(picture: np.ndarray) -> list[np.ndarray | Image.Image]:
    """Three pictures of different sizes and types."""
    return [picture, Image.fromarray(picture[::-1, ::-1][:40]), np.ascontiguousarray(picture[5:37, 10:80])]
