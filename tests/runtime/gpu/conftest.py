"""The device pipeline on a GPU (`pytest -m gpu`), and the same code rehearsed on the CPU everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import fsfast
from fsfast.backends.device.place import problems
from fsfast.runtime.gpu import opening


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def place(request: pytest.FixtureRequest) -> torch.device:
    """The device of a test."""
    if request.param == "cuda" and (why := problems()):
        pytest.skip(why[0])
    return torch.device(request.param)


@pytest.fixture
def opened(place: torch.device, monkeypatch: pytest.MonkeyPatch) -> Callable[..., fsfast.SmoothedEncoder]:
    """Open an encoder as device="cuda" does, on the device of the test; M = 4."""
    if place.type == "cpu":
        monkeypatch.setattr(opening, "cuda_device", lambda name: torch.device("cpu"))
    encoders = []

    def open_encoder(engine: Any = "demo", **options: Any) -> fsfast.SmoothedEncoder:
        encoders.append(fsfast.SmoothedEncoder(engine, device="cuda", **{"micro_batch": 4, **options}))
        return encoders[-1]

    yield open_encoder
    for encoder in encoders:
        encoder.close()


@pytest.fixture(scope="session")
def on_cpu():
    """The encoder that the device's is compared with."""
    pytest.importorskip("onnxruntime", reason="there is nothing to compare with without onnxruntime")
    with fsfast.SmoothedEncoder("demo", threads=1) as encoder:
        yield encoder
