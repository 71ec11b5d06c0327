"""Which images a command works on: files, folders, patterns, stdin."""

from __future__ import annotations

import argparse
import io
import os
from types import SimpleNamespace

import pytest

import fsfast
from fsfast.commands.inputs import image_arguments, image_paths


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Files of a data set, by their names alone."""
    for name in (
        "b/2.PNG",
        "b/1.jpg",
        "a/3.webp",
        "a/notes.txt",
        "a/.hidden.png",
        ".cache/x.png",
        "c[1].png",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def paths(*words):
    parser = argparse.ArgumentParser()
    image_arguments(parser)
    return image_paths(parser.parse_args(words))


def test_a_folder_is_all_images_below_it_in_order(folder):
    # A link that leads round is not followed.
    (folder / "round").symlink_to(folder)
    assert paths(".") == ["./c[1].png", "./a/3.webp", "./b/1.jpg", "./b/2.PNG"]
    assert paths("b/2.PNG", "a") == ["b/2.PNG", "a/3.webp"]


def test_a_pattern_that_the_shell_left_alone(folder):
    assert paths("b/*.jpg") == ["b/1.jpg"]
    assert paths("[ab]") == ["a/3.webp", "b/1.jpg", "b/2.PNG"]
    assert paths("**/*.webp") == ["a/3.webp"]


def test_a_name_that_looks_like_a_pattern_is_a_name(folder):
    assert paths("c[1].png") == ["c[1].png"]


def test_what_is_not_there_is_left_to_who_reads_it(folder):
    assert paths("no.png", "*.gif") == ["no.png", "*.gif"]


@pytest.mark.parametrize(
    ("options", "content"),
    [((), b"no.png\nb\nodd\xe9.png\n"), (("-0",), b"no.png\0b\0odd\xe9.png\0")],
    ids=["lines", "NUL"],
)
def test_a_list_on_stdin(folder, monkeypatch, options, content):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    odd = os.fsdecode(b"odd\xe9.png")
    assert paths(*options, "-") == ["no.png", "b/1.jpg", "b/2.PNG", odd]


def test_nothing_is_an_error(folder, monkeypatch):
    (folder / "empty").mkdir()
    with pytest.raises(fsfast.ImageError, match=r"empty has no file ending in .*\.png"):
        paths("empty")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"\n")))
    with pytest.raises(fsfast.ImageError, match="on stdin, got none"):
        paths("-")
