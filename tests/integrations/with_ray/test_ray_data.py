"""Data sets on two nodes of Ray: a node, an actor or the driver is killed, and nothing is lost or done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("ray", reason="make ray has an environment for these")

import psutil
import pyarrow.parquet as pq

import fsfast
from fsfast.errors import FsfastError
from fsfast.integrations.arrow import from_table
from fsfast.integrations.certificate_table import certificates_from_table
from fsfast.integrations.ray import certify_dataset, encode_dataset
from fsfast.integrations.ray.pool import Machines
from fsfast.integrations.ray.results import Results
from tests.integrations.with_ray.two_nodes import SECRET, two_nodes

ROOT = Path(__file__).parents[3]
# So many samples that somebody can be killed while slices are done.
N0 = 64
IMAGES = 12
# One for each node.
TWO = Machines(workers=2)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of images that all differ, with one that is none."""
    folder = tmp_path_factory.mktemp("images")
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (IMAGES, 32, 32, 3), np.uint8)):
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    (folder / "05-broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def wanted(images):
    """What one process without Ray makes of them."""
    with fsfast.SmoothedEncoder("demo", secret=SECRET) as encoder:
        paths = sorted(path for path in images.iterdir() if "broken" not in path.name)
        return encoder.encode(paths, N0, progress=False)


@pytest.fixture(scope="module")
def undisturbed(images, tmp_path_factory):
    """Files that nobody disturbed, with one worker."""
    out = tmp_path_factory.mktemp("undisturbed") / "features"
    with two_nodes():
        encode_dataset(images, out, n0=N0, slice_images=1)
    return files(out)


def files(out: Path) -> dict[str, bytes]:
    """Every file of a folder of results; what a killed process left unfinished is none of them."""
    found = (path for path in out.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(out)): path.read_bytes() for path in found}


def assert_whole(out, images, wanted):
    found = from_table(pq.read_table(out / "features"))
    assert found.unit.tobytes() == wanted.unit.tobytes()
    assert found.features.tobytes() == wanted.features.tobytes()
    assert found.names == wanted.names
    ((name, error),) = Results(out).failures()
    assert name == str(images / "05-broken.png")
    assert error.startswith("ImageError: ")


def when_done(out: Path, slices: int, strike) -> threading.Thread:
    """Strike once so many slices are done."""

    def watch() -> None:
        while len(list(out.glob("slices/*.json"))) < slices:
            time.sleep(0.05)
        strike()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def workers() -> list[int]:
    """The processes of this test's cluster that are workers of Ray Data."""
    below = psutil.Process().children(recursive=True)
    return [process.pid for process in below if process.cmdline()[:1] and "MapWorker" in process.cmdline()[0]]


def test_a_node_that_is_killed_costs_nothing(images, wanted, undisturbed, tmp_path):
    out, told = tmp_path / "features", []
    with two_nodes() as nodes:
        killer = when_done(out, 4, nodes.kill_other)
        summary = encode_dataset(images, out, n0=N0, slice_images=1, machines=TWO, progress=told.append)
        killer.join()
    assert summary.slices == IMAGES + 1
    assert_whole(out, images, wanted)
    assert files(out) == undisturbed
    assert sum(told) <= IMAGES + 1


def test_an_actor_that_is_killed_is_replaced(images, wanted, undisturbed, tmp_path):
    out = tmp_path / "features"
    with two_nodes():
        killer = when_done(out, 4, lambda: os.kill(workers()[0], signal.SIGKILL))
        encode_dataset(images, out, n0=N0, slice_images=1, machines=TWO)
        killer.join()
    assert_whole(out, images, wanted)
    assert files(out) == undisturbed


def test_a_driver_that_is_killed_goes_on_where_it_was(images, undisturbed, tmp_path):
    out = tmp_path / "features"
    code = (
        "import sys, ray; from fsfast.integrations.ray import encode_dataset; "
        "ray.init(address=sys.argv[1], log_to_driver=False); "
        f"encode_dataset(sys.argv[2], sys.argv[3], n0={N0}, slice_images=1)"
    )
    with two_nodes() as nodes:
        line = [sys.executable, "-c", code, nodes.address, str(images), str(out)]
        driver = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        when_done(out, 4, driver.kill).join()
        assert driver.wait() == -signal.SIGKILL
        done = {path.name: path.stat().st_mtime_ns for path in out.glob("slices/*.json")}
        assert 4 <= len(done) < IMAGES
        summary = encode_dataset(images, out, n0=N0, slice_images=1)
        assert summary.slices_before >= len(done)
        assert summary.slices + summary.slices_before == IMAGES + 1
        assert files(out) == undisturbed
        now = {path.name: path.stat().st_mtime_ns for path in out.glob("slices/*.json")}
        assert {name: now[name] for name in done} == done
        with pytest.raises(FsfastError, match="begun with n0 64, now it is 8"):
            encode_dataset(images, out, n0=8, slice_images=1)
        with pytest.raises(FsfastError, match="begun with slices"):
            encode_dataset(images, out, n0=N0, slice_images=2)


def test_certificates_of_two_workers_are_those_of_one_process(images, tmp_path):
    out = tmp_path / "certificates"
    paths = [images / f"{i:02d}.png" for i in range(4)]
    with two_nodes():
        certify_dataset(paths, out, n=60, n0=4, slice_images=1, machines=TWO)
    found = certificates_from_table(pq.read_table(out / "certificates"))
    with fsfast.SmoothedEncoder("demo", secret=SECRET) as encoder:
        for certificate, path in zip(found, paths, strict=True):
            again = encoder.certify(path, 60, n0=4, progress=False)
            assert certificate.seed == again.seed
            assert certificate.scores.tobytes() == again.scores.tobytes()
            assert encoder.verify(certificate, path).verdict == "same"


def test_a_machine_with_another_secret_is_refused(images, tmp_path):
    out = tmp_path / "features"
    with (
        two_nodes(environment={"FSFAST_SECRET": "another secret of the tests"}),
        pytest.raises(Exception, match=r"wanted key_id \w+ as this folder of results has"),
    ):
        encode_dataset(images, out, n0=N0, slice_images=1, machines=TWO)
