"""The residual smoothness mapper M: refines features of noisy images, the identity without noise."""

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsfast.models.layers import SelfAttention

HEAD_DIM = 64
MLP_RATIO = 2
# Of the three small networks of sigma: FiLM, α and β.
SIGMA_HIDDEN = 64
CONV_WEIGHT = 0.5
SCALE_START = 5e-4
SMALLEST_NORM = 1e-6
SMALLEST_SIGMA = 1e-4


class _Mixer(nn.Module):
    """h = [first]·MHA(f) + MLP(f) + 0.5·DWConv1d(f): the part of a block that looks at the tokens."""

    def __init__(self, dim: int, first: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        # Attention in the first block only: later blocks mix neighbouring tokens by the convolution.
        self.attn = SelfAttention(dim, dim // HEAD_DIM) if first else None
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(dim, MLP_RATIO * dim),
                gelu=nn.GELU(),
                c_proj=nn.Linear(MLP_RATIO * dim, dim),
            )
        )
        # Zero padding keeps L; with L = 1 the middle tap alone acts.
        self.conv = nn.Conv1d(dim, dim, 3, padding=1, groups=dim)

    def _convolved(self, f: Tensor) -> Tensor:
        """[B, L, D] → [B, L, D], along L."""
        return self.conv(f.transpose(1, 2)).transpose(1, 2)

    def _mixed(self, f: Tensor, convolved: Tensor) -> Tensor:
        """[B, L, D] → h/max(‖h‖, 1e-6), [B, L, D]."""
        length = f.shape[1]
        flat = f.flatten(0, 1)
        h = self.mlp(flat)
        if self.attn is not None:
            h = h + self.attn(flat, length)
        h = h.unflatten(0, (-1, length)) + convolved
        return h / torch.linalg.vector_norm(h, dim=-1, keepdim=True).clamp_min(SMALLEST_NORM)


