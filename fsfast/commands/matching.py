"""Which certificates of a file speak about which images: they find each other by the pixels on the grid."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from fsfast.commands.common import as_text, complain
from fsfast.errors import CertificateError, ImageError
from fsfast.images.grid import RESIZE, Grid, GridImage, to_grid_image


@dataclass(frozen=True)
class Line:
    """One certificate of a file, not yet checked: whatever it says may be forged.

    Attributes:
        place: the file, and the line where it has several.
        record: its JSON document.
    """

    place: str
    record: Any

    @property
    def image(self) -> dict[str, Any]:
        """What it says about its image."""
        return _part(self.record, "image")

    @property
    def key(self) -> tuple[int, str]:
        """How its image came onto the grid, as far as this version knows the way, and the hash of its pixels."""
        resize = _part(self.image, "source").get("resize", 1)
        known = type(resize) is int and 1 <= resize <= RESIZE
        return resize if known else RESIZE, str(self.image.get("grid_sha256"))

    @property
    def profile(self) -> str:
        """What tells the execution profiles of certificates apart."""
        return json.dumps(_part(self.record, "profile"), sort_keys=True)

    @property
    def engine(self) -> str:
        """The engine that it names."""
        return str(_part(self.record, "engine").get("name"))


def engine_of(given: str | None, lines: list[Line]) -> str:
    """Return the engine that is meant: the given one, or the built-in one that the first certificate names."""
    if given is not None:
        return given
    # With the kernels, which the command line does not load before they are needed.
    from fsfast.engine.engine import built_in_name

    return next((name for line in lines[:1] if (name := built_in_name(line.engine))), "demo")


def _part(record: Any, key: str) -> dict[str, Any]:
    part = record.get(key) if isinstance(record, dict) else None
    return part if isinstance(part, dict) else {}


@dataclass
class Matches:
    """What was found.

    Attributes:
        pairs: certificates and the paths of their images, in the order of the images.
        images: the paths of images without a certificate.
        lines: certificates without an image.
        failed: number of images that could not be read, and were named on stderr.
    """

    pairs: list[tuple[Line, str]] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    failed: int = 0


def read_lines(path: str, command: str) -> list[Line]:
    """Return the certificates of a file; one that was cut off is named on stderr and left out.

    Raises:
        CertificateError: the file cannot be read, or something else is in it.
    """
    from fsfast.certificates.lines import read_file

    records, tail = read_file(path)
    if tail:
        complain(command, path, "the last line is cut off and left out")
    if len(records) == 1:
        return [Line(path, records[0])]
    return [Line(f"{path}, line {number}", record) for number, record in enumerate(records, 1)]


def image_of(line: Line, path: str, grid: Grid) -> GridImage:
    """Return an image as it came onto the grid when a certificate was made; raises ImageError."""
    return to_grid_image(path, grid, name=as_text(path), resize=line.key[0])


def match_one(lines: list[Line], path: str, grid: Grid) -> Matches:
    """Match a single image; a certificate that is alone is meant, whatever its image is.

    Raises:
        ImageError: the image cannot be read.
        CertificateError: none of several certificates speaks about it.
    """
    keys = _keys(path, grid, {line.key[0] for line in lines})
    found = lines if len(lines) == 1 else [line for line in lines if line.key in keys]
    if not found:
        raise CertificateError(f"there is no certificate about this image, {as_text(path)}")
    return Matches(pairs=[(line, path) for line in found])


def match_many(lines: list[Line], paths: Iterable[str], grid: Grid, on_error: str) -> Matches:
    """Match images; those that cannot be read are named on stderr, and with `on_error` "stop" are the last."""
    matches = Matches()
    by_key: dict[tuple[int, str], list[Line]] = {}
    for line in lines:
        by_key.setdefault(line.key, []).append(line)
    resizes = {resize for resize, _ in by_key}
    met: set[tuple[int, str]] = set()
    for path in paths:
        try:
            keys = [key for key in _keys(path, grid, resizes) if key in by_key]
        except ImageError as error:
            complain("verify", path, error)
            matches.failed += 1
            if on_error == "stop":
                break
            continue
        matches.pairs += [(line, path) for key in keys for line in by_key[key]]
        met.update(keys)
        if not keys:
            matches.images.append(path)
    matches.lines = [line for line in lines if line.key not in met]
    return matches


def _keys(path: str, grid: Grid, resizes: Iterable[int]) -> list[tuple[int, str]]:
    return [(resize, to_grid_image(path, grid, resize=resize).grid_sha256) for resize in sorted(resizes)]
