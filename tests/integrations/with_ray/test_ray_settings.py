"""What a deployment is told, before any replica starts."""

from __future__ import annotations

import pytest

pytest.importorskip("ray", reason="make ray has an environment for these")

from fsfast.errors import EngineError
from fsfast.integrations.ray import app, deployment


def test_words_of_a_command_line_are_values():
    with pytest.raises(ValueError, match="max-rows > 0, got -1"):
        app({"engine": "demo", "max_rows": "-1"})


def test_an_unknown_setting_is_refused():
    with pytest.raises(ValueError, match="got 'max_row'; did you mean 'max_rows'"):
        deployment("demo", max_row=3)


def test_an_engine_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(EngineError, match="does not exist"):
        deployment(tmp_path / "missing")
