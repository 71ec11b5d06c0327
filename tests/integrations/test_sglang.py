"""SGLang's own hook registry, plugin loader and LLaVA with an engine for a tower; no server is started."""

from __future__ import annotations

import warnings
from importlib.metadata import EntryPoint

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    llava = pytest.importorskip(
        "sglang.srt.models.llava", reason="needs SGLang's Python part", exc_type=ImportError
    )

import sglang.srt.plugins as plugins
import torch
import transformers as hf
from safetensors.torch import save_file
from sglang.srt.plugins.hook_registry import HookRegistry
from torch import nn

from fsfast.errors import EngineError, ImageError
from tests.integrations.narrow_engines import IMAGES, MEAN, STD, WEIGHTS
from tests.models import published

HIDDEN = 48


class Narrow(llava.LlavaBaseForCausalLM):
    """SGLang's LLaVA with parts as its LlavaLlamaForCausalLM makes them, without a language model: that needs a GPU."""

    def __init__(self, config):
        super().__init__()
        self.config, self.vision_tower = config, None
        self.multi_modal_projector = llava.LlavaMultiModalProjector(config)
        self.language_model = nn.Linear(2, 2)


class TransformersFormat(llava.LlavaForConditionalGeneration):
    def __init__(self, config):
        nn.Module.__init__(self)
        self.config, self.vision_feature_select_strategy = config, "full"


@pytest.fixture(scope="module")
def clip_path(tmp_path_factory):
    """A CLIPVisionModel with the engines' weights, in a folder by whose name SGLang recognises it."""
    path = tmp_path_factory.mktemp("clip")
    tensors = published.as_transformers(WEIGHTS, prefix="")
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    published.write_json(path / "config.json", published.clip_vision_config())
    return path


@pytest.fixture
def config(clip_path, monkeypatch):
    """Of a model with a tower of its own."""
    monkeypatch.setenv("FSFAST_SECRET", "0123456789abcdef")
    text = hf.LlamaConfig(hidden_size=HIDDEN, num_attention_heads=4, intermediate_size=64)
    made = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**published.clip_vision_config()), text_config=text
    )
    made.mm_vision_tower, made.mm_hidden_size = str(clip_path), 32
    made.mm_vision_select_layer, made.mm_vision_select_feature = -2, "patch"
    return made


@pytest.fixture
def named(config, narrow):
    """The overrides of a configuration that names an engine."""

    def override(output="penultimate", tower="fsfast", **more):
        encoder = narrow(output)
        config.mm_vision_tower = tower
        config.fsfast = {"engine": str(encoder.engine_path), "digest": encoder.engine_digest, "n0": 3} | more
        return config

    return override


@pytest.fixture
def plugin(monkeypatch):
    """SGLang's plugin loader, which finds the entry point as an installed fsfast has it; undone afterwards."""
    point = EntryPoint("fsfast", "fsfast.integrations.sglang:register", plugins.GENERAL_PLUGINS_GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point] if group == point.group else [])
    monkeypatch.setattr(plugins, "_plugins_loaded", False)
    kept = {
        c: c.__dict__["load_weights"]
        for c in (llava.LlavaBaseForCausalLM, llava.LlavaForConditionalGeneration)
    }
    plugins.load_plugins()
    yield
    HookRegistry.reset()
    for each, original in kept.items():
        each.load_weights = original


@pytest.fixture
def weights():
    """The projector's, as a checkpoint of LLaVA's repository names them; and of a tower that was trained further."""
    draw = torch.Generator().manual_seed(0)
    shapes = {
        "0.weight": (HIDDEN, 32),
        "0.bias": (HIDDEN,),
        "2.weight": (HIDDEN, HIDDEN),
        "2.bias": (HIDDEN,),
    }
    return {f"model.mm_projector.{name}": torch.randn(s, generator=draw) for name, s in shapes.items()}


@pytest.fixture
def exact():
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (torch.from_numpy(IMAGES).permute(0, 3, 1, 2) / 255 - mean) / std


@pytest.fixture
def pixels(exact):
    """As SGLang's processor casts them."""
    return exact.half()


