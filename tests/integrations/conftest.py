"""Encoders that several test files of the integrations share."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

import fsfast
from tests.integrations.photos import make_photos


@pytest.fixture(scope="session")
def demo(demo_path):
    with fsfast.SmoothedEncoder(demo_path) as encoder:
        yield encoder


@pytest.fixture(scope="session")
def small_path() -> Path:
    """An engine of pooled features, 16 of them, small enough for many samples."""
    return Path(__file__).parents[1] / "data" / "written_before" / "engine"


@pytest.fixture(scope="session")
def small(small_path):
    with fsfast.SmoothedEncoder(small_path, secret=bytes(16)) as encoder:
        yield encoder


@pytest.fixture(scope="session")
def narrow(tmp_path_factory):
    """Encoders of a small CLIP, with a secret, by output; made when they are asked for."""
    from tests.integrations.narrow_engines import narrow_engine

    opened: dict[str, fsfast.SmoothedEncoder] = {}

    def encoder(output: str) -> fsfast.SmoothedEncoder:
        if output not in opened:
            path = narrow_engine(tmp_path_factory.mktemp("narrow"), output)
            opened[output] = fsfast.SmoothedEncoder(path, secret=bytes(16))
        return opened[output]

    yield encoder
    for each in opened.values():
        each.close()


@pytest.fixture
def clean_is_meant():
    """Clean features are asked for: their warning is no news."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "clean=True", UserWarning)
        yield


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder with five small images, and what is none."""
    return make_photos(tmp_path / "photos")
