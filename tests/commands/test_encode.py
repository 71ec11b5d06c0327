"""`fsfast encode` for many images: folders that grow, interruptions, two at once, and images that cannot be read."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fsfast
from fsfast.cli import main
from fsfast.files import file_sha256
from fsfast.runtime.serving import GROUP
from tests.written_before import ENGINE

ROOT = Path(__file__).parents[2]


@pytest.fixture
def photos(tmp_path):
    """A folder of five pictures, two of them equal, and a file that is none."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (8, 8 + i, 3), np.uint8)).save(folder / "below" / f"{i}.png")
    shutil.copy(folder / "below" / "0.png", folder / "twin.png")
    return folder


def encode(*args):
    return main(["encode", str(ENGINE), *map(str, args)])


def test_a_folder_of_images_becomes_a_folder_of_features(photos, tmp_path, capsys):
    assert encode(photos, "-o", tmp_path / "out", "--shard-rows", 3, "--seed", 5) == 0
    assert "4 images written, 1 done before, 0 failed" in capsys.readouterr().out
    folder = fsfast.FeatureFolder(tmp_path / "out")
    assert sorted(folder.names) == sorted(map(str, photos.rglob("*.png")))
    assert [len(fsfast.load_features(shard)) for shard in folder.shards] == [3, 1]
    with fsfast.SmoothedEncoder(ENGINE, backend="onnxruntime") as encoder:
        for found in folder:
            (name,) = found.names
            wanted = encoder.encode(name, seeds=[5])
            assert np.array_equal(found.features, wanted.features)
            assert found.sources == wanted.sources
            assert found.sources[0]["sha256"] == file_sha256(Path(name))


def test_what_is_done_is_left_out_wherever_it_lies_now(photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert encode(photos / "below" / "0.png", photos / "below" / "1.png", "-o", out) == 0
    first = (out / "features-00000.safetensors").read_bytes()
    moved = photos.rename(tmp_path / "moved")
    assert encode(moved, "-o", out, "--json") == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (said["written"], said["done_before"], said["failed"]) == (2, 3, 0)
    assert (out / "features-00000.safetensors").read_bytes() == first
    assert {str(moved / "twin.png"), str(photos / "below" / "0.png")} < set(fsfast.FeatureFolder(out).names)


def test_another_setting_is_refused_by_name(photos, tmp_path, capsys):
    common = (photos / "twin.png", "-o", tmp_path / "out")
    assert encode(*common, "--seed", 5) == 0
    before = (tmp_path / "out" / "index.jsonl").read_bytes()
    for options, setting in [
        (("--n0", 9), "n0 (3 there, 9 now)"),
        (("--raw-mean",), "raw mean"),
        (("--seed", 6), "seed"),
        (("--micro-batch", 2), "engine or profile"),
    ]:
        assert encode(*common, *options) == 2
        assert f"another {setting}" in capsys.readouterr().err
    assert (tmp_path / "out" / "index.jsonl").read_bytes() == before


@pytest.mark.parametrize(("on_error", "names"), [("skip", ["a.png", "z.png"]), ("stop", ["a.png"])])
def test_an_image_that_cannot_be_read(photos, tmp_path, capsys, on_error, names):
    folder = tmp_path / "some"
    folder.mkdir()
    for i, name in enumerate(("a.png", "z.png")):
        shutil.copy(photos / "below" / f"{i}.png", folder / name)
    (folder / "m.png").write_bytes(b"no picture")
    assert encode(folder, "-o", tmp_path / "out", "--on-error", on_error) == 1
    assert "m.png" in capsys.readouterr().err
    assert [Path(name).name for name in fsfast.FeatureFolder(tmp_path / "out").names] == names
    # A file is written whole or not at all.
    assert encode(folder, "-o", tmp_path / "out.npz", "--on-error", on_error) == 1
    assert (tmp_path / "out.npz").exists() == (on_error == "skip")


def test_an_interruption_says_what_stays(photos, tmp_path, capsys, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(fsfast.SmoothedEncoder, "encode_iter", interrupted)
    assert encode(photos, "-o", tmp_path / "out.npz") == 130
    assert "nothing is written; in a folder" in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()


def test_shards_without_an_index_are_not_overwritten(photos, tmp_path, capsys):
    (tmp_path / "features-00000.safetensors").write_bytes(b"of another program")
    assert encode(photos, "-o", tmp_path) == 2
    assert "choose another folder" in capsys.readouterr().err
    assert (tmp_path / "features-00000.safetensors").read_bytes() == b"of another program"


def test_two_commands_do_not_write_to_one_folder(photos, tmp_path, capsys):
    from fsfast.commands.journal import locked

    (tmp_path / "out").mkdir()
    with locked(str(tmp_path / "out" / "index.jsonl"), "encode"):
        assert encode(photos, "-o", tmp_path / "out") == 2
    assert "another fsfast encode writes to" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=str)
def test_killed_while_it_encodes(tmp_path, number):
    """Whatever the moment: only what is in progress is lost, and the next run goes on."""
    rng, out = np.random.default_rng(0), tmp_path / "out"
    for i in range(2 * GROUP):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / f"{i:02}.png")
    line = [str(tmp_path), "-o", str(out), "--shard-rows", "3", "--n0", "50"]
    running = subprocess.Popen(
        [sys.executable, "-m", "fsfast", "encode", str(ENGINE), *line],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        # Where the tests run in the background it would be ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while running.poll() is None and not (out / "features-00000.safetensors").exists():
        time.sleep(0.01)
    # The second group of images is on its way.
    running.send_signal(number)
    running.wait()
    assert running.returncode
    before = [entry.seed for entry in fsfast.FeatureFolder(out).entries]
    assert len(before) < 2 * GROUP
    assert encode(*line) == 0
    folder = fsfast.FeatureFolder(out)
    assert [entry.seed for entry in folder.entries][: len(before)] == before
    assert [Path(features.names[0]).stem for features in folder] == [f"{i:02}" for i in range(2 * GROUP)]
