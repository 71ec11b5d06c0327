"""Kill commands at random moments, fill disks, take write permission away: `python -m tests.fuzz.kills`.

After every kill -9 what lies at the target is what lay there before or all of the new one; of a file of certificates
nothing is lost but the image in progress, and the same command goes on. Writes benchmarks/results/fuzz/kills.csv.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

import fsfast
from benchmarks.measuring.files import write_table
from benchmarks.measuring.tables import read
from fsfast.engine.engine import load_engine
from tests.written_before import ENGINE

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "fuzz" / "kills.csv"
RECIPE = ROOT / "tests" / "data" / "recipes" / "pooled.toml"


def run(line: list[str], delay: float | None = None) -> tuple[int, str]:
    """Run a command, killed after `delay` seconds; return its exit code and what it said on stderr."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        line, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    if delay is not None:
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
    _, said = process.communicate()
    return process.returncode, said


class Certify:
    """`fsfast certify -o`: a file that grows."""

    name = "certify -o"

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        self.pictures = []
        for i in range(6):
            path = folder / f"{i}.png"
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
            self.pictures.append(str(path))
        self.target = folder / "lines.jsonl"
        certify = [sys.executable, "-m", "fsfast", "certify", str(ENGINE), *self.pictures]
        self.line = [*certify, "-n", "200", "--seed", "3", "-o", str(self.target)]
        self.seen: list[str] = []

    def check(self) -> str | None:
        """Return what is wrong after a kill."""
        if not self.target.exists():
            return None
        found = (
            [c.grid_sha256 for c in fsfast.load_certificates(self.target)]
            if self.target.stat().st_size
            else []
        )
        if found[: len(self.seen)] != self.seen:
            return "certificates that were there are lost"
        self.seen = found
        if len(found) == len(self.pictures):
            self.target.unlink()
            self.seen = []
        return None


class Encode:
    """`fsfast encode -o`: a file that stands or does not, over one that stands there."""

    name = "encode -o"

    def __init__(self, folder: Path) -> None:
        picture = folder / "picture.png"
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(picture)
        self.folder, self.target = folder, folder / "features.safetensors"
        self.line = [
            sys.executable,
            "-m",
            "fsfast",
            "encode",
            str(ENGINE),
            str(picture),
            "-o",
            str(self.target),
        ]

    def check(self) -> str | None:
        """Return what is wrong after a kill."""
        if self.target.exists():
            fsfast.load_features(self.target)
        return None


class Export:
    """`python -m export --force`: an engine is there at every moment."""

    name = "export --force"

    def __init__(self, folder: Path) -> None:
        self.target = folder / "engine"
        export = [sys.executable, "-m", "export", str(RECIPE), "--random-weights"]
        self.line = [*export, "--out", str(self.target), "--force"]

    def check(self) -> str | None:
        """Return what is wrong after a kill."""
        if not self.target.exists():
            return "no engine is left"
        load_engine(self.target)
        return None


def kills(
    kind: Callable[[Path], Certify | Encode | Export], moments: int, chance: random.Random
) -> tuple[str, int, int]:
    """Return name, kills and faults of a command."""
    faults = 0
    with tempfile.TemporaryDirectory(prefix="fsfast-kills-") as folder:
        command = kind(Path(folder))
        begin = time.perf_counter()
        code, said = run(command.line)
        whole = time.perf_counter() - begin
        assert code == 0, said
        command.check()
        for i in range(moments):
            delay = chance.random() * whole * 1.1
            run(command.line, delay)
            try:
                wrong = command.check()
            except Exception as error:
                wrong = f"{type(error).__name__}: {error}"
            if wrong:
                faults += 1
                print(f"{command.name}, kill {i} after {delay:.2f} s: {wrong}", flush=True)
    return command.name, moments, faults


def places() -> list[tuple[str, int, int]]:
    """Return how full disks and read-only folders are answered, where this user may mount some."""
    found = []
    with tempfile.TemporaryDirectory(prefix="fsfast-kills-") as folder:
        for name, options in (("full disk", "size=16k"), ("read-only folder", "ro")):
            mounted = Path(folder) / name.replace(" ", "-")
            mounted.mkdir()
            mount = ["mount", "-t", "tmpfs", "-o", options, "none", str(mounted)]
            if (
                not shutil.which("mount")
                or subprocess.run(mount, capture_output=True, check=False).returncode
            ):
                print(f"{name}: left out, since this user may not mount anything")
                continue
            try:
                for kind in (Certify, Encode, Export):
                    scratch = Path(folder) / f"{kind.__name__}-{mounted.name}"
                    scratch.mkdir()
                    command = kind(scratch)
                    line = [
                        word.replace(str(command.target), str(mounted / command.target.name))
                        for word in command.line
                    ]
                    code, said = run(line)
                    lines = [text for text in said.splitlines() if text]
                    good = code in (1, 2) and "Traceback" not in said and len(lines) >= 1
                    left = [p.name for p in mounted.iterdir() if p.name != "lines.jsonl"]
                    if not good or left:
                        print(f"{command.name} on a {name}: exit {code}, left {left}: {said[-300:]}")
                    found.append((f"{command.name} on a {name}", 1, int(not good or bool(left))))
            finally:
                subprocess.run(["umount", str(mounted)], check=False)
    return found


def main(argv: list[str] | None = None) -> int:
    """Kill, and write what was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.kills", description=__doc__)
    parser.add_argument("--moments", type=int, default=100, help="of each command (default 100)")
    parser.add_argument("--places", action="store_true", help="only disks and folders; other rows stay")
    args = parser.parse_args(argv)
    chance = random.Random(0)
    kinds = () if args.places else (Certify, Encode, Export)
    rows = [kills(kind, args.moments, chance) for kind in kinds] + places()
    table = {row["command"]: row for row in read(RESULTS)} if args.places else {}
    table |= {name: {"command": name, "tried": tried, "faults": faults} for name, tried, faults in rows}
    write_table(RESULTS, list(table.values()))
    for name, tried, faults in rows:
        print(f"{name}: {faults} faults of {tried}")
    return 1 if any(faults for _, _, faults in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
