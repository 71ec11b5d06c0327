"""Put in place what was carried in .whl/: packages that this Python lacks, and the C++ kernels that were built for it.

`python benchmarks/gpu/carried.py` before anything else, with the standard library alone: `make gpu-carry` fills .whl/.
Packages go to build/carried, which belongs on PYTHONPATH.
"""

from __future__ import annotations

import shutil
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parents[2]
CARRIED = ROOT / ".whl"
SITE = ROOT / "build" / "carried"


def fits(wheel: Path, version: tuple[int, int] = sys.version_info[:2]) -> bool:
    """Whether a wheel is for this Python; of the platform it is taken for granted."""
    python, abi = wheel.stem.split("-")[-3:-1]
    own = f"cp{version[0]}{version[1]}"
    if abi == "abi3":
        return int(python[3:]) <= version[1]
    return abi == own or (abi == "none" and ("py3" in python.split(".") or python == own))


def unpack(folder: Path, site: Path) -> list[str]:
    """Unpack the wheels of packages that this Python lacks into `site`, and return their names."""
    unpacked = []
    for wheel in sorted(folder.glob("*.whl")):
        name = wheel.name.partition("-")[0]
        if not fits(wheel):
            print(
                f"{wheel.name}: not for Python {sys.version_info[0]}.{sys.version_info[1]}", file=sys.stderr
            )
        elif not _installed(name):
            with ZipFile(wheel) as content:
                content.extractall(site)
            unpacked.append(name)
    return unpacked


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def place_kernels(built: Path, root: Path) -> None:
    """Copy the extensions to where they are imported from, except over newer ones."""
    for library in sorted(built.rglob("*.so")):
        target = root / library.relative_to(built)
        if not target.exists() or target.stat().st_mtime < library.stat().st_mtime:
            shutil.copyfile(library, target)


if __name__ == "__main__":
    print("unpacked:", *unpack(CARRIED, SITE))
    place_kernels(CARRIED / "extensions", ROOT)
