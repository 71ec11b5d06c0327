"""A few seeded cases of every kind; `make fuzz` runs many."""

from __future__ import annotations

import pytest

from tests.fuzz.cases import KINDS, run_case

pytest.importorskip("onnxruntime", reason="engines are opened")


@pytest.mark.parametrize("kind", KINDS)
def test_cases_are_refused_or_harmless(kind, tmp_path):
    found = {}
    for number in range(25):
        folder = tmp_path / str(number)
        folder.mkdir()
        outcome, said = run_case(kind, number, folder)
        if outcome not in ("refused", "harmless"):
            found[number] = (outcome, said)
    assert not found
