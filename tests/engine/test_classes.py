"""Classes of an engine: scores are inner products of the certified unit feature; damaged files are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save

import fsfast
from fsfast.engine.classes import ClassHead, load_classes
from fsfast.engine.engine import load_engine
from fsfast.engine.writer import save_engine
from fsfast.errors import EngineError
from fsfast.report.examples import load_examples


def test_scores_are_inner_products_of_unit_vectors():
    """With f = t_j/(‖t_j‖√L) and w_k the class repeated over the tokens, both of norm 1, the score is ⟨f, w_k⟩."""
    rng = np.random.default_rng(0)
    tokens, classes = rng.normal(size=(2, 5, 3)), rng.normal(size=(4, 3)).astype(np.float32)
    head = ClassHead(tuple("abcd"), classes)
    f = tokens / np.linalg.norm(tokens, axis=-1, keepdims=True) / np.sqrt(5)
    wide = classes.astype(np.float64)
    w = wide / np.linalg.norm(wide, axis=-1, keepdims=True) / np.sqrt(5)
    repeated = np.repeat(w[:, None], 5, axis=1).reshape(4, -1)
    assert np.linalg.norm(repeated, axis=1) == pytest.approx(np.ones(4))
    np.testing.assert_allclose(head.scores(tokens), f.reshape(2, -1) @ repeated.T, atol=1e-12)
    assert head.predict(tokens) == ["abcd"[k] for k in head.scores(tokens).argmax(1)]
    np.testing.assert_allclose(head.scores(tokens[:, 0]), head.scores(tokens[:, :1]))


def test_a_zero_token_counts_as_zero():
    head = ClassHead(("a", "b"), np.eye(2, dtype=np.float32))
    np.testing.assert_array_equal(head.scores(np.array([[[0.0, 0.0], [2.0, 0.0]]])), [[0.5, 0.0]])


def test_a_linear_classifiers_scores_have_its_rows_norms():
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(9, 3))
    rows = (rng.normal(size=(4, 3)) * [[0.1], [1], [3], [0]]).astype(np.float32)
    linear = ClassHead(tuple("abcd"), rows, "linear")
    unit = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
    np.testing.assert_allclose(linear.scores(tokens), unit @ rows.astype(np.float64).T, atol=1e-12)
    assert linear.predict(tokens) == ["abcd"[k] for k in (tokens @ rows.T).argmax(1)]
    assert linear.predict(tokens) != ClassHead(tuple("abcd"), rows).predict(tokens)


@pytest.mark.parametrize("shape", [(3,), (1, 2, 4), (1, 2, 2, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"wanted features as \[B, L, 3\]"):
        ClassHead(("a", "b"), np.ones((2, 3), np.float32)).scores(np.ones(shape))


def test_the_built_in_engine_has_classes(demo_path):
    with fsfast.SmoothedEncoder("demo") as encoder:
        assert encoder.classes is not None
        assert encoder.classes.names == (*map(str, range(10)), "star")
        stored = load_file(demo_path / "classes.safetensors")["class_features"]
        np.testing.assert_array_equal(encoder.classes.features, stored)
    assert stored.shape == (11, 128)


def test_an_engine_without_classes(pooled_path):
    with fsfast.SmoothedEncoder(pooled_path) as encoder:
        assert encoder.classes is None


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"class_features": np.ones((10, 128), np.float32)}, r"wanted float32 or float16 \[11, 128\]"),
        ({"class_features": np.ones((11, 128))}, "got float64"),
        ({"class_features": np.full((11, 128), np.nan, np.float32)}, "finite"),
        ({"class_features": np.eye(11, 128, -1, np.float32)}, "not zero"),
        ({"other": np.ones((11, 128), np.float32)}, "class_features"),
        (None, "classes.safetensors"),
    ],
    ids=["number", "type", "nan", "zero", "name", "format"],
)
def test_damaged_classes_are_refused(demo_path, tmp_path, tensors, says):
    record = json.loads((demo_path / "engine.json").read_text())
    files = {name: demo_path / name for name in record.pop("files")}
    files["classes.safetensors"] = b"no safetensors" if tensors is None else save(tensors)
    save_engine(tmp_path / "engine", record, files)
    with pytest.raises(EngineError, match=says):
        load_classes(load_engine(tmp_path / "engine"))


def with_kind(source, path, rows, **kind):
    """The engine with other rows for its classes, and what the manifest says of them."""
    record = json.loads((source / "engine.json").read_text())
    files = {name: source / name for name in record.pop("files")}
    files["classes.safetensors"] = save({"class_features": rows})
    record["classes"] |= kind
    save_engine(path, record, files)
    return load_engine(path)


def test_the_manifest_says_whether_rows_keep_their_norms(demo_path, tmp_path):
    rows = 2 * np.eye(11, 128, -1, np.float32)
    head = load_classes(with_kind(demo_path, tmp_path / "linear", rows, kind="linear"))
    # A classifier may have a row of zeros.
    np.testing.assert_array_equal(head.rows, rows)
    rows[0, 0] = 1
    head = load_classes(with_kind(demo_path, tmp_path / "directions", rows, kind="directions"))
    np.testing.assert_array_equal(np.linalg.norm(head.rows, axis=1), np.ones(11))
    with pytest.raises(EngineError, match="kind"):
        with_kind(demo_path, tmp_path / "other", rows, kind="votes")


def test_what_encode_returned_is_taken_as_it_is():
    with fsfast.SmoothedEncoder("demo") as encoder:
        out = encoder.encode(str(load_examples()[0].image), seeds=[1])
        assert encoder.classes.predict(out) == encoder.classes.predict(out.features)
