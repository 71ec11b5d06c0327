"""Machines that are not as usual: no home, other packages, processes that fork, pickle, or end at any moment."""

from __future__ import annotations

import copy
import importlib.metadata as metadata
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import fsfast
from fsfast import machine
from fsfast.backends import cpu
from fsfast.engine import writer
from fsfast.engine.engine import load_engine
from fsfast.errors import EngineError
from fsfast.files import exchange
from tests.written_before import ENGINE

PICTURE = np.zeros((64, 64, 3), np.uint8)
NOBODY = """
import pwd
def getpwuid(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = getpwuid
"""


def python(
    code: str, *arguments: str, timeout: float = 120, **environment: str
) -> subprocess.CompletedProcess[str]:
    kept = {k: os.environ[k] for k in ("PATH", "LD_LIBRARY_PATH") if k in os.environ}
    kept |= {"PYTHONPATH": str(Path(__file__).parents[1])}
    line = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        line, env={**kept, **environment}, capture_output=True, text=True, check=False, timeout=timeout
    )


def test_a_user_without_a_home(tmp_path):
    """As containers start a process: a number for a user, no HOME, no entry in passwd."""
    code = NOBODY + "import sys, fsfast, numpy as np\n"
    code += "with fsfast.SmoothedEncoder(sys.argv[1], threads=1) as encoder:\n"
    code += "    print(encoder.encode(np.zeros((8, 8, 3), np.uint8), 1).features.shape)"
    done = python(code, str(ENGINE), FSFAST_BACKEND="onnxruntime")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "FSFAST_CACHE" in done.stderr
    code = NOBODY + "import sys; from fsfast.cli import main; sys.exit(main(sys.argv[1:]))"
    for command in ("doctor", "info"):
        assert "Traceback" not in python(code, command).stderr


def test_a_library_under_another_name(monkeypatch):
    """onnxruntime-openvino, ort-nightly: importable, whatever the package is called."""
    known = metadata.version

    def version(name: str) -> str:
        if name in ("onnxruntime", "onnxruntime-gpu"):
            raise metadata.PackageNotFoundError(name)
        return "1.99" if name == "ort-nightly" else known(name)

    monkeypatch.setattr(cpu, "version", version)
    monkeypatch.setattr(cpu, "packages_distributions", lambda: {"onnxruntime": ["ort-nightly"]})
    assert cpu.installed()["onnxruntime"] == "ort-nightly 1.99"
    monkeypatch.setattr(cpu, "packages_distributions", dict)
    assert cpu.installed()["onnxruntime"] == "of unknown version"
    monkeypatch.setattr(cpu, "find_spec", lambda name: None)
    assert cpu.installed() == {}


def test_encoders_pickle_as_what_opens_them_again(tmp_path):
    with fsfast.SmoothedEncoder(ENGINE, stages=["encoder"], micro_batch=2, threads=1) as encoder:
        wanted = encoder.encode(PICTURE[:8, :8], 2, seeds=[1]).features
        content = pickle.dumps(encoder)
        for again in (pickle.loads(content), copy.deepcopy(encoder)):
            assert again.function_id == encoder.function_id
            np.testing.assert_array_equal(again.encode(PICTURE[:8, :8], 2, seeds=[1]).features, wanted)
            again.close()
    with fsfast.SmoothedEncoder("demo", threads=1) as encoder:
        assert b"demo" in pickle.dumps(encoder)
        assert str(encoder.engine_path).encode() not in pickle.dumps(encoder)
    with (
        fsfast.SmoothedEncoder(ENGINE, secret="sixteen characters") as secretive,
        pytest.raises(TypeError, match="secret does not pickle"),
    ):
        pickle.dumps(secretive)


def test_a_pickled_encoder_of_another_engine(tmp_path):
    place = tmp_path / "engine"
    shutil.copytree(ENGINE, place)
    with fsfast.SmoothedEncoder(place, threads=1) as encoder:
        content = pickle.dumps(encoder)
    shutil.rmtree(place)
    shutil.copytree(load_engine("demo").path, place)
    with pytest.raises(EngineError, match="another engine than the pickled"):
        pickle.loads(content)


