"""Encoders that several test files of the integrations share."""

from __future__ import annotations

import pytest

import fsfast


@pytest.fixture(scope="session")
def demo(demo_path):
    with fsfast.SmoothedEncoder(demo_path) as encoder:
        yield encoder