def loaded(config, weights):
    model = Narrow(config)
    model.load_weights(weights.items())
    return model


def test_smoothed_features_reach_the_projector(plugin, named, weights, pixels, narrow, caplog):
    caplog.set_level("INFO", "sglang.fsfast")
    finetuned = {"model.vision_tower.vision_tower.vision_model.embeddings.class_embedding": torch.zeros(32)}
    model = loaded(named(), weights | finetuned)
    encoder = narrow("penultimate")
    tower = model.vision_tower
    assert f"with digest {encoder.engine_digest}" in caplog.text
    assert (model.image_size, model.patch_size, model.num_patches_per_side) == (12, 4, 3)
    with torch.no_grad():
        got = model.encode_images(pixels)
        # The secret of the environment is not that of the fixture's encoder: seeds are replayed.
        out = encoder.encode(IMAGES, 3, seeds=tower.handed.features.seeds)
        wanted = model.multi_modal_projector(torch.from_numpy(out.features))
        again = model.encode_images(pixels)
    assert torch.equal(got, wanted)
    assert torch.equal(got, again)
    assert set(tower.handed.features.seed_origins) == {"secret"}


def test_clean_features_are_those_of_the_own_tower(
    plugin, config, named, weights, exact, clip_path, clean_is_meant
):
    """The hook leaves a model with a tower of its own alone; both towers in float32."""
    own = loaded(config, weights)
    assert own.vision_tower.dtype == torch.float16
    own.vision_tower = hf.CLIPVisionModel.from_pretrained(clip_path).eval()
    model = loaded(named(), weights)
    model.vision_tower.clean = True
    with torch.no_grad():
        wanted = own.encode_images(exact)
        got = model.encode_images(exact)
    torch.testing.assert_close(got, wanted, rtol=0, atol=2e-5 * float(wanted.abs().max()))


def test_without_the_plugin_the_model_does_not_start(named, weights):
    with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'eval'"):
        loaded(named(), weights)


def test_an_engine_beside_another_tower_is_refused(plugin, named, weights, clip_path):
    with pytest.raises(EngineError, match=r"names an engine of fsfast and the tower .*mm_vision_tower"):
        loaded(named(tower=str(clip_path)), weights)


def test_transformers_format_is_refused(plugin, config, named):
    with pytest.raises(EngineError, match="a model in transformers' format, which would see without it"):
        TransformersFormat(named()).load_weights([])
    del config.fsfast
    with pytest.raises(EngineError, match="wanted a LLaVA in the format of its own repository"):
        TransformersFormat(config).load_weights([])
    config.mm_vision_tower = "clip"
    TransformersFormat(config).load_weights([])


@pytest.mark.parametrize(
    ("output", "more", "message"),
    [
        ("tokens", {}, "layer: wanted penultimate, found tokens"),
        ("pooled", {}, "layer: wanted penultimate, found pooled"),
        ("penultimate", {"digest": "00ff"}, "wanted the engine with digest 00ff"),
        ("penultimate", {"engine": "/nowhere"}, "/nowhere"),
    ],
)
def test_another_engine_is_refused(output, more, message, plugin, named, weights):
    with pytest.raises(EngineError, match=message):
        loaded(named(output, **more), weights)


def test_what_the_configuration_lacks_is_refused(plugin, config, named, weights, monkeypatch):
    named().mm_vision_select_feature = "full"
    with pytest.raises(EngineError, match="class token: wanted one"):
        loaded(config, weights)
    config.mm_vision_select_feature = "patch"
    monkeypatch.delenv("FSFAST_SECRET")
    with pytest.raises(EngineError, match="wanted a secret in FSFAST_SECRET"):
        loaded(config, weights)
    del config.fsfast
    with pytest.raises(EngineError, match="wants an engine in the place of the vision tower"):
        loaded(config, weights)


def test_other_pixels_are_refused(plugin, named, weights, pixels):
    model = loaded(named(), weights)
    with pytest.raises(ImageError, match="off the grid"):
        model.encode_images(pixels * 0.9)
