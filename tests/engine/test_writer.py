"""Writing an engine: whole or not at all, and never over something else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import fsfast.engine.writer
from fsfast.engine.engine import MANIFEST, load_engine
from fsfast.engine.manifest import parse_manifest
from fsfast.engine.writer import check_target, save_engine
from fsfast.errors import EngineError
from fsfast.images.grid import FILTERS


def contents(path: Path) -> dict[str, bytes]:
    return {name: (path / name).read_bytes() for name in os.listdir(path)}


def saved_as(engine: Path, target: Path, **options) -> str:
    record = json.loads((engine / MANIFEST).read_text())
    files = {name: (engine / name).read_bytes() for name in record.pop("files")}
    return save_engine(target, record, files, **options)


def test_saving_gives_the_same_engine(engine, tmp_path):
    assert saved_as(engine, tmp_path / "new") == load_engine(engine).digest
    assert contents(tmp_path / "new") == contents(engine)


def test_an_engine_is_replaced_only_with_force(engine, tmp_path):
    before = contents(engine)
    with pytest.raises(EngineError, match="--force"):
        saved_as(engine, engine)
    assert contents(engine) == before
    saved_as(engine, engine, force=True)
    assert contents(engine) == before
    assert os.listdir(tmp_path) == ["engine"]


def test_force_never_replaces_something_else(engine, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    with pytest.raises(EngineError, match="not an engine"):
        saved_as(engine, tmp_path / "thesis", force=True)
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "years of work"


def test_a_broken_engine_is_not_written(engine, tmp_path):
    record = json.loads((engine / MANIFEST).read_text())
    files = {name: (engine / name).read_bytes() for name in record.pop("files")}
    record["sigma"] = 0.5
    with pytest.raises(EngineError):
        save_engine(tmp_path / "new", record, files)
    assert os.listdir(tmp_path) == ["engine"]


def test_every_filter_of_images_is_allowed(demo_path):
    record = json.loads((demo_path / MANIFEST).read_text())
    for name in FILTERS:
        record["grid"]["filter"] = name
        assert parse_manifest(record).grid.filter == name


def test_a_target_is_checked_before_the_work(engine, tmp_path):
    check_target(tmp_path / "new", force=False)
    check_target(engine, force=True)
    with pytest.raises(EngineError, match="--force"):
        check_target(engine, force=False)


@pytest.mark.parametrize("force", [False, True])
def test_a_link_is_never_replaced(engine, tmp_path, force):
    (tmp_path / "link").symlink_to(engine)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("link", "dangling"):
        with pytest.raises(EngineError, match="is a link"):
            saved_as(engine, tmp_path / name, force=force)


def test_the_folder_is_synced_after_the_rename(engine, tmp_path, monkeypatch):
    """A power cut after save_engine returned must not take the engine's name away."""
    synced = []
    monkeypatch.setattr(
        fsfast.engine.writer,
        "_sync_folder",
        lambda folder: synced.append((folder, (tmp_path / "new").exists())),
    )
    saved_as(engine, tmp_path / "new")
    assert synced[-1] == (tmp_path, True)
