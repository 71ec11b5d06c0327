"""Run a program with this processor's wider instruction sets hidden (cpu_mask.c)."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest

ROOT = Path(__file__).parents[2]


@cache
def _library() -> Path:
    """Return the library to preload; built once per run of the tests."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip("instruction sets can be hidden on Linux on x86-64 only")
    if (compiler := shutil.which("gcc")) is None:
        pytest.skip("no gcc, which builds what hides instruction sets")
    library = Path(mkdtemp()) / "cpu_mask.so"
    source = Path(__file__).with_name("cpu_mask.c")
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", str(source), "-o", str(library), "-ldl"], check=True)
    return library


def run_masked(mask: str, arguments: Sequence[str], **environment: str) -> str:
    """Run Python with arguments and return its output; skips where instruction sets cannot be hidden.

    Args:
        mask: sse2, avx2 or avx2-vnni.
        arguments: of Python.
        environment: more variables.
    """
    hidden = {"FSFAST_CPU_MASK": mask, "LD_PRELOAD": str(_library()), **environment}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=os.environ | hidden, capture_output=True, text=True
    )
    if done.returncode == 3 and "cpuid_fault" in done.stderr:
        pytest.skip("this machine cannot hide instruction sets: no cpuid_fault in /proc/cpuinfo")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
