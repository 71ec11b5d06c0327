"""Networks of other families, by the names of public checkpoints: one line says what they are and what helps."""

import pytest
import torch
from safetensors.torch import save_file

from tests.models import published
from tests.models.families import FAMILIES, weights
from tests.models.published import prefixed
from tests.models.refusals import refusal

# Of timm 1.0 and transformers 5.24: names that a kind of network has, and no tower of ours.
TIMM = ["patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "norm.weight"]
OUTSIDE = "fsfast export torch takes its module, fsfast export onnx a graph of it"
FOREIGN = {
    "FastViT": (["stem.0.conv_kxk.0.bn.bias", "stages.0.blocks.0.token_mixer.norm.identity.bias"], OUTSIDE),
    "MobileCLIP": (["visual.trunk.stages.0.blocks.0.token_mixer.mixer.identity.bias"], "a FastViT"),
    "MobileCLIP-B": (
        [f"visual.trunk.{name}" for name in (*TIMM[1:], "pos_embed", "patch_embed.backbone.0.conv.weight")],
        f"a ViT behind convolutions (MobileCLIP-B, ViTamin); {OUTSIDE}",
    ),
    "DINOv3 of timm": ([*TIMM, "reg_token", "blocks.0.gamma_1"], "a DINOv3 in timm's names; take the same"),
    "DINOv3 of its authors": (
        [*TIMM, "storage_tokens", "rope_embed.periods", "blocks.0.attn.qkv.bias_mask"],
        "a DINOv3 in its authors' names",
    ),
    "CLIP with a ConvNeXt": (["visual.trunk.stem.0.weight"], f"choose one with a ViT, or: {OUTSIDE}"),
    "CLIP with a ResNet": (["visual.attnpool.positional_embedding", "visual.layer1.0.conv1.weight"], OUTSIDE),
    "EVA": (["visual.trunk.blocks.0.attn.q_proj.weight", "visual.trunk.pos_embed"], f"an EVA; {OUTSIDE}"),
    "EVA-CLIP": ([f"visual.{name}" for name in (*TIMM, "pos_embed", "blocks.0.attn.q_bias")], "an EVA"),
    "BEiT": (
        [*TIMM, "blocks.0.attn.relative_position_bias_table", "blocks.0.gamma_1"],
        f"a BEiT; {OUTSIDE}",
    ),
    "BEiT of transformers": (
        [
            "beit.encoder.layer.0.attention.attention.relative_position_bias.relative_position_bias_table",
            "beit.encoder.layer.0.lambda_1",
        ],
        "a BEiT",
    ),
    "ResNet": (["conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "fc.weight"], f"a ResNet; {OUTSIDE}"),
    "ResNet of transformers": (["resnet.embedder.embedder.convolution.weight"], "a ResNet of transformers"),
    "SAM": (["image_encoder.blocks.0.attn.rel_pos_h", "image_encoder.patch_embed.proj.weight"], "a SAM"),
    "SAM of timm": ([*TIMM, "pos_embed", "blocks.0.attn.rel_pos_h"], "the image encoder of a SAM"),
    "SAM 2": (["vision_encoder.backbone.pos_embed_window"], "a SAM"),
    "Florence-2": (["vision_tower.blocks.0.0.spatial_block.conv1.fn.dw.weight"], "a DaViT, as in Florence-2"),
    "DaViT": (["stem.conv.weight", "stages.0.blocks.0.0.cpe1.proj.weight"], "a DaViT"),
    "Swin": (
        ["layers.0.blocks.0.attn.relative_position_bias_table", "patch_embed.proj.weight"],
        f"a Swin transformer; {OUTSIDE}",
    ),
    "Swin of transformers": (
        ["swin.encoder.layers.0.blocks.0.attention.self.relative_position_bias_table"],
        "a Swin transformer",
    ),
    "ViT of transformers": (
        [
            "vit.embeddings.patch_embeddings.projection.weight",
            "vit.encoder.layer.0.intermediate.dense.weight",
        ],
        f"a ViT of transformers that is no DINOv2 (ViT, DeiT, BEiT, MAE); {OUTSIDE}",
    ),
    "ConvNeXt": (["stem.0.weight", "stages.0.blocks.0.conv_dw.weight"], f"a ConvNeXt; {OUTSIDE}"),
    "EfficientNet": (["conv_stem.weight", "blocks.0.0.conv_dw.weight"], "EfficientNet, MobileNet"),
    "NaFlex of timm": (["embeds.proj.weight", "blocks.0.attn.qkv.weight"], "of a fixed resolution"),
    "AIMv2": (["encoder.layers.0.rms_norm1.weight", "encoder.layers.0.ffn.gate_proj.weight"], "an AIMv2"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_networks_of_other_families_are_refused_by_name(name, tmp_path):
    names, complaint = FOREIGN[name]
    save_file({each: torch.zeros(1) for each in names}, tmp_path / "a.safetensors")
    for config in (None, published.NARROW):
        assert complaint in refusal(tmp_path / "a.safetensors", config=config)


def test_siglip_of_the_naflex_kind_is_refused_by_name(tmp_path):
    """Its patches are flattened: [D, 3·P·P]."""
    family = FAMILIES["SigLIP"]
    tensors = prefixed("vision_model.", weights(family))
    patches = tensors["vision_model.embeddings.patch_embedding.weight"].flatten(1)
    save_file(
        tensors | {"vision_model.embeddings.patch_embedding.weight": patches}, tmp_path / "a.safetensors"
    )
    for config in (None, family.config):
        message = refusal(tmp_path / "a.safetensors", config=config)
        assert "NaFlex" in message
        assert "choose a checkpoint of a fixed resolution" in message