class MapperBlock(_Mixer):
    """One block with its dependence on sigma."""

    def __init__(self, dim: int, first: bool) -> None:
        super().__init__(dim, first)
        # Without biases, γ(0) = β(0) = 0: the identity at sigma = 0 holds by construction.
        self.film = nn.Sequential(
            nn.Linear(1, SIGMA_HIDDEN, bias=False), nn.GELU(), nn.Linear(SIGMA_HIDDEN, 2 * dim, bias=False)
        )
        self.alpha = nn.Sequential(nn.Linear(2, SIGMA_HIDDEN), nn.GELU(), nn.Linear(SIGMA_HIDDEN, 1))
        self.beta = nn.Sequential(nn.Linear(1, SIGMA_HIDDEN), nn.GELU(), nn.Linear(SIGMA_HIDDEN, 1))
        self.scale = nn.Parameter(torch.full((dim,), SCALE_START))

    def constants(self, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
        """γ [D], β [D] and the strength a·sigma^b [1], which depend on sigma alone."""
        like = self.scale
        s = torch.full((1,), sigma, dtype=like.dtype, device=like.device)
        gamma, beta = self.film(s).chunk(2)
        log = torch.log(s.clamp_min(SMALLEST_SIGMA))
        a = F.softplus(self.alpha(torch.cat([s, log])))
        b = F.softplus(self.beta(s))
        # softplus underflows to 0 for inputs below about −100, and 0⁰ = 1: without noise nothing may change.
        strength = torch.zeros_like(s) if sigma == 0 else a * s**b
        return gamma, beta, strength

    def forward(self, z: Tensor, sigma: float) -> Tensor:
        """[B, L, D] → the update Δ, [B, L, D]."""
        gamma, beta, strength = self.constants(sigma)
        f = (1 + gamma) * self.norm(z) + beta
        v = math.sqrt(z.shape[-1]) * self._mixed(f, CONV_WEIGHT * self._convolved(f))
        return ((1 + gamma) * v * strength + beta) * self.scale


class SmoothnessMapper(nn.Module):
    """z + M(z, sigma): k residual blocks, each modulated by the noise level (the paper's Eq. 10 with S.33).

    Weights of block i, under `blocks.i.`: `norm`, `attn.{in_proj_weight,in_proj_bias,out_proj}` (i = 0 only),
    `mlp.{c_fc,c_proj}`, `conv`, `film.{0,2}`, `alpha.{0,2}`, `beta.{0,2}`, `scale`.

    Args:
        dim: channels D of a feature, a multiple of 64 (the channels of an attention head).
        blocks: k.

    Raises:
        ValueError: dim is not a multiple of 64, or blocks is less than 1.
    """

    def __init__(self, dim: int, blocks: int = 3) -> None:
        super().__init__()
        _check_sizes(dim, blocks)
        self.dim = dim
        self.blocks = nn.ModuleList([MapperBlock(dim, first=i == 0) for i in range(blocks)])

    def forward(self, z: Tensor, sigma: float) -> Tensor:
        """Refine features.

        Args:
            z: [B, L, D] float, features of noisy images; pooled features have L = 1.
            sigma: standard deviation of the noise on pixels in [0, 1], at least 0.

        Returns:
            [B, L, D]: the refined features; for sigma = 0 equal to z (a −0 may become +0).

        Raises:
            ValueError: z has another shape, or sigma is negative or not finite.
        """
        _check_features(z, self.dim)
        _check_sigma(sigma)
        for block in self.blocks:
            z = z + block(z, sigma)
        return z

    @torch.no_grad()
    def at_sigma(self, sigma: float) -> "FoldedMapper":
        """A copy for one noise level, in which everything that depends on sigma alone is a constant.

        (1+γ) and β go into LayerNorm's affine, 0.5 into the convolution, and √D·(1+γ)·a·σ^b·Scale and β·Scale
        become `gain` and `shift`. Products are taken in float64 and rounded once; the refined features
        differ from the original's by rounding alone (2e-7 of their range in float32, D = 1024, random weights).

        Args:
            sigma: standard deviation of the noise on pixels in [0, 1], at least 0.

        Returns:
            a FoldedMapper in evaluation mode that shares no memory with this one; same dtype and device.

        Raises:
            ValueError: sigma is negative or not finite.
        """
        _check_sigma(sigma)
        with torch.device("meta"):
            folded = FoldedMapper(self.dim, len(self.blocks))
        weights = self.state_dict()
        for i, block in enumerate(self.blocks):
            assert isinstance(block, MapperBlock)
            gamma, beta, strength = (constant.double() for constant in block.constants(sigma))
            own = {name: tensor.double() for name, tensor in block.state_dict().items()}
            changed = {
                "norm.weight": own["norm.weight"] * (1 + gamma),
                "norm.bias": own["norm.bias"] * (1 + gamma) + beta,
                "conv.weight": own["conv.weight"] * CONV_WEIGHT,
                "conv.bias": own["conv.bias"] * CONV_WEIGHT,
                "gain": own["scale"] * (1 + gamma) * strength * math.sqrt(self.dim),
                "shift": own["scale"] * beta,
            }
            dtype = block.scale.dtype
            weights |= {f"blocks.{i}.{name}": tensor.to(dtype) for name, tensor in changed.items()}
        folded.load_state_dict(
            {name: weights[name].detach().clone() for name in folded.state_dict()}, assign=True
        )
        return folded.eval().requires_grad_(False)


class FoldedBlock(_Mixer):
    """One block at a fixed sigma: Δ = h/max(‖h‖, 1e-6) ⊙ gain + shift."""

    def __init__(self, dim: int, first: bool) -> None:
        super().__init__(dim, first)
        self.gain = nn.Parameter(torch.zeros(dim))
        self.shift = nn.Parameter(torch.zeros(dim))

    def forward(self, z: Tensor) -> Tensor:
        """[B, L, D] → the update Δ, [B, L, D]."""
        f = self.norm(z)
        return self._mixed(f, self._convolved(f)) * self.gain + self.shift


class FoldedMapper(nn.Module):
    """z + M(z, sigma) at a fixed sigma: what an engine runs, built by `SmoothnessMapper.at_sigma`.

    Weights of block i, under `blocks.i.`: `norm`, `attn.{in_proj_weight,in_proj_bias,out_proj}` (i = 0 only),
    `mlp.{c_fc,c_proj}`, `conv`, `gain`, `shift`.

    Args:
        dim: channels D of a feature, a multiple of 64.
        blocks: k.

    Raises:
        ValueError: dim is not a multiple of 64, or blocks is less than 1.
    """

    def __init__(self, dim: int, blocks: int = 3) -> None:
        super().__init__()
        _check_sizes(dim, blocks)
        self.dim = dim
        self.blocks = nn.ModuleList([FoldedBlock(dim, first=i == 0) for i in range(blocks)])

    def forward(self, z: Tensor) -> Tensor:
        """Refine features.

        Args:
            z: [B, L, D] float, features of noisy images.

        Returns:
            [B, L, D]: the refined features.

        Raises:
            ValueError: z has another shape.
        """
        _check_features(z, self.dim)
        for block in self.blocks:
            z = z + block(z)
        return z


def _check_sizes(dim: int, blocks: int) -> None:
    if dim < HEAD_DIM or dim % HEAD_DIM:
        raise ValueError(f"wanted dim to be a multiple of {HEAD_DIM}, the channels of a head, got {dim}")
    if blocks < 1:
        raise ValueError(f"wanted at least one block, got {blocks}; leave the mapper out instead")


def _check_features(z: Tensor, dim: int) -> None:
    if z.ndim != 3 or z.shape[2] != dim:
        raise ValueError(f"wanted z as [B, L, {dim}], got {list(z.shape)}; pooled features are [B, 1, {dim}]")


def _check_sigma(sigma: float) -> None:
    if not (math.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"wanted a finite sigma of at least 0 on pixels in [0, 1], got {sigma!r}")
