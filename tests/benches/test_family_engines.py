"""python -m benchmarks.cpu.families: full-size names on paper, and a small tower through all of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.cpu import engines, families
from export.__main__ import main as export
from export.published import Published
from export.recipe import load_recipe
from tests.export.test_family_recipes import recipe_of
from tests.models.families import FAMILIES, shapes


@pytest.mark.parametrize("tower", families.TOWERS, ids=lambda tower: f"{tower.family}, {tower.layout}")
def test_names_and_shapes_of_full_size_are_the_recipes(tower, tmp_path):
    """The files hold nothing but zeros that are stored once."""
    recipe = load_recipe(tower.recipe)
    named = tower.shapes(families.encoder_config(recipe))
    torch.save({name: torch.zeros(()).expand(shape) for name, shape in named.items()}, tmp_path / "a.pt")
    Published(replace(recipe, files={"encoder": tmp_path / "a.pt"}))


def test_towers_are_told_apart_by_family_and_layout():
    assert len({(tower.family, tower.layout) for tower in families.TOWERS}) == len(families.TOWERS)


def test_a_small_tower(tmp_path, monkeypatch):
    """A row as soon as it is there, which is not measured again; what fails does not stop the rest."""
    lines = []

    def in_this_process(line):
        lines.append(line)
        if export(line[3:]):
            raise ValueError("it failed")
        return engines.Cost(3.0, 2.0, 1000.0)

    monkeypatch.setattr(families, "export_apart", in_this_process)
    family, table = FAMILIES["InternViT"], tmp_path / "results/families.csv"
    recipe = recipe_of(family, tmp_path)
    assert families.render(table) == ""
    good = families.Tower("InternViT", "transformers", recipe, lambda config: shapes(family, config))
    bad = replace(good, family="A wrong one", shapes=lambda config: {"x": (1,)})
    assert families.measure([bad, good], table) == ["A wrong one in the names of transformers: it failed"]
    (row,) = families.read(table)
    assert (row["family"], row["recipe"], row["features"]) == ("InternViT", "small", "9×32")
    assert float(row["parameters_m"]) > 0.01
    assert 0 <= float(row["max_abs"]) < 1e-4 * float(row["largest"])
    assert "| InternViT | transformers | `small` | 9×32 | 0 M | 0 MB | 3 s | 1.0 GB | " in families.render(
        table
    )
    assert len(lines) == 2
    assert families.measure([good], table) == []
    assert len(lines) == 2
    page = "a\n<!-- families -->\nold\n<!-- end of families -->\nb"
    assert "| InternViT |" in families.updated(page, table)
    assert "old" not in families.updated(page, table)
