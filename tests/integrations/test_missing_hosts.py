"""Where a host's package is missing, the error names it and the remedy."""

from __future__ import annotations

import sys
from importlib import import_module

import pytest

from fsfast.errors import BackendUnavailable
from fsfast.integrations.sglang import register


def without(monkeypatch, *packages):
    for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
        monkeypatch.delitem(sys.modules, name)
    for name in packages:
        monkeypatch.setitem(sys.modules, name, None)


def test_sglang(monkeypatch):
    without(monkeypatch, "sglang")
    with pytest.raises(BackendUnavailable, match=r"needs sglang\..*install it with"):
        register()


def test_dynamo(monkeypatch):
    pytest.importorskip("torch")
    without(monkeypatch, "dynamo")
    monkeypatch.delitem(sys.modules, "fsfast.integrations.dynamo", raising=False)
    with pytest.raises(BackendUnavailable, match=r"needs dynamo\.vllm.*install it with"):
        import_module("fsfast.integrations.dynamo")


def test_llava(monkeypatch, demo):
    pytest.importorskip("torch")
    from fsfast.integrations.llava import build_engines

    without(monkeypatch, "llava")
    with pytest.raises(
        BackendUnavailable, match=r"add a clone of https://github\.com/haotian-liu/LLaVA to PYTHONPATH"
    ):
        build_engines(demo)
