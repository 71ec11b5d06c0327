"""Fixtures that several test files share."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from PIL import Image

import fsfast
from fsfast.engine.engine import engine_path
from fsfast.machine import processor, vectors

if vectors().startswith("avx2") and "Intel" in processor():
    # What runs on a GPU is rehearsed on the CPU, and torch's products of AVX2 on Intel's processors change with a row's
    # place among others, which the self-test rightly refuses. MKL reads this when torch is imported.
    os.environ.setdefault("MKL_CBWR", "AVX2,STRICT")

# How long an example takes is no fault, and a run that failed fails again.
hypothesis.settings.register_profile("fsfast", deadline=None, derandomize=True)
hypothesis.settings.load_profile("fsfast")

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
    pytest.importorskip("onnx", reason="building an engine needs onnx")
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
    from fsfast.report.examples import FOLDER

    path = tmp_path_factory.mktemp("reduced") / "engine"
    add_precisions("demo", FOLDER, path, Options(samples=8), report=lambda line: None)
    return path


@pytest.fixture(scope="session")
def eight_bit_path(reduced_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in engine with int8 weights of 8 bits, whatever this processor would choose."""
    from export.quantise import add_precisions
    from export.reduce import Options
    from fsfast.machine import sums_8_bit_products_exactly
    from fsfast.report.examples import FOLDER

    if sums_8_bit_products_exactly():
        return reduced_path
    path = tmp_path_factory.mktemp("reduced") / "eight-bits"
    options = Options(("int8",), samples=8, weight_bits=8)
    add_precisions("demo", FOLDER, path, options, report=lambda line: None)
    return path


@pytest.fixture(scope="session")
def resized_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine whose grid (40×56) is not the encoder's input (64×64): purifier and penultimate tokens."""
    return _build(str(RECIPES / "resized.toml"), tmp_path_factory)


@pytest.fixture(scope="session")
def photograph() -> Path:
    """The photograph in the package, 451×300 pixels."""
    return Path(fsfast.__file__).parent / "assets" / "cat.jpg"


@pytest.fixture
def picture() -> np.ndarray:
    """A colourful picture that fits no grid, [50, 90, 3] uint8."""
    y, x = np.mgrid[0:50, 0:90]
    return np.stack([x * 2 % 256, y * 5 % 256, (x + y) * 3 % 256], axis=-1).astype(np.uint8)


@pytest.fixture
def pictures(picture: np.ndarray) -> list[np.ndarray | Image.Image]:
    """Three pictures of different sizes and types."""
    return [picture, Image.fromarray(picture[::-1, ::-1][:40]), np.ascontiguousarray(picture[5:37, 10:80])]
