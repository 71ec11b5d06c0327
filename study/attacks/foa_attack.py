"""FOA-Attack (Jia et al. 2025, arXiv 2505.21494), in the white-box setting: M-Attack, and clusters of tokens beside it.

The clusters of the attacked crop's tokens and of the target's are compared by optimal transport. As in its authors'
code tokens are divided by the norms of the *channels* over the tokens, centres are means through which the gradient
passes to the members of the final clusters, and the transport plan is a constant of each step. With one encoder the
weights between encoders are 1. Its global feature is that of the other attacks, not the class token.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from study.attacks.spec import AttackSpec

SPEC = AttackSpec("foa-attack", crops=(0.5, 0.9), local=True)

CLUSTERS = 10
# What the local part counts beside the global one.
WEIGHT = 0.2
_ROUNDS = 20
# Of Sinkhorn's iteration: entropy, iterations at most, and the mean change of r at which an image is done.
_ENTROPY, _ITERATIONS, _DONE = 0.1, 100, 1e-2


def over_tokens(tokens: Tensor) -> Tensor:
    """Divide every channel by its norm over the tokens: [B, N, D] → [B, N, D]."""
    return F.normalize(tokens, dim=1, eps=1e-12)


def clusters(points: Tensor, generator: torch.Generator, count: int = CLUSTERS) -> Tensor:
    """Return the centres of Lloyd's algorithm after a fixed number of rounds, as means of their members.

    Args:
        points: [B, N, D].
        generator: on the CPU, of the first centres, which are distinct points.
        count: clusters, at most N. One that loses its members keeps its centre, and has no gradient.

    Returns:
        [B, count, D].
    """
    images, tokens, dim = points.shape
    count = min(count, tokens)
    first = torch.stack([torch.randperm(tokens, generator=generator)[:count] for _ in range(images)])
    still = points.detach()
    centres = still.gather(1, first.to(points.device)[..., None].expand(-1, -1, dim))
    for _ in range(_ROUNDS):
        share = _shares(still, centres)
        centres = torch.where(share.any(2, keepdim=True), share @ still, centres)
    share = _shares(still, centres)
    return torch.where(share.any(2, keepdim=True), share @ points, centres)


def _shares(points: Tensor, centres: Tensor) -> Tensor:
    """Return [B, K, N]: 1/members where a point's nearest centre is this one, otherwise 0."""
    nearest = torch.cdist(points, centres).argmin(2)
    members = F.one_hot(nearest, centres.shape[1]).to(points.dtype).transpose(1, 2)
    return members / members.sum(2, keepdim=True).clamp_min(1.0)


def transport(a: Tensor, b: Tensor) -> Tensor:
    """Return the similarity of two sets of vectors under the entropic optimal transport between them.

    Args:
        a, b: [B, m, D] and [B, n, D]; only directions matter, and each has the same mass.

    Returns:
        [B]; for m = n = 1 the cosine. The gradient leaves the plan out.
    """
    similar = F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).transpose(1, 2)
    return (_plan(similar.detach()) * similar).sum((1, 2))


def _plan(similar: Tensor) -> Tensor:
    """Sinkhorn: [B, m, n] similarities → [B, m, n] masses."""
    kernel = torch.exp((similar - 1.0) / _ENTROPY)
    images, m, n = similar.shape
    r, c = similar.new_ones(images, m), similar.new_ones(images, n)
    going = torch.ones(images, 1, dtype=torch.bool, device=similar.device)
    for _ in range(_ITERATIONS):
        rows = (1.0 / m) / (kernel @ c[..., None])[..., 0]
        columns = (1.0 / n) / (kernel.transpose(1, 2) @ rows[..., None])[..., 0]
        moved = (rows - r).abs().mean(1, keepdim=True)
        # An image that is done stays as it is, whatever the others do.
        r, c = torch.where(going, rows, r), torch.where(going, columns, c)
        going = going & (moved >= _DONE)
        if not going.any():
            break
    return r[..., None] * kernel * c[:, None]
