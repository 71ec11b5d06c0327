"""Perception Encoder against timm; see test_parity.py."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import save_file

from fsfast.models import load_encoder
from tests.models.perception import CORE, weights
from tests.models.test_parity import SMALL, assert_near


def eva_model(config, tensors):
    """The same tower by timm, with the weights of an authors' checkpoint."""
    eva = pytest.importorskip("timm.models.eva")
    side = config.image_size // config.patch
    model = eva.Eva(
        **{"img_size": config.image_size, "patch_size": config.patch, "embed_dim": config.width},
        **{"depth": config.layers, "num_heads": config.heads, "mlp_ratio": config.mlp_ratio},
        **{
            "class_token": config.class_token,
            "use_pre_transformer_norm": True,
            "num_classes": config.embed_dim,
        },
        **{"attn_type": "rope", "use_rot_pos_emb": True, "ref_feat_shape": (side, side)},
        **{"rope_grid_offset": float(config.class_token), "rope_grid_indexing": "xy"},
        **{"global_pool": "map", "attn_pool_num_heads": 8, "attn_pool_mlp_ratio": config.mlp_ratio},
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-5),
    )
    model.load_state_dict(eva.checkpoint_filter_fn(dict(tensors), model))
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("class_token", [True, False])
def test_a_tower_equals_timms(class_token, tmp_path):
    config = CORE if class_token else replace(CORE, class_token=False, rope_grid="from_0")
    tensors = weights(config)
    model = eva_model(config, tensors)
    save_file(tensors, tmp_path / "PE-Core.safetensors")
    module = load_encoder(tmp_path / "PE-Core.safetensors", config).module
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    assert_near(module(x), model(x)[:, None], SMALL)
    assert_near(module(x, "tokens", True), model.forward_features(x)[:, config.prefix :], SMALL)
