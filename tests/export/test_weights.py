"""The weights file: readable by the safetensors library, every tensor where the graphs point."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file

from export.weights import WeightsFile


def written(tmp_path, *stages: dict[str, np.ndarray]):
    """Write stages "a", "b", …; returns the tensors that the library reads, the file's bytes, and the places."""
    file = WeightsFile(tmp_path)
    offsets = {stage: file.add(stage, weights) for stage, weights in zip("abc", stages, strict=False)}
    begin = file.finish(tmp_path / "weights.safetensors")
    content = (tmp_path / "weights.safetensors").read_bytes()
    places = {f"{s}.{name}": begin + place for s, found in offsets.items() for name, place in found.items()}
    return load_file(tmp_path / "weights.safetensors"), content, places


@pytest.mark.parametrize(
    "first",
    [np.arange(3, dtype=np.int8), np.ones(3, np.float32), np.ones((2, 2), np.float32), np.ones(5, np.uint8)],
    ids=["3 bytes", "12 bytes", "no gap", "5 bytes"],
)
@pytest.mark.parametrize("second", [np.float32, np.int64])
def test_a_stage_may_end_anywhere(tmp_path, first, second):
    """The next stage's tensors are aligned, and what fills the gap is a tensor, too: the format knows no holes."""
    values = {"w": np.arange(4).astype(second), "v": np.array([7], np.int8)}
    found, content, places = written(tmp_path, {"w": first}, values)
    np.testing.assert_array_equal(found["a.w"], first)
    for name, value in values.items():
        np.testing.assert_array_equal(found[f"b.{name}"], value)
        place = places[f"b.{name}"]
        assert place % value.itemsize == 0
        assert content[place : place + value.nbytes] == value.tobytes()
    assert set(found) - {"b.padding"} == {"a.w", "b.w", "b.v"}
    # Where nothing is missing nothing is added: engines of one type keep their bytes.
    assert ("b.padding" in found) == bool(first.nbytes % np.dtype(second).itemsize)


def test_a_type_that_weights_do_not_have(tmp_path):
    with pytest.raises(ValueError, match="complex128"):
        WeightsFile(tmp_path).add("a", {"w": np.ones(2, complex)})
