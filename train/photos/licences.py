"""Licences of files as Debian's machine-readable copyright files say them.

The format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from os.path import splitext

_FORMAT = re.compile(r"^Format:", re.MULTILINE)
_FIELD = re.compile(r"^([A-Za-z-]+):(.*(?:\n[ \t].*)*)", re.MULTILINE)


def read_licences(copyright: str) -> list[tuple[str, str]]:
    """Return (pattern of files, licence's short name) in a copyright file's order; [] where it has another form."""
    if not _FORMAT.search(copyright):
        return []
    found = []
    for paragraph in re.split(r"\n\s*\n", copyright):
        fields = {name.lower(): value.strip() for name, value in _FIELD.findall(paragraph)}
        if "files" in fields and fields.get("license"):
            licence = fields["license"].splitlines()[0].strip()
            found += [(pattern, licence) for pattern in fields["files"].split()]
    return found


def licence_of(name: str, licences: list[tuple[str, str]]) -> str | None:
    """Return the licence of a file; None where none is said.

    Of patterns that match the last one counts, as the format has it. Suffixes are not compared: packages keep
    pictures in another format than the copyright file knows them in.
    """
    matching = [
        licence for pattern, licence in licences if fnmatchcase(splitext(name)[0], splitext(pattern)[0])
    ]
    return matching[-1] if matching else None
