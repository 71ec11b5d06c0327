"""LLaVA's own repository with an engine for a vision tower: its factory, its loader, its multimodal preparation."""

from __future__ import annotations

from importlib import import_module

import pytest

from fsfast.errors import EngineError, FsfastError, ImageError

pytest.importorskip("llava.model.llava_arch", reason="needs a clone of LLaVA's repository on PYTHONPATH")

import torch
import transformers as hf
from llava.mm_utils import process_images
from llava.model.builder import load_pretrained_model
from llava.model.language_model.llava_llama import LlavaConfig, LlavaLlamaForCausalLM
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models

from fsfast.integrations.llava import attach, build_engines, detach
from fsfast.integrations.llava_tower import VisionTower
from tests.integrations.narrow_engines import IMAGES, MEAN, SIZE, STD, WEIGHTS
from tests.models import published

IMAGE_TOKEN = -200
PICTURES = [Image.fromarray(image) for image in IMAGES]


@pytest.fixture(scope="module")
def tower_path(tmp_path_factory):
    """Directory of a CLIPVisionModel with the engines' weights."""
    path = tmp_path_factory.mktemp("clip")
    save_file(published.as_transformers(WEIGHTS), path / "model.safetensors", {"format": "pt"})
    published.write_json(path / "config.json", published.clip_vision_config())
    crop, size = {"height": SIZE, "width": SIZE}, {"shortest_edge": SIZE}
    hf.CLIPImageProcessor(size=size, crop_size=crop, image_mean=MEAN, image_std=STD).save_pretrained(path)
    return path


@pytest.fixture
def config(tower_path):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    seen = {
        "mm_vision_tower": str(tower_path),
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
    }
    return LlavaConfig(
        vocab_size=40,
        **sizes,
        **seen,
        mm_hidden_size=32,
        mm_projector_type="mlp2x_gelu",
        mm_use_im_patch_token=False,
        image_aspect_ratio="pad",
        tokenizer_model_max_length=512,
        pad_token_id=0,
    )


@pytest.fixture
def model(config):
    torch.manual_seed(0)
    made = LlavaLlamaForCausalLM(config).eval()
    made.get_vision_tower().load_model()
    return made


@pytest.fixture
def pixels(model):
    return process_images(PICTURES, model.get_vision_tower().image_processor, model.config)


def prompts(pixels):
    return torch.tensor([[1, 5, IMAGE_TOKEN, 7, 9]] * len(pixels))


def test_clean_answers_are_those_of_the_own_tower(model, pixels, narrow, clean_is_meant):
    with torch.no_grad():
        wanted, logits = model.encode_images(pixels), model(prompts(pixels), images=pixels).logits
        attach(model, narrow("penultimate"), clean=True)
        torch.testing.assert_close(model.encode_images(pixels), wanted, rtol=0, atol=2e-5)
        torch.testing.assert_close(model(prompts(pixels), images=pixels).logits, logits, rtol=0, atol=2e-5)


@pytest.mark.skipif(
    hf.__version__ >= "4.38", reason="the repository's generate needs the transformers that it pins, 4.37.2"
)
@pytest.mark.parametrize("beams", [1, 2])
def test_clean_text_is_that_of_the_own_tower(beams, model, pixels, narrow, clean_is_meant):
    how = {"images": pixels, "do_sample": False, "num_beams": beams, "max_new_tokens": 6}
    text = model.generate(prompts(pixels), **how)
    attach(model, narrow("penultimate"), clean=True)
    assert torch.equal(model.generate(prompts(pixels), **how), text)


def test_smoothed_features_are_those_of_the_encoder(model, pixels, narrow):
    encoder = narrow("penultimate")
    tower = attach(model, encoder, n0=3)
    out = encoder.encode(IMAGES, 3)
    wanted = torch.from_numpy(out.features)
    assert torch.equal(tower(pixels), wanted)
    assert [one.shape for one in tower(list(pixels))] == [(1, 9, 32)] * 3
    assert torch.equal(torch.cat(tower(list(pixels))), wanted)
    with torch.no_grad():
        assert torch.equal(model.encode_images(pixels), model.get_model().mm_projector(wanted))
    assert torch.equal(tower(pixels.half()), wanted.half())
    (certificate,) = encoder.certify(tower.vision_tower.handed.images[:1], n=20, served=out[0])
    assert certificate.anchor.seed == int(out.seeds[0])


def test_it_has_the_attributes_of_clips_tower(model, narrow):
    own = model.get_vision_tower()
    tower = VisionTower(own.vision_tower_name, model.config, delay_load=True, encoder=narrow("penultimate"))
    assert not tower.is_loaded
    tower.load_model()
    for name in (
        "is_loaded",
        "select_layer",
        "select_feature",
        "hidden_size",
        "num_patches",
        "num_patches_per_side",
    ):
        assert getattr(tower, name) == getattr(own, name)
    for name in ("image_size", "patch_size", "hidden_size"):
        assert getattr(tower.config, name) == getattr(own.config, name)
    for name in ("dtype", "device"):
        assert getattr(tower, name) == getattr(own, name)
    assert torch.equal(tower.dummy_feature, own.dummy_feature)
    ours, theirs = (process_images(PICTURES, t.image_processor, model.config) for t in (tower, own))
    assert torch.equal(ours, theirs)
    tower.to(dtype=torch.float16)
    assert tower.dummy_feature.dtype == torch.float16


