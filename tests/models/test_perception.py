"""Perception Encoder: read in its authors' names, with their rotary positions and pooling attention."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from fsfast.models import load_encoder
from tests.models.perception import CORE, attended, weights

GIANT = replace(CORE, class_token=False, rope_grid="from_0")


def test_a_published_size_is_known_by_its_weights(tmp_path):
    save_file(weights(CORE), tmp_path / "a.pt")
    loaded = load_encoder(tmp_path / "a.pt")
    assert loaded.module.config == CORE
    assert loaded.layout == "perception encoder"
    assert "heads=3: as in every published Perception Encoder" in loaded.notes


@pytest.mark.parametrize("config", [CORE, GIANT], ids=["with a class token", "without"])
def test_a_tower_attends_as_its_authors_do(config, tmp_path):
    tensors = weights(config)
    save_file(tensors, tmp_path / "a.pt")
    loaded = load_encoder(tmp_path / "a.pt", config)
    w = {name.removeprefix("visual."): tensor.double() for name, tensor in tensors.items()}
    block, at = loaded.module.transformer.resblocks[0], "transformer.resblocks.0.attn."
    x = torch.randn(config.prefix + config.patches, 192, generator=torch.Generator().manual_seed(1))
    want = attended(config, w[f"{at}in_proj_weight"], w[f"{at}in_proj_bias"], x.double())
    want = want @ w[f"{at}out_proj.weight"].T + w[f"{at}out_proj.bias"]
    got = block.attn(x, len(x), loaded.module.rotary)
    assert 0.1 < want.std() < 10
    torch.testing.assert_close(got.double(), want, rtol=0, atol=2e-5)


def test_the_pool_sees_all_tokens_with_heads_of_its_own(tmp_path):
    tensors = weights(CORE)
    save_file(tensors, tmp_path / "a.pt")
    module = load_encoder(tmp_path / "a.pt").module
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    seen = {}
    module.ln_post.register_forward_hook(lambda *call: seen.update(tokens=call[2]))
    pooled = module(x)
    w = {name.removeprefix("visual.attn_pool."): tensor for name, tensor in tensors.items()}
    assert seen["tokens"].shape == (1, 17, 192)
    y, _ = F.multi_head_attention_forward(
        w["probe"].transpose(0, 1),
        *[seen["tokens"].transpose(0, 1)] * 2,
        192,
        8,
        w["attn.in_proj_weight"],
        w["attn.in_proj_bias"],
        None,
        None,
        False,
        0.0,
        w["attn.out_proj.weight"],
        w["attn.out_proj.bias"],
        need_weights=False,
    )
    inside = F.linear(
        F.layer_norm(y, (192,), w["layernorm.weight"], w["layernorm.bias"]),
        w["mlp.c_fc.weight"],
        w["mlp.c_fc.bias"],
    )
    y = y + F.linear(F.gelu(inside), w["mlp.c_proj.weight"], w["mlp.c_proj.bias"])
    torch.testing.assert_close(pooled, (y @ tensors["visual.proj"]).transpose(0, 1), rtol=0, atol=2e-5)


def test_a_tower_exports(tmp_path, assert_exports):
    save_file(weights(CORE), tmp_path / "a.pt")
    module = load_encoder(tmp_path / "a.pt").module
    assert_exports(
        module.features("pooled"), torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    )
