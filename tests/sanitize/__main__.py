"""The C++ kernels under AddressSanitizer and UndefinedBehaviorSanitizer: `make sanitize`.

Builds the extension once more with both, and lets `tests.sanitize.driver` call it on every instruction set of this
processor: with random shapes, strides and types through `fsfast.kernels.cpu`, and with hostile arguments directly.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pybind11

from benchmarks.measuring.files import write_table
from fsfast.kernels.cpu import INSTRUCTION_SETS

ROOT = Path(__file__).parents[2]
OUT = ROOT / "build" / "sanitize"
RESULTS = ROOT / "benchmarks" / "results" / "fuzz" / "sanitize.csv"
FLAGS = [
    *("-std=c++17", "-O1", "-g", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden"),
    *("-ffp-contract=off", "-fno-trapping-math"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"),
]


def build() -> Path:
    """Compile the extension, and return it."""
    OUT.mkdir(parents=True, exist_ok=True)
    target = OUT / f"_cpu{sysconfig.get_config_var('EXT_SUFFIX')}"
    sources = [path.stat().st_mtime for path in (ROOT / "csrc").rglob("*") if path.is_file()]
    if target.exists() and target.stat().st_mtime > max(sources):
        return target
    includes = [f"-I{path}" for path in ("csrc", pybind11.get_include(), sysconfig.get_path("include"))]
    subprocess.run(["c++", *FLAGS, *includes, "csrc/bindings.cpp", "-o", str(target)], cwd=ROOT, check=True)
    return target


def _file(name: str) -> str:
    """Return where the compiler has a library."""
    line = ["c++", f"-print-file-name={name}"]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()


def main(argv: list[str] | None = None) -> int:
    """Build and run; exit code 1 where a sanitizer complains, 2 where there is none."""
    parser = argparse.ArgumentParser(prog="python -m tests.sanitize", description=__doc__)
    parser.add_argument("--cases", type=int, default=2000, help="per instruction set (default 2000)")
    args = parser.parse_args(argv)
    if not shutil.which("c++"):
        print("python -m tests.sanitize: needs a C++ compiler", file=sys.stderr)
        return 2
    extension = build()
    # The library of exceptions, too: the sanitizer looks for it when it is loaded, and Python brings none.
    preloaded = " ".join(_file(name) for name in ("libasan.so", "libstdc++.so"))
    # Python's own allocations that live to its end are none of ours.
    environment = {
        **os.environ,
        "LD_PRELOAD": preloaded,
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONMALLOC": "malloc",
    }
    rows = []
    for name in INSTRUCTION_SETS:
        line = [sys.executable, "-m", "tests.sanitize.driver", str(extension), str(args.cases)]
        done = subprocess.run(
            line, cwd=ROOT, env={**environment, "FSFAST_INSTRUCTION_SET": name}, check=False
        )
        outcome = "clean" if done.returncode == 0 else f"exit {done.returncode}"
        rows.append({"instruction set": name, "calls of each kind": args.cases, "outcome": outcome})
        print(f"{name}: {outcome}", flush=True)
    write_table(RESULTS, rows)
    return 0 if all(row["outcome"] == "clean" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
