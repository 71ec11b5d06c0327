"""Which images a command works on: files, folders, patterns, and a list of paths on stdin."""

from __future__ import annotations

import argparse
import glob
import os
import sys
from collections.abc import Iterator

from PIL import Image

from fsfast.errors import ImageError
from fsfast.images.decoding import FORMATS

_HELP = (
    "files of any size; folders, with all images in them and in the folders below, hidden ones left out; patterns in "
    "quotes ('*.jpg', '**/*.png'); - for a list of files and folders on stdin, one per line"
)


def image_arguments(parser: argparse.ArgumentParser, *, on_error: bool = True) -> None:
    """Add the images, and what to do about one that cannot be read."""
    parser.add_argument("images", metavar="IMAGE", nargs="+", help=_HELP)
    parser.add_argument(
        "-0", "--null", action="store_true", help="names on stdin end in NUL, as find -print0 writes them"
    )
    if on_error:
        parser.add_argument(
            "--on-error",
            choices=("skip", "stop"),
            default="skip",
            help="an image that cannot be read is named and left out (default), or is the last",
        )


def image_paths(args: argparse.Namespace) -> list[str]:
    """Return the paths of the images that the arguments name, folders and patterns in the order of their names.

    A name that is neither there nor a pattern that something matches is returned as it is: reading it says so.

    Raises:
        ImageError: a folder has no images, or there is nothing on stdin.
    """
    paths: list[str] = []
    for word in args.images:
        if word == "-":
            paths += _from_stdin(args.null)
        elif glob.has_magic(word) and not os.path.lexists(word):
            paths += [
                path for match in sorted(glob.glob(word, recursive=True)) for path in _files(match)
            ] or [word]
        else:
            paths += _files(word)
    return paths


def _from_stdin(null: bool) -> list[str]:
    names = [name for name in sys.stdin.buffer.read().split(b"\0" if null else b"\n") if name]
    if not names:
        raise ImageError("wanted paths of images on stdin, got none")
    return [path for name in names for path in _files(os.fsdecode(name))]


def _files(path: str) -> list[str]:
    """Return a path, or for a folder all images in it."""
    if not os.path.isdir(path):
        return [path]
    endings = _endings()
    found = [file for file in _walk(path) if os.path.splitext(file)[1].lower() in endings]
    if not found:
        raise ImageError(
            f"wanted a folder with images, {path} has no file ending in {', '.join(sorted(endings))}"
        )
    return found


def _walk(folder: str) -> Iterator[str]:
    """Yield the files of a folder and of those below; links to folders are not followed, since they may lead round."""
    for place, below, files in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        yield from (os.path.join(place, name) for name in sorted(files) if not name.startswith("."))


def _endings() -> set[str]:
    """Return how the names of images end, of the formats that are read."""
    return {ending for ending, name in Image.registered_extensions().items() if name in FORMATS}