def test_names_change_places_in_one_step(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this system cannot exchange names")
    assert (tmp_path / "a" / "b").exists()
    assert (tmp_path / "b" / "a").exists()
    with pytest.raises(OSError, match="none"):
        exchange(tmp_path / "a", tmp_path / "none")


@pytest.mark.parametrize("can", [True, False], ids=["exchanged", "renamed twice"])
def test_an_engine_is_replaced(tmp_path, monkeypatch, can):
    if not can:
        monkeypatch.setattr(writer, "exchange", lambda a, b: False)
    place = tmp_path / "engine"
    shutil.copytree(load_engine("demo").path, place)
    engine = load_engine(ENGINE)
    record = {k: v for k, v in engine.manifest.record.items() if k != "files"}
    writer.save_engine(place, record, {name: ENGINE / name for name in engine.manifest.files}, force=True)
    assert load_engine(place).manifest.name == engine.manifest.name
    assert [p.name for p in tmp_path.iterdir()] == ["engine"]


def test_many_threads_start_the_team_of_a_forked_child_once(tmp_path):
    code = """
import os, sys, threading, numpy as np, fsfast
encoder = fsfast.SmoothedEncoder(sys.argv[1], backend="onnxruntime", threads=2)
picture = np.zeros((8, 8, 3), np.uint8)
wanted = encoder.encode(picture, 3, seeds=[1]).features
pid = os.fork()
if pid == 0:
    found = []
    work = lambda: found.append(encoder.encode(picture, 3, seeds=[1]).features)
    team = [threading.Thread(target=work) for _ in range(8)]
    [t.start() for t in team]; [t.join() for t in team]
    teams = sum(t.name.startswith("fsfast") for t in threading.enumerate())
    os._exit(0 if len(found) == 8 and all((f == wanted).all() for f in found) and teams <= 2 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = python(code, str(ENGINE), FSFAST_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_a_forked_child_ends_when_it_is_told_to(tmp_path):
    """sys.exit runs what libraries registered for the end, in a process that has none of their threads."""
    code = """
import os, sys, time, fsfast
encoder = fsfast.SmoothedEncoder(sys.argv[1], backend="onnxruntime", threads=1)
pid = os.fork()
if not pid:
    sys.exit(7)
begin = time.time()
while time.time() - begin < 20:
    done, status = os.waitpid(pid, os.WNOHANG)
    if done:
        break
    time.sleep(0.05)
else:
    os.kill(pid, 9)
    status = -1
os._exit(0 if status == 7 << 8 else 1)
"""
    done = python(code, str(ENGINE), FSFAST_CACHE=str(tmp_path), timeout=60)
    assert done.returncode == 0, done.stderr


def test_two_commands_do_not_write_to_one_file(tmp_path):
    """The second one is refused; nothing is lost of the first one's."""
    from fsfast.commands.journal import locked
    from fsfast.errors import FsfastError

    target = tmp_path / "lines.jsonl"
    with locked(str(target), "certify"):
        refused = pytest.raises(FsfastError, match="another fsfast certify writes to")
        with refused, locked(str(target), "certify"):
            pass
        target.write_text("{}\n")
    assert target.read_text() == "{}\n"
    with locked(str(tmp_path / "empty.jsonl"), "certify"):
        pass
    assert not (tmp_path / "empty.jsonl").exists()


def test_killed_while_it_certifies(tmp_path, photograph):
    """Whatever the moment: what is in the file is whole but for its last line, and the next run goes on."""
    target, pictures = tmp_path / "lines.jsonl", []
    for i in range(4):
        pictures.append(str(shutil.copy(photograph, tmp_path / f"{i}.jpg")))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    line = [sys.executable, "-m", "fsfast", "certify", str(ENGINE), *pictures, "-n", "40", "-o", str(target)]
    for delay in (1.0, 1.6, 2.2):
        process = subprocess.Popen(
            line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if target.exists():
            fsfast.load_certificates(target)
    assert subprocess.run(line, env=environment, capture_output=True, check=False).returncode == 0
    # The pictures are one and the same.
    assert len(fsfast.load_certificates(target)) == 1


def test_a_lock_that_the_parent_held_is_free_in_a_child():
    from fsfast.runtime.cpu.pipeline import _restarting

    held = threading.Thread(target=_restarting.lock.acquire)
    held.start()
    held.join()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if _restarting.lock.acquire(timeout=5) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    _restarting.renew()


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"/sys/fs/cgroup/cpu.max": "max 100000"}, None),
        ({"/sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
        (
            {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"},
            None,
        ),
        (
            {
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            0.5,
        ),
        ({"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/b/cpu.max": "300000 100000"}, 3.0),
    ],
)
def test_a_containers_share_of_the_processors(monkeypatch, files, quota):
    def text(path):
        if path not in files:
            raise FileNotFoundError(path)
        return files[path]

    monkeypatch.setattr(machine, "_text", text)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(8))
    assert machine._quota() == quota
    assert machine.available_threads() == {None: 8, 1.5: 2, 0.5: 1, 3.0: 3}[quota]
