"""A SentenceTransformer of smoothed images, in the real package: its vectors are those of the encoder."""

from __future__ import annotations

import json

import numpy as np
import pytest

import fsfast
from fsfast.errors import EngineError

pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")

from sentence_transformers import SentenceTransformer

from fsfast.integrations.sentence_transformers import SmoothedImages

SECRET = bytes(16)


@pytest.fixture(scope="module")
def model(small):
    return SentenceTransformer(modules=[SmoothedImages(small, n0=2)], device="cpu")


def load(folder, **options):
    return SentenceTransformer(
        str(folder), device="cpu", trust_remote_code=True, local_files_only=True, model_kwargs=options
    )


def test_embeddings_are_the_smoothed_features(model, small, pictures, photograph):
    """Of arrays, PIL images and files, whatever their sizes and the size of a batch."""
    images = [*pictures, str(photograph), {"image": pictures[0]}]
    wanted = small.encode([*pictures, photograph, pictures[0]], n0=2)
    np.testing.assert_array_equal(model.encode(images), wanted.features)
    np.testing.assert_array_equal(model.encode(images, batch_size=2), wanted.features)
    np.testing.assert_array_equal(model.encode(pictures[0]), wanted.features[0])
    np.testing.assert_array_equal(model.encode(pictures, n0=5), small.encode(pictures, n0=5).features)
    np.testing.assert_allclose(model.encode(images, normalize_embeddings=True), wanted.unit, atol=1e-6)
    assert model.get_embedding_dimension() == small.dim == 16
    assert model.similarity(wanted.features[:1], wanted.features[:1]).item() == pytest.approx(1.0)


def test_what_is_served_can_be_certified(model, small, pictures):
    (out,) = model.encode([pictures[0]], output_value=None)
    certificate = small.certify(pictures[0], n=60, served=out["smoothed"])
    assert certificate.cosine(0.1) > 0.0


def test_texts_and_prompts_are_refused(model, pictures):
    with pytest.raises(ValueError, match="text"):
        model.encode("a cat")
    with pytest.raises(ValueError, match=r"\(image, text\).*does not support text"):
        model.encode(["a cat", pictures[0]])
    with pytest.raises(ValueError, match="take no prompt, got 'query: '"):
        model.encode(pictures, prompt="query: ")
    with pytest.raises(fsfast.ImageError, match="channels come last"):
        model.encode(np.zeros((3, 32, 32), np.uint8))


def test_engines_of_tokens_are_refused(demo):
    with pytest.raises(EngineError, match="has 64 tokens; export it with --output pooled"):
        SmoothedImages(demo)
    with pytest.raises(TypeError, match="got str"):
        SmoothedImages("demo")


def test_a_saved_model_names_its_engine_and_has_no_weights(model, small, pictures, tmp_path):
    model.save(str(tmp_path / "saved"))
    files = {file.name for file in (tmp_path / "saved").rglob("*") if file.is_file()}
    assert files == {"modules.json", "config_sentence_transformers.json", "README.md", "fsfast.json"}
    said = json.loads((tmp_path / "saved" / "0_SmoothedImages" / "fsfast.json").read_text())
    assert said == {
        "engine": str(small.engine_path),
        "engine_digest": small.engine_digest,
        "n0": 2,
        "secret": True,
    }
    again = load(tmp_path / "saved", secret=SECRET)
    np.testing.assert_array_equal(again.encode(pictures), model.encode(pictures))
    with pytest.raises(ValueError, match="had a secret; pass model_kwargs"):
        load(tmp_path / "saved")


def test_another_engine_is_refused(model, small_path, tmp_path):
    model.save(str(tmp_path / "saved"))
    with pytest.raises(EngineError, match=r"wanted the engine with digest .* name the right one"):
        load(tmp_path / "saved", engine="demo", secret=SECRET)
    place = tmp_path / "saved" / "0_SmoothedImages" / "fsfast.json"
    place.write_text(place.read_text().replace(str(small_path), str(tmp_path / "gone")))
    with pytest.raises(EngineError, match="does not exist"):
        load(tmp_path / "saved", secret=SECRET)
    load(tmp_path / "saved", secret=SECRET, engine=str(small_path))


def test_the_model_works_in_half_precision_and_with_modules_behind_it(small, pictures):
    from sentence_transformers.base.modules import Normalize

    model = SentenceTransformer(modules=[SmoothedImages(small), Normalize()], device="cpu")
    wanted = small.encode(pictures)
    np.testing.assert_allclose(model.encode(pictures), wanted.unit, atol=1e-6)
    halved = SentenceTransformer(modules=[SmoothedImages(small)], device="cpu").half()
    np.testing.assert_array_equal(halved.encode(pictures), wanted.features.astype(np.float16))
