"""Results of `encode` as a sequence and as an array."""

from __future__ import annotations

import dataclasses
from xml.etree import ElementTree

import numpy as np
import pytest

import fsfast
from fsfast.runtime.features import SmoothedFeatures


@pytest.fixture
def out():
    features = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    return SmoothedFeatures(
        features=features,
        unit=features + 100,
        seeds=np.arange(4, dtype=np.uint64),
        seed_origins=("os", "replay", "os", "secret"),
        grid_sha256=("a", "b", "c", "d"),
        n0=4,
        sigma=0.25,
        engine="demo",
        engine_digest="0" * 64,
        function_id="1" * 64,
        random_weights=False,
        raw_mean=features + 200,
    )


INDICES = [
    *(0, 3, -4, np.int64(2), np.array(1)),
    *(slice(0, 1), slice(1, 3), slice(-2, None), slice(None, None, 2), slice(None, None, -1), slice(9, 12)),
    *([2, 0, 0], [-1], [], np.array([3, 1], np.uint8), [True, False, True, False], np.zeros(4, bool)),
]


@pytest.mark.parametrize("index", INDICES, ids=repr)
def test_an_index_picks_the_images_that_numpy_would_pick(out, index):
    places = np.atleast_1d(np.arange(4)[index if not isinstance(index, list) or index else slice(0, 0)])
    found = out[index]
    assert len(found) == len(places)
    for name in ("features", "unit", "raw_mean", "seeds"):
        np.testing.assert_array_equal(getattr(found, name), getattr(out, name)[places])
    assert found.grid_sha256 == tuple("abcd"[i] for i in places)
    assert found.seed_origins == tuple(out.seed_origins[i] for i in places)
    assert (found.n0, found.engine) == (4, "demo")


def test_iteration_gives_batches_of_one(out):
    assert [one.grid_sha256 for one in out] == [("a",), ("b",), ("c",), ("d",)]
    assert [one.grid_sha256 for one in reversed(out)] == [("d",), ("c",), ("b",), ("a",)]
    assert all(one.features.shape == (1, 3, 2) for one in out)
    assert np.shares_memory(out[1].features, out.features)


@pytest.mark.parametrize(
    ("index", "error", "says"),
    [
        (4, IndexError, "one of 4 images, got 4"),
        (-5, IndexError, "one of 4 images, got -5"),
        ([0, 4], IndexError, "4"),
        ([True, False], IndexError, "boolean index"),
        ("features", TypeError, r"got 'features'; index \.features"),
        ((0, 1), TypeError, r"got \(0, 1\); index \.features"),
        (1.0, TypeError, "got 'float'"),
        (True, TypeError, "got 'bool'"),
        (None, TypeError, "got 'NoneType'"),
        ([[0, 1]], TypeError, "got 'list'"),
    ],
    ids=repr,
)
def test_other_indices_are_refused(out, index, error, says):
    with pytest.raises(error, match=says):
        out[index]


def test_as_an_array_it_is_the_features(out):
    assert np.asarray(out) is out.features
    copied = np.array(out)
    np.testing.assert_array_equal(copied, out.features)
    assert copied.dtype == np.float32
    assert not np.shares_memory(copied, out.features)
    assert np.asarray(out, np.float64).dtype == np.float64
    np.testing.assert_array_equal(np.stack([out[1], out[2]])[:, 0], out.features[1:3])
    assert out.__array__(copy=False) is out.features
    with pytest.raises(ValueError, match="float64 without a copy, features are float32"):
        out.__array__(np.float64, copy=False)


def test_a_notebook_shows_a_table(out):
    evil = dataclasses.replace(out, engine="<b>&", random_weights=True)
    shown = ElementTree.fromstring(evil._repr_html_())
    cells = {row[0].text: row[1].text for row in shown.iter("tr")}
    assert cells["engine"] == "<b>& (random weights)"
    assert cells["features"] == "4 × 3 × 2 float32"
    assert cells["samples"] == "n0 = 4, σ = 0.25"
    assert cells["seeds"] == "os, replay, secret"


def test_files_of_earlier_versions_have_no_names(out):
    assert out[1].names == out[0:2].sources == ()
    named = dataclasses.replace(out, names=tuple("wxyz"))
    assert named[[2, 0]].names == ("y", "w")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"unit": lambda out: out.unit[:2]}, "unit .* do not fit features"),
        (
            {"features": lambda out: out.features[:, None, None], "unit": lambda out: out.unit},
            "do not fit seeds",
        ),
        ({"seeds": lambda out: out.seeds[:1]}, "do not fit seeds"),
        ({"seeds": lambda out: out.seeds.astype(np.int64)}, "seeds are int64"),
        ({"features": lambda out: out.features.astype(np.float64)}, "features are float64"),
        ({"raw_mean": lambda out: out.unit[..., :1]}, "raw_mean"),
        ({"grid_sha256": lambda out: ()}, "0 grid_sha256 do not fit 4 images"),
        ({"names": lambda out: ("one",)}, "1 names do not fit 4 images"),
    ],
)
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_arrays_that_do_not_fit_each_other_are_refused(out, tmp_path, changes, says, suffix):
    path = tmp_path / f"features{suffix}"
    dataclasses.replace(out, **{name: change(out) for name, change in changes.items()}).save(path)
    with pytest.raises(fsfast.errors.FsfastError, match=says):
        fsfast.load_features(path)


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_a_disk_that_takes_no_more_is_named_and_nothing_stays(out, tmp_path, suffix):
    """Whatever the library underneath calls it."""
    resource = pytest.importorskip("resource")
    path, before = tmp_path / f"features.{suffix}", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            out.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.filename == str(path)
    assert not list(tmp_path.iterdir())
