"""Nothing phones home: no socket, no name that is looked up, no file outside of fsfast's cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHOW = """
import sys, time, numpy as np, fsfast
with fsfast.SmoothedEncoder("demo", backend=sys.argv[1], threads=1) as encoder:
    encoder.encode(np.zeros((64, 64, 3), np.uint8), 1)
# Clients send from threads of their own, a little later.
time.sleep(2)
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory) -> Path:
    """The library that watches."""
    if not sys.platform.startswith("linux") or not shutil.which("cc"):
        pytest.skip("needs Linux and a C compiler")
    out = tmp_path_factory.mktemp("watch") / "watch.so"
    source = Path(__file__).with_name("watch.c")
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", source, "-o", out, "-ldl"], check=True)
    return out


@pytest.fixture
def watched(shim, tmp_path):
    """Run Python as a fresh user does; return what it asked the network, and the files that it left at home."""
    home, log = tmp_path / "home", tmp_path / "asked"
    home.mkdir()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FSFAST", "XDG", "ORT_")) and k != "CI"}
    environment = {**kept, "HOME": str(home), "PYTHONPATH": str(ROOT), "LD_PRELOAD": str(shim)}
    environment["WATCH_LOG"] = str(log)

    def run(*arguments: str) -> tuple[list[str], list[str]]:
        line = [sys.executable, *arguments]
        done = subprocess.run(
            line, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode in (0, 1), done.stderr
        asked = log.read_text().splitlines() if log.exists() else []
        left = [str(p.relative_to(home)) for p in home.rglob("*") if p.is_file()]
        return asked, [name for name in left if not name.startswith(".cache/fsfast/")]

    return run


def test_the_watcher_sees_sockets(watched):
    asked, _ = watched("-c", "import socket; socket.socket(); socket.gethostbyname('localhost')")
    assert "socket " in asked
    assert any("localhost" in line for line in asked)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_encoder(watched, backend):
    pytest.importorskip(backend, reason=f"needs the package {backend}")
    assert watched("-c", SHOW, backend) == ([], [])


@pytest.mark.parametrize(
    "command",
    [
        ("-m", "fsfast", "doctor"),
        ("-m", "fsfast", "certify", "demo", "PHOTO", "-n", "20", "-o", "lines.jsonl"),
        ("-m", "export", "--help"),
        ("-c", "import fsfast, onnxruntime, time; time.sleep(2)"),
        ("-c", "import benchmarks.__main__, export.build, train.demo_command"),
    ],
    ids=["doctor", "certify", "export", "library", "modules"],
)
def test_commands(watched, photograph, command):
    assert watched(*(str(photograph) if word == "PHOTO" else word for word in command)) == ([], [])