@pytest.fixture
def words():
    """A tokenizer, which the loader wants beside the model."""
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(40)}, unk_token="w3"))
    return hf.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w3", pad_token="w0")


@pytest.fixture
def factory():
    """The repository's factory, as it was afterwards."""
    builder = import_module("llava.model.multimodal_encoder.builder")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CLIPVisionTower", "CLIPVisionTowerS2"):
            patch.setattr(builder, name, getattr(builder, name))
        yield


def test_the_factory_builds_engines(model, pixels, narrow, tmp_path, factory, words):
    """The repository's own loader reads a checkpoint, whose tower it does not load, casts, and fills ours."""
    del model.get_model().vision_tower
    model.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    encoder = narrow("penultimate")
    build_engines(encoder, n0=3)
    _, loaded, processor, _ = load_pretrained_model(
        str(tmp_path), None, "llava-narrow", device_map="cpu", device="cpu"
    )
    tower = loaded.get_vision_tower()
    assert isinstance(tower, VisionTower)
    half = process_images(PICTURES, processor, loaded.config).half()
    with torch.no_grad():
        got = loaded.encode_images(half)
        wanted = (
            model.half().get_model().mm_projector(torch.from_numpy(encoder.encode(IMAGES, 3).features).half())
        )
    assert torch.equal(got, wanted)


def test_tiles_of_one_image(model, narrow):
    """LLaVA-1.6: an image comes as [tiles, 3, H, W], and each tile has features of its own."""
    model.config.mm_patch_merge_type, model.config.image_aspect_ratio = "spatial", "anyres"
    model.config.image_grid_pinpoints = [[2 * SIZE, SIZE]]
    encoder = narrow("penultimate")
    tower = attach(model, encoder)
    tiles = process_images(
        [Image.fromarray(IMAGES[0]).resize((2 * SIZE, SIZE))], tower.image_processor, model.config
    )
    assert tiles.shape[:2] == (1, 3)
    ids = torch.tensor([[1, 5, IMAGE_TOKEN, 7]])
    prepared = model.prepare_inputs_labels_for_multimodal(
        ids, None, None, None, None, tiles, [(2 * SIZE, SIZE)]
    )
    assert prepared[4].shape[1] == 3 + 3 * 9
    assert len(tower.vision_tower.handed.features) == 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mm_vision_select_layer": -1}, "layer: wanted tokens, found penultimate"),
        ({"mm_vision_select_layer": -3}, r"layer: wanted hidden_states\[-3\], found penultimate"),
        ({"mm_vision_select_feature": "cls_patch"}, "class token: wanted one"),
        ({"mm_hidden_size": 1024}, "channels D: wanted 1024, found 32"),
    ],
)
def test_an_engine_of_another_layer_is_refused(changed, message, model, narrow):
    own = model.get_vision_tower()
    for name, value in changed.items():
        setattr(model.config, name, value)
    with pytest.raises(EngineError, match=message):
        attach(model, narrow("penultimate"))
    assert model.get_vision_tower() is own


def test_an_engine_of_other_weights_is_refused(model, narrow):
    with torch.no_grad():
        model.get_vision_tower().vision_tower.vision_model.embeddings.class_embedding.normal_(0, 30)
    with pytest.raises(EngineError, match="something else than the tower"):
        attach(model, narrow("penultimate"))
    attach(model, narrow("penultimate"), same_weights=False)


def test_refusals(model, pixels, narrow):
    own = model.get_vision_tower()
    with pytest.raises(EngineError, match="wanted the engine with digest 00ff"):
        attach(model, narrow("penultimate"), digest="00ff")
    for unfit in ("unfreeze_mm_vision_tower", "s2"):
        setattr(model.config, unfit, True)
        with pytest.raises(FsfastError, match=f"wanted a frozen tower of one scale, got {unfit}"):
            attach(model, narrow("penultimate"))
        setattr(model.config, unfit, False)
    with pytest.raises(FsfastError, match="no engine is attached"):
        detach(model)
    attach(model, narrow("penultimate"))
    with pytest.raises(FsfastError, match="attached to this model already"):
        attach(model, narrow("penultimate"))
    with pytest.raises(ImageError, match="bfloat16"):
        model.encode_images(pixels.bfloat16())
    with pytest.raises(FsfastError, match="detach the engine, save"):
        model.state_dict()
    detach(model)
    assert model.get_vision_tower() is own


def test_an_empty_tower_is_refused(config, narrow):
    with pytest.raises(FsfastError, match="with its tower loaded; for one without call build_engines"):
        attach(LlavaLlamaForCausalLM(config), narrow("penultimate"))
