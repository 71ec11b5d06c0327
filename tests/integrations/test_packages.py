"""A host that is missing is named, with the command that installs it."""

from __future__ import annotations

import sys

import pytest

from fsfast.errors import BackendUnavailable
from fsfast.integrations.packages import host_package


def test_a_missing_host_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        BackendUnavailable, match=r"needs transformers, which .*\n?.*install.*\[transformers\]"
    ):
        host_package("transformers", "transformers")
    pytest.importorskip("torch")
    from fsfast.integrations.transformers import attach

    with pytest.raises(BackendUnavailable, match="needs transformers"):
        attach(None, None, None)
