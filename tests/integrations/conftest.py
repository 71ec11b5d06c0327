"""Encoders that several test files of the integrations share."""

from __future__ import annotations

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


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder with five small images, and what is none."""
    return make_photos(tmp_path / "photos")
