"""One tower of every family at its full size, by its recipe; see test_parity.py."""

from dataclasses import replace
from importlib import import_module

import pytest
import torch
from safetensors.torch import save_file

from export.networks import encoder_config
from export.recipe import load_recipe
from fsfast.models import load_encoder
from tests.models import families, perception
from tests.models.published import write_json
from tests.models.test_parity import REAL, assert_near, family_model, transformers
from tests.models.test_parity_perception import eva_model
from tests.models.test_parity_qwen import CLASSES, packed

__all__ = ["transformers"]
pytestmark = pytest.mark.slow
# vision_config as published.
QWEN = {
    "qwen2.5-vl-448": (
        "Qwen2.5-VL",
        {"hidden_size": 1280, "out_hidden_size": 3584},
    ),
    "qwen3-vl-448": (
        "Qwen3-VL",
        {"hidden_size": 1152, "out_hidden_size": 4096},
    ),
}


def picture(config):
    side = config.image_size
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("recipe", families.FULL_SIZE)
@torch.no_grad()
def test_a_tower_equals_transformers(transformers, recipe, randomised, tmp_path):
    config = encoder_config(load_recipe(recipe))
    family = replace(families.FAMILIES[families.FULL_SIZE[recipe][0]], config=config)
    model = randomised(family_model(transformers, family))
    model.save_pretrained(tmp_path)
    # Positions of another size are resized elsewhere.
    module = load_encoder(tmp_path, config).module
    x = picture(config)
    tokens = model(x).last_hidden_state[:, config.prefix :]
    assert_near(module(x, "tokens", config.final_norm), tokens, REAL)


@pytest.mark.parametrize("recipe", QWEN)
@torch.no_grad()
def test_a_tower_of_qwen_equals_transformers(transformers, recipe, randomised, tmp_path):
    name, settings = QWEN[recipe]
    kind, model_class, config_class = CLASSES[name]
    config = encoder_config(load_recipe(recipe))
    within = f"transformers.models.{kind}"
    theirs = getattr(import_module(f"{within}.configuration_{kind}"), config_class)(**settings)
    model = randomised(getattr(import_module(f"{within}.modeling_{kind}"), model_class)(theirs))
    model.save_pretrained(tmp_path)
    # What the class has by default is what was published.
    write_json(tmp_path / "config.json", {"vision_config": settings | {"model_type": kind}})
    module = load_encoder(tmp_path, config).module
    x, side = picture(config), config.image_size // config.patch
    want = model(packed(x, config), grid_thw=torch.tensor([[1, side, side]]))
    merged = torch.cat([want.pooler_output, *(getattr(want, "deepstack_features", None) or [])])
    assert_near(module(x, "merged"), merged[None], REAL)


@torch.no_grad()
def test_a_perception_encoder_equals_timms(tmp_path):
    pytest.importorskip("timm")
    config = encoder_config(load_recipe("pe-core-l14-336"))
    tensors = perception.weights(config)
    model = eva_model(config, tensors)
    save_file(tensors, tmp_path / "PE-Core-L14-336.safetensors")
    module = load_encoder(tmp_path / "PE-Core-L14-336.safetensors").module
    assert module.config == config
    x = picture(config)
    assert_near(module(x), model(x)[:, None], REAL)
