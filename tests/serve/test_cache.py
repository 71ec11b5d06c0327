"""The cache of features: keys, sizes, files."""

from __future__ import annotations

import pickle
import sqlite3
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("diskcache", reason="the server's cache needs diskcache")

from fsfast.runtime.function import Served
from fsfast.serve.cache import Cache, Key

KEY = Key("f" * 64, "a" * 64, 4, 7)


def part(value, tokens=2):
    """Return features of so many tokens; 16 bytes each."""
    features = np.full((1, tokens, 2), value, np.float32)
    return Served(features, -features, None)


def same(one, other):
    return one.features.tobytes() == other.features.tobytes() and one.unit.tobytes() == other.unit.tobytes()


class _Harmful:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return self.path.touch, ()


@pytest.mark.parametrize(
    "other", [{"function_id": "0" * 64}, {"grid_sha256": "b" * 64}, {"n0": 5}, {"seed": 8}]
)
def test_features_are_found_under_all_that_they_depend_on_and_under_nothing_else(other, tmp_path):
    cache = Cache(1000, tmp_path)
    cache.put(KEY, part(1))
    assert same(cache.get(KEY), part(1))
    assert cache.get(replace(KEY, **other)) is None


def test_what_was_not_asked_for_longest_goes_first():
    cache = Cache(3 * 32)
    keys = [replace(KEY, seed=seed) for seed in range(4)]
    for key in keys[:3]:
        cache.put(key, part(key.seed))
    cache.get(keys[0])
    cache.put(keys[3], part(3))
    assert [key.seed for key in keys if cache.get(key) is not None] == [0, 2, 3]
    cache.put(keys[1], part(1, tokens=100))
    assert [key.seed for key in keys if cache.get(key) is not None] == [0, 2, 3]


@pytest.mark.parametrize("tokens", [2, 4000], ids=["a row of the table", "a file beside it"])
def test_a_folder_outlives_the_process(tmp_path, tokens):
    first = Cache(0, tmp_path)
    first.put(KEY, part(np.pi, tokens))
    first.close()
    assert same(Cache(1 << 20, tmp_path).get(KEY), part(np.pi, tokens))


def test_nothing_in_the_folder_is_unpickled(tmp_path):
    cache = Cache(0, tmp_path)
    cache.put(KEY, part(1))
    cache.close()
    with sqlite3.connect(tmp_path / "cache.db") as table:
        table.execute("UPDATE Cache SET mode = 4, value = ?", (pickle.dumps(_Harmful(tmp_path / "harmed")),))
    assert Cache(0, tmp_path).get(KEY) is None
    assert not (tmp_path / "harmed").exists()


def test_a_damaged_entry_counts_as_absent(tmp_path):
    cache = Cache(0, tmp_path)
    cache.put(KEY, part(1))
    cache.close()
    with sqlite3.connect(tmp_path / "cache.db") as table:
        table.execute("UPDATE Cache SET value = ?", (b"\xff" * 100,))
    assert Cache(0, tmp_path).get(KEY) is None


@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk is full"), OSError("taken away")])
def test_a_folder_that_fails_later_hinders_no_answer(tmp_path, monkeypatch, error):
    def fails(*_):
        raise error

    cache = Cache(0, tmp_path)
    monkeypatch.setattr(cache._disk, "get", fails)
    monkeypatch.setattr(cache._disk, "set", fails)
    cache.put(KEY, part(1))
    assert cache.get(KEY) is None


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "cache.db").write_bytes(b"no table at all" * 100)
    with pytest.raises(OSError, match="empty it"):
        Cache(0, tmp_path)
