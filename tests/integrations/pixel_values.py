"""Pixel values as hosts' image processors make them."""

import torch


def normalised(levels, manifest, dtype=torch.float32):
    """[B, H, W, 3] uint8 → [B, 3, H, W], (v/255 − mean)/std."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (manifest.mean, manifest.std))
    return ((torch.from_numpy(levels).permute(0, 3, 1, 2) / 255 - mean) / std).to(dtype)
