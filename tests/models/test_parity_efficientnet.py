"""EfficientNet-Lite0 against timm's tf_efficientnet_lite0, with random weights under both names.

The largest absolute difference of any token is measured, float32 on the CPU; 2e-5 was seen with folded batch norms, of
values up to 6. Skipped where timm is not installed.
"""

import re

import pytest
import torch
from safetensors.torch import save_file

from fsfast.models import EFFICIENTNET_LITE0, load_efficientnet
from tests.models.efficientnets import weights

LIMIT = 1e-4
_HEAD = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_BLOCK = {
    **{"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"},
    **{"_project_conv": "conv_pwl", "_bn2": "bn3"},
}
# The first block has no expansion.
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_PLACES = [
    f"blocks.{stage}.{block}"
    for stage, (repeats, *_) in enumerate(EFFICIENTNET_LITE0.stages)
    for block in range(repeats)
]


def as_timm(name):
    """The package's name of a weight in timm's words."""
    if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name):
        index = int(match[1])
        return f"{_PLACES[index]}.{(_BLOCK if index else _FIRST)[match[2]]}.{match[3]}"
    part, _, rest = name.partition(".")
    return f"{_HEAD[part]}.{rest}"


def test_timms_network(tmp_path):
    timm = pytest.importorskip("timm")
    stored = weights(EFFICIENTNET_LITE0, classes=1000)
    save_file(stored, tmp_path / "lite0.safetensors")
    loaded = load_efficientnet(tmp_path / "lite0.safetensors")
    theirs = timm.create_model("tf_efficientnet_lite0").eval()
    theirs.load_state_dict({as_timm(name): tensor for name, tensor in stored.items()})
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        tokens = theirs.forward_features(pixels).flatten(2).transpose(1, 2)
        assert tokens.std() > 0.1
        torch.testing.assert_close(loaded.module(pixels), tokens, rtol=0, atol=LIMIT)
        torch.testing.assert_close(loaded.module.features("tokens")(pixels), tokens, rtol=0, atol=LIMIT)
        pooled = loaded.module.features("pooled")(pixels)[:, 0]
        rows, biases = loaded.classifier
        torch.testing.assert_close(pooled @ rows.T + biases, theirs(pixels), rtol=0, atol=10 * LIMIT)
