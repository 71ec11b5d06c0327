"""A folder of features: grows by shards, goes on after an interruption, and loses nothing that counts."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

import fsfast
from fsfast.files import file_sha256
from fsfast.images.grid import RESIZE, to_grid
from fsfast.runtime.feature_folder import FeatureWriter
from tests.written_before import ENGINE


@pytest.fixture(scope="module")
def encoder():
    with fsfast.SmoothedEncoder(ENGINE, backend="onnxruntime") as encoder:
        yield encoder


@pytest.fixture(scope="module")
def features(encoder):
    """The features of seven images."""
    rng = np.random.default_rng(0)
    items, _ = to_grid([rng.integers(0, 256, (8, 8, 3), np.uint8) for _ in range(7)], encoder.manifest.grid)
    out = encoder.encode(items, 1)
    return [out[i] for i in range(7)]


def item(encoder, features, name):
    """An image that stands for its features."""
    image = to_grid(np.zeros((8, 8, 3), np.uint8), encoder.manifest.grid)[0][0]
    vars(image).update(grid_sha256=features.grid_sha256[0], name=name)
    return image


def writer(folder, encoder, rows=3, size=1 << 20, **settings):
    wanted = {"engine or profile": encoder.function_id, "n0": 1, "raw mean": False, **settings}
    return FeatureWriter(folder, wanted, rows=rows, size=size)


def write(folder, encoder, features, **options):
    with writer(folder, encoder, **options) as out:
        for i, part in enumerate(features):
            if out.claim(item(encoder, part, f"{i}.png")):
                out.add(replace(part, names=(f"{i}.png",)))


def test_rows_come_back_with_their_names(tmp_path, encoder, features):
    write(tmp_path, encoder, features)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *(f"features-0000{i}.safetensors" for i in range(3)),
        "index.jsonl",
    ]
    folder = fsfast.FeatureFolder(tmp_path)
    assert folder.names == [f"{i}.png" for i in range(7)]
    for i, (found, wanted) in enumerate(zip(folder, features, strict=True)):
        assert np.array_equal(found.features, wanted.features)
        assert (found.names, found.seeds) == ((f"{i}.png",), wanted.seeds)
        assert folder.by_pixels[wanted.grid_sha256[0]].seeds == wanted.seeds
    assert [len(fsfast.load_features(shard)) for shard in folder.shards] == [3, 3, 1]


def test_shards_are_bounded_in_bytes(tmp_path, encoder, features):
    write(tmp_path, encoder, features, rows=100, size=2 * features[0].nbytes)
    assert [len(fsfast.load_features(s)) for s in fsfast.FeatureFolder(tmp_path).shards] == [2, 2, 2, 1]


def test_equal_pixels_share_a_row_under_all_names(tmp_path, encoder, features):
    for names in (("a.png", "b.png"), ("a.png", "c.png")):
        with writer(tmp_path, encoder) as out:
            for name in names:
                if out.claim(item(encoder, features[0], name)):
                    out.add(replace(features[0], names=(name,)))
    folder = fsfast.FeatureFolder(tmp_path)
    assert sorted(folder.names) == ["a.png", "b.png", "c.png"]
    assert len(folder.shards) == 1
    assert {f.names[0] for f in folder} == {"a.png", "b.png", "c.png"}
    assert {int(f.seeds[0]) for f in folder} == {int(features[0].seeds[0])}


@pytest.mark.parametrize("tail", [b"", b'{"name": "x'])
@pytest.mark.parametrize("lines", [3, 4, 5])
def test_an_index_that_was_cut_goes_on(tmp_path, encoder, features, lines, tail):
    """The shard whose lines are not all there is written anew, those before it stay."""
    write(tmp_path, encoder, features[:6])
    index = tmp_path / "index.jsonl"
    before = (tmp_path / "features-00000.safetensors").read_bytes()
    index.write_bytes(b"".join(index.read_bytes().splitlines(keepends=True)[:lines]) + tail)
    assert len(fsfast.FeatureFolder(tmp_path)) == 3
    write(tmp_path, encoder, features)
    assert (tmp_path / "features-00000.safetensors").read_bytes() == before
    folder = fsfast.FeatureFolder(tmp_path)
    assert [f.grid_sha256 for f in folder] == [f.grid_sha256 for f in features]


def test_a_shard_without_lines_is_written_anew(tmp_path, encoder, features):
    write(tmp_path, encoder, features[:2])
    (tmp_path / "index.jsonl").write_bytes(b"")
    write(tmp_path, encoder, features[2:5])
    assert [f.grid_sha256 for f in fsfast.FeatureFolder(tmp_path)] == [f.grid_sha256 for f in features[2:5]]


def test_what_a_kill_left_is_cleared_away(tmp_path, encoder, features):
    (tmp_path / ".0123456789ab.part").write_bytes(b"half a shard")
    (tmp_path / ".mine.part").write_bytes(b"of somebody else")
    write(tmp_path, encoder, features[:1])
    assert {p.name for p in tmp_path.iterdir()} == {".mine.part", "features-00000.safetensors", "index.jsonl"}


def test_a_file_that_came_onto_the_grid_in_another_way_is_not_done(tmp_path, encoder, features):
    picture = tmp_path / "a.png"
    picture.write_bytes(b"the bytes")
    source = {"sha256": file_sha256(picture)}
    for resize, done in ((RESIZE, True), (RESIZE - 1, False)):
        folder = tmp_path / f"{resize}"
        folder.mkdir()
        with writer(folder, encoder) as out:
            out.add(replace(features[0], names=("a.png",), sources=({**source, "resize": resize},)))
        assert writer(folder, encoder).has_file(str(picture), "a.png") == done


def test_what_was_added_is_kept_at_an_interruption(tmp_path, encoder, features):
    def interrupted():
        with writer(tmp_path, encoder) as out:
            out.add(features[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(fsfast.FeatureFolder(tmp_path)) == 1


@pytest.mark.parametrize(
    ("setting", "now"),
    [("engine or profile", "f" * 64), ("n0", 2), ("raw mean", True), ("seed", "0x0000000000000007")],
)
def test_another_setting_is_refused_by_name(tmp_path, encoder, features, setting, now):
    write(tmp_path, encoder, features[:2])
    before = (tmp_path / "index.jsonl").read_bytes()
    with pytest.raises(fsfast.FsfastError, match=f"has another {setting} .*choose another folder"):
        writer(tmp_path, encoder, **{setting: now})
    assert (tmp_path / "index.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        {"shard": "../features-00000.safetensors"},
        {"row": -1},
        {"row": 5},
        {"grid_sha256": "0" * 64},
        {"note": 1},
    ],
    ids=str,
)
def test_an_index_of_somebody_else_is_refused(tmp_path, encoder, features, change):
    write(tmp_path, encoder, features[:3])
    index = tmp_path / "index.jsonl"
    lines = index.read_text().splitlines()
    index.write_text("\n".join([json.dumps({**json.loads(lines[0]), **change}), *lines, ""]))
    with pytest.raises(fsfast.FsfastError, match=r"index\.jsonl"):
        list(fsfast.FeatureFolder(tmp_path))


@pytest.mark.parametrize("record", ["{}", "[]", '{"function_id": "f", "n0": 1}'])
def test_a_shard_of_somebody_else_is_refused(tmp_path, encoder, features, record):
    write(tmp_path, encoder, features[:2])
    metadata = {"format": "fsfast-features", "schema": "1", "record": record}
    save_file({"units": np.zeros(2)}, tmp_path / "features-00000.safetensors", metadata)
    with pytest.raises(fsfast.FsfastError, match=r"features-00000\.safetensors is not a file of smoothed"):
        writer(tmp_path, encoder)


def test_other_folders_are_refused(tmp_path, encoder, features):
    with pytest.raises(fsfast.FsfastError, match="wanted a folder of features"):
        fsfast.FeatureFolder(tmp_path)
    write(tmp_path, encoder, features[:2])
    (tmp_path / "features-00000.safetensors").unlink()
    with pytest.raises(fsfast.FsfastError, match=r"features-00000\.safetensors does not exist"):
        fsfast.FeatureFolder(tmp_path)
