"""The device pipeline on a GPU (`pytest -m gpu`), and the same code rehearsed on the CPU everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
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


# Of float32, on a GPU: other libraries add in other orders than the CPU's, where the tests' own limits were measured.
_ON_A_GPU = 1e-4


@pytest.fixture
def close(place: torch.device, record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Assert that arrays differ by at most `atol` on a CPU, and record the largest difference in the test report."""

    def compare(got: np.ndarray, wanted: np.ndarray, atol: float, name: str = "deviation") -> None:
        allowed = atol if place.type == "cpu" else max(atol, _ON_A_GPU)
        record_property(name, float(np.abs(np.subtract(got, wanted, dtype=np.float64)).max()))
        np.testing.assert_allclose(got, wanted, rtol=0, atol=allowed)

    return compare


@pytest.fixture(scope="session")
def on_cpu():
    """The encoder that the device's is compared with."""
    pytest.importorskip("onnxruntime", reason="there is nothing to compare with without onnxruntime")
    with fsfast.SmoothedEncoder("demo", threads=1) as encoder:
        yield encoder
