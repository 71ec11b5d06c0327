"""How the commands beside the package end: without their packages, and by Ctrl-C."""

from __future__ import annotations

import subprocess
import sys

import pytest

from export.stopping import run

_WITHOUT = """
import runpy, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx", "matplotlib", "tensorrt"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("command", "program"),
    [
        ("train demo", "python -m train"),
        ("train psm", "python -m train"),
        ("train", "python -m train"),
        ("fsfast export demo --random-weights --out x", "fsfast export"),
        ("fsfast export quantise demo", "fsfast export"),
        ("export demo --random-weights --out x", "fsfast export"),
        ("export.quantise demo", "fsfast export quantise"),
        ("export.tensorrt demo", "fsfast export tensorrt"),
        ("benchmarks", "python -m benchmarks"),
        ("benchmarks.certified", "python -m benchmarks.certified"),
    ],
)
def test_a_missing_package_is_one_line(command, program):
    module, *arguments = command.split()
    call = [sys.executable, "-c", _WITHOUT, module, *arguments]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    # What was begun may have been told.
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"{program}: ")
    assert "pip install" in last
    assert "Traceback" not in done.stderr


def test_ctrl_c_is_one_line(capsys):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stopped:
        run("python -m train", interrupted, "train")
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "python -m train: interrupted\n"
