"""What a vLLM model's configuration may say of its engine."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from fsfast.engine.engine import load_engine
from fsfast.errors import BackendUnavailable, EngineError
from fsfast.integrations.settings import Settings
from fsfast.integrations.vllm_plugin import register

SECRET = "0123456789abcdef"


def settings(**said):
    return Settings.of(SimpleNamespace(fsfast=said))


@pytest.mark.parametrize("config", [{}, {"fsfast": None}, {"fsfast": {}}, {"fsfast": {"engine": 3}}])
def test_a_configuration_without_an_engine_is_refused(config):
    with pytest.raises(EngineError, match=r'wants an engine in the place of the vision tower.*add "fsfast"'):
        Settings.of(SimpleNamespace(**config))


def test_misspelt_entries_are_refused():
    with pytest.raises(ValueError, match="got 'dijest'; did you mean 'digest'"):
        settings(engine="demo", dijest="0")


def test_only_the_engine_with_the_digest_is_opened(demo_path, monkeypatch):
    monkeypatch.setenv("FSFAST_SECRET", SECRET)
    with settings(engine=str(demo_path), digest=load_engine("demo").digest, threads=1).open() as encoder:
        assert encoder.threads == 1
        assert encoder.seeds.from_pixels
    for use in (Settings.load, Settings.open, Settings.cache_prefix):
        with pytest.raises(EngineError, match=f"wanted the engine with digest {'0' * 64}"):
            use(settings(engine=str(demo_path), digest="0" * 64))
    with pytest.raises(EngineError, match="which does not exist"):
        settings(engine="nowhere").load()


def test_without_a_secret_nothing_is_opened(monkeypatch):
    monkeypatch.delenv("FSFAST_SECRET", raising=False)
    with pytest.raises(EngineError, match="wanted a secret in FSFAST_SECRET"):
        settings(engine="demo").open()


def test_names_in_caches_tell_engines_apart(demo_path, tmp_path):
    """But not the places where the same engine lies."""
    copy = shutil.copytree(demo_path, tmp_path / "copy")
    same = [settings(engine=str(path)).cache_prefix() for path in ("demo", demo_path, copy)]
    n0 = load_engine("demo").manifest.n0
    same.append(settings(engine="demo", n0=n0).cache_prefix())
    assert len(set(same)) == 1
    others = [
        {"engine": "photo"},
        {"engine": "demo", "n0": n0 + 1},
        {"engine": "demo", "precision": "int8"},
    ]
    assert len({same[0], *(settings(**other).cache_prefix() for other in others)}) == 4


@pytest.mark.skipif(find_spec("vllm") is not None, reason="it is installed here")
def test_a_missing_vllm_is_named():
    with pytest.raises(BackendUnavailable, match="this integration needs vllm"):
        register()
