"""The paper's latency study (Table S.8) at the scale of the engine at hand: seconds per image against n0."""

from __future__ import annotations

import pytest

import fsfast
from benchmarks.serving import N0, picture


@pytest.fixture(scope="module")
def encoder(request):
    with fsfast.SmoothedEncoder(request.config.getoption("--engine")) as opened:
        yield opened


@pytest.mark.parametrize("n0", N0)
def test_latency(benchmark, encoder, n0):
    benchmark.extra_info.update(engine=encoder.manifest.name, threads=encoder.threads, n0=n0)
    out = benchmark(encoder.encode, picture(encoder), n0)
    assert out.n0 == n0
