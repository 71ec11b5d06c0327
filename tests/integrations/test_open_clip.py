"""open_clip with an engine for an image tower: the same numbers when clean, the encoder's bits when smoothed."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from fsfast.errors import EngineError, FsfastError, ImageError

open_clip = pytest.importorskip("open_clip")

import torch  # noqa: E402
from PIL import Image  # noqa: E402

from fsfast.integrations.open_clip import attach, detach  # noqa: E402
from tests.integrations.narrow_engines import IMAGES, MEAN, STD, WEIGHTS  # noqa: E402
from tests.models import published  # noqa: E402

CLOSE = {"rtol": 0, "atol": 2e-5}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small CLIP of open_clip's own factory, with the engines' weights, and its preprocessing."""
    config = published.open_clip_config()["model_cfg"]
    config["text_cfg"] |= {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    published.write_json(tmp_path_factory.mktemp("configs") / "narrow.json", config)
    open_clip.add_model_config(tmp_path_factory.getbasetemp() / "configs0")
    torch.manual_seed(0)
    model, _, preprocess = open_clip.create_model_and_transforms(
        "narrow", image_mean=tuple(MEAN), image_std=tuple(STD), image_interpolation="bicubic"
    )
    model.visual.load_state_dict(WEIGHTS)
    return model.eval(), preprocess


@pytest.fixture
def model(made):
    return copy.deepcopy(made[0])


@pytest.fixture
def pixels(made):
    return torch.stack([made[1](Image.fromarray(image)) for image in IMAGES])


@pytest.mark.parametrize("normalize", [False, True])
def test_clean_features_are_those_of_the_own_tower(normalize, model, pixels, narrow, clean_is_meant):
    with torch.no_grad():
        wanted = model.encode_image(pixels, normalize=normalize)
        attach(model, narrow("pooled"), clean=True)
        got = model.encode_image(pixels, normalize=normalize)
    torch.testing.assert_close(got, wanted, **CLOSE)


def test_smoothed_features_are_those_of_the_encoder(model, pixels, narrow):
    encoder = narrow("pooled")
    tower = attach(model, encoder, n0=3)
    out = encoder.encode(IMAGES, 3)
    with torch.no_grad():
        assert torch.equal(model.encode_image(pixels), torch.from_numpy(out.features))
        unit = model.encode_image(pixels, normalize=True)
    np.testing.assert_allclose(unit.numpy(), out.unit, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(tower.handed.images, IMAGES)
    (certificate,) = encoder.certify(tower.handed.images[:1], n=20, served=tower.handed.features[0])
    assert certificate.anchor.seed == int(out.seeds[0])


def test_classes_by_their_names(model, pixels, narrow, clean_is_meant):
    """open_clip's own zero-shot classifier, and the logits of both towers in `forward`."""
    with torch.no_grad():
        words = open_clip.build_zero_shot_classifier(
            model, open_clip.get_tokenizer("narrow"), ["cat", "dog", "mat"], [lambda c: f"a photo of a {c}"]
        )
        text = open_clip.get_tokenizer("narrow")(["a cat", "a dog"])
        wanted = model.encode_image(pixels, normalize=True) @ words
        _, texts, scale = model(pixels, text)
        attach(model, narrow("pooled"), clean=True)
        torch.testing.assert_close(model.encode_image(pixels, normalize=True) @ words, wanted, **CLOSE)
        _, same_texts, same_scale = model(pixels, text)
    assert torch.equal(texts, same_texts)
    assert scale == same_scale


def test_pixel_values_of_half_precision_and_levels(model, narrow):
    encoder = narrow("pooled")
    wanted = torch.from_numpy(encoder.encode(IMAGES).features)
    levels = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    attach(model.half(), encoder)
    got = model.encode_image(((levels / 255 - mean) / std).half())
    assert got.dtype == torch.float16
    assert torch.equal(got, wanted.half())
    with pytest.raises(ImageError, match="bfloat16"):
        model.encode_image(((levels / 255 - mean) / std).bfloat16())
    detach(model)
    attach(model.float(), encoder, form="levels")
    assert torch.equal(model.encode_image(levels), wanted)


def test_detached_it_is_the_own_tower_again(model, pixels, narrow):
    own = model.visual
    tower = attach(model, narrow("pooled"))
    assert model.visual is tower
    assert open_clip.get_model_preprocess_cfg(model)["mean"] == tuple(MEAN)
    with pytest.raises(FsfastError, match="attached to this model already"):
        attach(model, narrow("pooled"))
    with pytest.raises(FsfastError, match="detach the engine, save"):
        model.state_dict()
    detach(model)
    assert model.visual is own
    with pytest.raises(FsfastError, match="no engine is attached"):
        detach(model)


@pytest.mark.parametrize(
    ("output", "message"),
    [("tokens", "layer: wanted pooled, found tokens"), ("penultimate", "channels D: wanted 24, found 32")],
)
def test_an_engine_of_another_layer_is_refused(output, message, model, narrow):
    own = model.visual
    with pytest.raises(EngineError, match=message):
        attach(model, narrow(output))
    assert model.visual is own


def test_an_engine_of_other_weights_is_refused(model, narrow):
    with torch.no_grad():
        model.visual.proj.normal_()
    with pytest.raises(EngineError, match="something else than the tower"):
        attach(model, narrow("pooled"))
    attach(model, narrow("pooled"), same_weights=False)


def test_other_pixels_are_refused(model, narrow):
    model.visual.image_mean = (0.5, 0.5, 0.5)
    with pytest.raises(EngineError, match=r"mean: wanted \[0.5, 0.5, 0.5\]"):
        attach(model, narrow("pooled"))


def test_other_engines_and_models_are_refused(model, narrow):
    with pytest.raises(EngineError, match="wanted the engine with digest 00ff"):
        attach(model, narrow("pooled"), digest="00ff")
    with pytest.raises(TypeError, match=r"open fsfast\.SmoothedEncoder, got str"):
        attach(model, "engine")
    with pytest.raises(TypeError, match="wanted a model of open_clip with a visual, got Linear"):
        attach(torch.nn.Linear(2, 2), narrow("pooled"))


def test_tokens_beside_pooled_vectors_are_refused(model, pixels, narrow):
    tower = attach(model, narrow("pooled"))
    tower.output_tokens = True
    with pytest.raises(FsfastError, match="an engine has one output"):
        model.encode_image(pixels)
    detach(model)
    model.visual.output_tokens = True
    with pytest.raises(EngineError, match="an engine has one output"):
        attach(model, narrow("pooled"))
