"""What the demo found on two of its images, and the page about it."""

from __future__ import annotations

import pytest

import fsfast
from fsfast.report.data import DemoResult
from fsfast.report.gather import gather
from fsfast.report.page import render_page
from tests.report.subjects import subjects_of


@pytest.fixture(scope="package")
def result() -> DemoResult:
    with pytest.MonkeyPatch.context() as patch, fsfast.SmoothedEncoder("demo") as encoder:
        patch.setattr("fsfast.report.gather.LATENCY_N0", (1, 2))
        patch.setattr("fsfast.report.gather.LATENCY_RUNS", 1)
        return gather(encoder, subjects_of(encoder), n=80)


@pytest.fixture(scope="package")
def page(result):
    return render_page(result)
