"""The progress bar: where it shows, and what it counts."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from fsfast.runtime.progress import progress_bar


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    """Leave out the second after which a bar shows."""
    import tqdm.auto

    class Bar(tqdm.auto.tqdm):
        def __init__(self, **options):
            super().__init__(**{**options, "delay": 0, "mininterval": 0})

    monkeypatch.setattr(tqdm.auto, "tqdm", Bar)


def shown(capsys, images=4):
    with progress_bar(None, images, "encode") as advance:
        advance(0.5)
        advance(0.5)
    return capsys.readouterr().err


def test_a_pipe_shows_none(capsys):
    assert shown(capsys) == ""


def test_a_notebook_shows_one(capsys, monkeypatch):
    kernel = SimpleNamespace(get_ipython=lambda: SimpleNamespace(config={"IPKernelApp": {}}))
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    assert "1.0/4 images" in shown(capsys)


def test_ipython_in_a_terminal_is_no_notebook(capsys, monkeypatch):
    for shell in (None, SimpleNamespace(config={})):
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda shell=shell: shell))
        assert shown(capsys) == ""


def test_who_asks_gets_one(capsys):
    with progress_bar(True, None, "encode") as advance:
        advance(3)
    assert "encode: 3.0 images" in capsys.readouterr().err
    with progress_bar(False, 3, "encode") as advance:
        advance(3)
    assert capsys.readouterr().err == ""


def test_a_function_is_told():
    told = []
    with progress_bar(told.append, 2, "encode") as advance:
        advance(1)
    assert told == [1]
