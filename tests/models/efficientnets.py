"""A small EfficientNet-Lite with random weights, for tests."""

import torch
from torch import Tensor

from fsfast.models import EfficientNet, EfficientNetConfig

# Every kind of block: without expansion, stride 2 with both kernels, with the sum.
SMALL = EfficientNetConfig(
    image_size=32, stem=8, width=64, stages=((1, 3, 1, 1, 8), (2, 5, 2, 3, 16), (1, 3, 2, 3, 16))
)


def weights(config: EfficientNetConfig = SMALL, classes: int = 0) -> dict[str, Tensor]:
    """Names and values of a checkpoint, batch norms that were trained included."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = EfficientNet(config).state_dict()
    found = {}
    for name, like in shapes.items():
        noise = torch.randn(like.shape, generator=generator)
        if name.endswith("num_batches_tracked"):
            found[name] = torch.tensor(7)
        elif name.endswith("running_var") or (like.ndim == 1 and name.endswith("weight")):
            found[name] = 1 + 0.5 * noise.tanh()
        else:
            found[name] = noise * (like[0].numel() ** -0.5 if like.ndim > 1 else 0.2)
    if classes:
        found["_fc.weight"] = torch.randn(classes, config.width, generator=generator)
        found["_fc.bias"] = torch.randn(classes, generator=generator)
    return found
