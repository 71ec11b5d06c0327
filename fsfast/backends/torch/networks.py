"""Networks as a GPU runs them: the same functions, up to rounding, in fewer kernels and passes over memory."""

from __future__ import annotations

from torch import nn

from fsfast.backends.torch.mapper import DeviceMapper
from fsfast.backends.torch.unet import DeviceUNet
from fsfast.backends.torch.vit import for_device as vit_for_device
from fsfast.models.mapper import FoldedMapper
from fsfast.models.unet import FoldedUNet
from fsfast.models.vit import ViTFeatures


def for_device(module: nn.Module) -> nn.Module:
    """Return a network that computes the same from the same weights, for images in channels_last order.

    Args:
        module: a FoldedUNet, a FoldedMapper, a ViTFeatures, or any other network, which is returned; it stays as it
            is, and weights that need no other form are shared with it.

    Returns:
        a module in the same mode. Outputs differ by rounding: 1e-6 of their range in float32 (small networks, random
        weights).
    """
    if isinstance(module, FoldedUNet):
        return DeviceUNet(module).train(module.training)
    if isinstance(module, FoldedMapper):
        return DeviceMapper(module).train(module.training)
    if isinstance(module, ViTFeatures):
        return vit_for_device(module)
    return module
