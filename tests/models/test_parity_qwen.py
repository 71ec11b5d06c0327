"""Towers of Qwen-VL against transformers; see test_parity.py."""

from importlib import import_module

import pytest
import torch

from fsfast.models import load_encoder
from tests.models import qwen
from tests.models.published import write_json
from tests.models.test_parity import SMALL, assert_near, stored_names, transformers

__all__ = ["transformers"]
CLASSES = {
    "Qwen2-VL": ("qwen2_vl", "Qwen2VisionTransformerPretrainedModel", "Qwen2VLVisionConfig"),
    "Qwen2.5-VL": ("qwen2_5_vl", "Qwen2_5_VisionTransformerPretrainedModel", "Qwen2_5_VLVisionConfig"),
    "Qwen3-VL": ("qwen3_vl", "Qwen3VLVisionModel", "Qwen3VLVisionConfig"),
}


def packed(pixels, config):
    """Patches as transformers' processor hands them over: squares one after another, every picture for two frames."""
    images, side, m, p = len(pixels), config.image_size // config.patch, config.merge, config.patch
    x = pixels[:, None].expand(-1, 2, -1, -1, -1).reshape(images, 2, 3, side // m, m, p, side // m, m, p)
    return x.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(images * side * side, -1)


@pytest.mark.parametrize("name", qwen.TOWERS)
def test_a_tower_equals_transformers(transformers, name, randomised, tmp_path):
    kind, model_class, config_class = CLASSES[name]
    if not hasattr(transformers, config_class.replace("Vision", "")):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    tower = qwen.TOWERS[name]
    settings = {key: value for key, value in tower.settings.items() if key != "model_type"}
    within = f"transformers.models.{kind}"
    config = getattr(import_module(f"{within}.configuration_{kind}"), config_class)(**settings)
    model = randomised(getattr(import_module(f"{within}.modeling_{kind}"), model_class)(config))
    model.save_pretrained(tmp_path)
    write_json(tmp_path / "config.json", tower.settings)
    assert stored_names(tmp_path) == qwen.shapes(tower).keys()
    module = load_encoder(tmp_path, image_size=qwen.SIZE).module
    assert module.config == tower.config
    x = torch.randn(3, 3, qwen.SIZE, qwen.SIZE, generator=torch.Generator().manual_seed(1))
    side = qwen.SIZE // tower.config.patch
    want = model(packed(x, tower.config), grid_thw=torch.tensor([[1, side, side]] * 3))
    parts = [want.pooler_output, *(getattr(want, "deepstack_features", None) or [])]
    merged = torch.cat([part.unflatten(0, (3, -1)) for part in parts], 1)
    assert_near(module(x, "merged"), merged, SMALL)
