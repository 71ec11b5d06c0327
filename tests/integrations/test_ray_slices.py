"""Data sets in slices: which images, what pins a folder of results, what counts as done. Ray itself: `make ray`."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest

import fsfast.integrations.ray
from fsfast.errors import BackendUnavailable, FsfastError, ReplicasDiffer
from tests.integrations.photos import png

fsspec = pytest.importorskip("fsspec", reason="needs fsspec")

from fsfast.integrations.ray.opening import check_same, identity, open_encoder  # noqa: E402
from fsfast.integrations.ray.results import Results  # noqa: E402
from fsfast.integrations.ray.slices import digest_of, paths_of, slices_of  # noqa: E402

MANIFEST = {"kind": "features", "n0": 4, "function_id": "f", "arguments": {"raw_mean": False}}


@pytest.fixture
def memory():
    """A store of fsspec that is no file system."""
    system = fsspec.filesystem("memory")
    yield "memory://results"
    if system.exists("/results"):
        system.rm("/results", recursive=True)


def test_a_folder_is_its_images_in_the_order_of_names(photos):
    names = [path.removeprefix(f"{photos}/") for path in paths_of(photos)]
    assert names == ["a.png", "b.PNG", "below/d.png", "below/e.png", "c.png"]


def test_patterns_urls_and_files_are_taken_in_the_order_in_which_they_come(photos, monkeypatch):
    monkeypatch.chdir(photos)
    found = paths_of(["c.png", f"file://{photos}/below", "*.png", "missing.png"])
    names = ["c.png", "below/d.png", "below/e.png", "a.png", "c.png", "missing.png"]
    assert found == [str(photos / name) for name in names]


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(FsfastError, match="got none"):
        paths_of(tmp_path)


def test_every_image_is_in_one_slice(photos):
    paths = paths_of(photos)
    slices = slices_of(paths, 2, "image")
    assert [each.count for each in slices] == [2, 2, 1]
    assert [path for each in slices for path in each.paths] == paths
    assert [each.name for each in slices] == ["000000", "000001", "000002"]
    contents = [content for each in slices for _, content in each.images("image")]
    assert contents == [png(level) for level in (1, 2, 4, 3, 0)]


def test_an_image_that_is_missing_fails_alone(photos):
    (each,) = slices_of([f"{photos}/missing.png", f"{photos}/a.png"], 9, "image")
    (_, missing), (_, there) = each.images("image")
    assert isinstance(missing, FsfastError)
    assert there == png(1)


@pytest.mark.parametrize("other", ["order", "length", "fewer"])
def test_the_digest_tells_other_slices_apart(photos, other):
    paths = paths_of(photos)
    changed = {
        "order": slices_of(paths[::-1], 2, ""),
        "length": slices_of(paths, 3, ""),
        "fewer": slices_of(paths[:-1], 2, ""),
    }
    assert digest_of(slices_of(paths, 2, "")) == digest_of(slices_of(paths, 2, ""))
    assert digest_of(changed[other]) != digest_of(slices_of(paths, 2, ""))


def test_a_file_that_is_no_parquet_file_stands_among_the_images(photos):
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    (photos / "x.parquet").write_bytes(b"no Parquet")
    (each,) = slices_of(paths_of([photos / "a.png", photos / "x.parquet"]), 9, "image")
    assert each.count == 2


@pytest.mark.parametrize("place", ["folder", "store"])
def test_a_folder_of_results_is_about_one_thing(place, tmp_path, memory):
    url = tmp_path / "results" if place == "folder" else memory
    Results(url).pin(MANIFEST)
    Results(url).pin(MANIFEST)
    for name, value in (("n0", 8), ("function_id", "g"), ("arguments", {})):
        with pytest.raises(FsfastError, match=f"begun with {name} "):
            Results(url).pin(MANIFEST | {name: value})
    with pytest.raises(FsfastError, match="begun with alpha None"):
        Results(url).pin(MANIFEST | {"alpha": 0.1})


def test_a_folder_with_other_files_is_refused(photos):
    with pytest.raises(FsfastError, match="choose another folder"):
        Results(photos).pin(MANIFEST)


@pytest.mark.parametrize("place", ["folder", "store"])
def test_a_slice_counts_when_its_record_is_whole(place, tmp_path, memory):
    results = Results(tmp_path / "results" if place == "folder" else memory)
    results.pin(MANIFEST)
    assert results.done() == {}
    results.write("features/000000.parquet", b"a file without a record")
    assert results.done() == {}
    results.finish("000000", {"images": 2, "failed": []})
    results.finish("000001", {"images": 1, "failed": [{"name": "ü.png", "error": "ImageError: none"}]})
    results.write("slices/000002.json", b'{"images": 2, "fai')
    assert sorted(results.done()) == ["000000", "000001"]
    assert results.record("000002") is None
    assert list(results.failures()) == [("ü.png", "ImageError: none")]
    results.forget_failed()
    assert sorted(results.done()) == ["000000"]


def test_machines_that_compute_something_else_are_refused():
    ours = {"engine_digest": "e", "function_id": "f", "key_id": "k"}
    check_same(ours, ours, "all have")
    check_same(ours, {"function_id": "f"}, "all have")
    check_same(ours, {}, "all have")
    for name in ours:
        with pytest.raises(ReplicasDiffer, match=f"wanted {name} other"):
            check_same(ours, ours | {name: "other"}, "all have")


def test_without_a_secret_nothing_is_opened(small_path, tmp_path, monkeypatch):
    with pytest.raises(FsfastError, match="FSFAST_SECRET"):
        open_encoder(str(small_path), {})
    (tmp_path / "secret").write_bytes(b"\n")
    with pytest.raises(FsfastError, match="got none"):
        open_encoder(str(small_path), {}, str(tmp_path / "secret"))


def test_the_identity_names_the_secret_and_does_not_tell_it(small_path, tmp_path, monkeypatch):
    monkeypatch.setenv("FSFAST_SECRET", "a secret of the tests")
    (tmp_path / "secret").write_bytes(b"another secret of the tests\n")
    with (
        open_encoder(str(small_path), {}) as one,
        open_encoder(str(small_path), {}, tmp_path / "secret") as two,
    ):
        found, other = identity(one), identity(two)
    assert found["function_id"] == other["function_id"]
    assert found["key_id"] != other["key_id"]
    assert "secret of the tests" not in json.dumps([found, other])


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
@pytest.mark.parametrize("name", ["deployment", "encode_dataset"])
def test_without_ray_the_error_says_how_to_install_it(name):
    with pytest.raises(BackendUnavailable, match=r"install it with: .*\[(ray|arrow)\]"):
        getattr(fsfast.integrations.ray, name)
