"""A folder of results that grows by slices: what it holds is pinned at the start, and a slice counts when it is whole.

| file | what is in it |
|---|---|
| `manifest.json` | what all slices have in common |
| `features/000000.parquet`, or `certificates/…` | the images of a slice that did not fail |
| `slices/000000.json` | written last: the slice is done; its images that failed, and why |
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fsfast.errors import FsfastError
from fsfast.files import write_whole
from fsfast.integrations.packages import host_package
from fsfast.strict_json import parse_json

fsspec = host_package("fsspec", "ray")

_MANIFEST = "manifest.json"
_RECORDS = "slices"


class Results:
    """A folder of results on a file system that all machines share, or in a store that fsspec knows.

    Args:
        url: of the folder; it need not be there.
    """

    def __init__(self, url: str | os.PathLike[str]) -> None:
        self._system, self._root = fsspec.core.url_to_fs(os.fspath(url))
        # Absolute: workers start in folders of their own.
        self.url = self._root if "file" in self._system.protocol else os.fspath(url)

    def pin(self, manifest: Mapping[str, Any]) -> None:
        """Say what the folder is about, or check that it is still that.

        Raises:
            FsfastError: it was begun with something else, which is named, or holds other files.
        """
        wanted = json.loads(json.dumps(manifest))
        content = self._read(_MANIFEST)
        if content is None:
            if self._system.exists(self._root) and self._system.ls(self._root, detail=False):
                raise FsfastError(f"{self.url} has files and no {_MANIFEST}; choose another folder")
            self.write(_MANIFEST, json.dumps(wanted, indent=1).encode() + b"\n")
            return
        found = parse_json(content)
        for name in wanted.keys() | found.keys():
            if wanted.get(name) != found.get(name):
                raise FsfastError(
                    f"{self.url} was begun with {name} {found.get(name)!r}, now it is {wanted.get(name)!r}; choose "
                    "another folder, or what it was begun with"
                )

    def done(self) -> dict[str, dict[str, Any]]:
        """Return the records of the slices that count, by the name of the slice."""
        folder = f"{self._root}/{_RECORDS}"
        if not self._system.exists(folder):
            return {}
        names = (Path(path).stem for path in self._system.ls(folder, detail=False) if path.endswith(".json"))
        found = ((name, self.record(name)) for name in sorted(names))
        return {name: record for name, record in found if record is not None}

    def failures(self) -> Iterator[tuple[str, str]]:
        """Yield name and error of every image that failed."""
        for record in self.done().values():
            for each in record["failed"]:
                yield each["name"], each["error"]

    def finish(self, name: str, record: Mapping[str, Any]) -> None:
        """Let a slice count; its file was written before."""
        self.write(f"{_RECORDS}/{name}.json", json.dumps(record, ensure_ascii=False).encode() + b"\n")

    def forget_failed(self) -> None:
        """Let slices with images that failed be done again."""
        for name, record in self.done().items():
            if record["failed"]:
                self._system.rm_file(f"{self._root}/{_RECORDS}/{name}.json")

    def write(self, name: str, content: bytes) -> None:
        """Write a file of the folder: whole or not at all on a file system, as stores do it in a store."""
        path = f"{self._root}/{name}"
        self._system.makedirs(path.rpartition("/")[0], exist_ok=True)
        if "file" in self._system.protocol:
            write_whole(path, content)
        else:
            self._system.pipe_file(path, content)

    def record(self, name: str) -> dict[str, Any] | None:
        """Return what is written about a slice; None: it is to be done."""
        content = self._read(f"{_RECORDS}/{name}.json")
        try:
            record: dict[str, Any] | None = None if content is None else parse_json(content)
        except ValueError:
            # A store that does not write whole was interrupted: the slice is done again.
            return None
        return record

    def _read(self, name: str) -> bytes | None:
        try:
            content: bytes = self._system.cat_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return None
        return content
