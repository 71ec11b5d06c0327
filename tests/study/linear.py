"""A victim whose every gradient is known: one linear layer, in [0, 1] pixel units, without resize or purifier."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from fsfast.engine.classes import ClassHead
from study.victim import Victim


class LinearTower(nn.Module):
    """[M, 3, H, W] levels → [M, L, D] = W·x/255 in `tokens` rows."""

    def __init__(self, weight, tokens=1):
        super().__init__()
        self.tokens, self.weight = tokens, weight

    def forward(self, pixels):
        return (pixels.flatten(1) @ self.weight.T).unflatten(1, (self.tokens, -1))


class LinearFunction(nn.Module):
    """What `TorchFunction` is, for the linear tower."""

    def __init__(self, weight, tokens=1, sigma=0.1):
        super().__init__()
        self.networks = nn.ModuleDict({"encoder": LinearTower(weight, tokens)})
        self.sigma, self.denoise = sigma, None
        self.resize = lambda pixels: pixels
        self.resize.mean = torch.zeros(1)

    def purified(self, noisy):
        return noisy / 255.0

    def forward(self, noisy):
        tokens = self.networks["encoder"](noisy / 255.0)
        return F.normalize(tokens, dim=-1) / tokens.shape[1] ** 0.5


def linear_victim(weight, *, tokens=1, classes=None, rows=64):
    head = None if classes is None else ClassHead(tuple(map(str, range(len(classes)))), np.float32(classes))
    function = LinearFunction(torch.as_tensor(weight, dtype=torch.float32), tokens)
    return Victim(function, head, pooled=False, rows=rows)  # type: ignore[arg-type]
