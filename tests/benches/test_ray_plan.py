"""The plan for many machines: what is full first, and what that leaves of the cores."""

from __future__ import annotations

import pytest

from benchmarks.ray.plan import Site, loads, text

SITE = Site(machines=10, cores=4, network=1e9, store=1e8, store_files=1e4, slice_images=100)


def test_what_is_full_first_stands_first():
    found = loads(seconds=0.5, read=1e5, written=1e6, site=SITE)
    shares = {load.what: load.share for load in found}
    # 80 images/s of 1.1 MB.
    assert shares == pytest.approx(
        {
            "store, bytes": 0.88,
            "store, files": 80 * 1.02 / 1e4,
            "network of a machine, bytes": 8 * 1.1e6 / 1e9,
            "driver, slices": 0.8 / 1000,
        }
    )
    assert found[0].what == "store, bytes"
    assert "with store, bytes: 80 images/s" in text(found, 80.0)


def test_a_full_store_leaves_cores_idle():
    found = loads(seconds=0.25, read=1e5, written=1e6, site=SITE)
    assert found[0].share == pytest.approx(1.76)
    assert "cores alone: 160 images/s; with store, bytes: 90.91 images/s" in text(found, 160.0)
