"""The losses of Algorithm 1, with the paper's signs corrected."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def class_cosines(tokens: Tensor, class_features: Tensor) -> Tensor:
    """Return ⟨unit feature, unit direction of the class⟩, the mean over tokens of the tokens' cosines.

    With f the concatenation of the tokens t_j/(‖t_j‖·√L) and w_k the concatenation of L copies of
    c_k/(‖c_k‖·√L), both unit vectors, the score is ⟨f, w_k⟩: linear in the certified unit feature.

    Args:
        tokens: [B, L, D].
        class_features: [K, D].

    Returns:
        [B, K] in [−1, 1].
    """
    return token_cosines(tokens, class_features).mean(1)


def token_cosines(tokens: Tensor, class_features: Tensor) -> Tensor:
    """Return the cosine of every token with every class: [B, L, D] and [K, D] → [B, L, K]."""
    return F.normalize(tokens, dim=-1) @ F.normalize(class_features, dim=-1).T


def encoder_loss(
    tokens: Tensor, class_features: Tensor, labels: Tensor, temperature: float, token_weight: float
) -> Tensor:
    """Cross-entropy of the image's scores, plus token_weight times that of every token on its own.

    Args:
        tokens: [B, L, D].
        class_features: [K, D].
        labels: [B] int64.
        temperature: logits are temperature · cosine.
        token_weight: with it every token learns to name the class, and the features of a class gather.
    """
    # [B, L, K]
    logits = temperature * token_cosines(tokens, class_features)
    image = F.cross_entropy(logits.mean(1), labels)
    tokenwise = F.cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(tokens.shape[1]))
    return image + token_weight * tokenwise


def feature_cosine(tokens: Tensor, anchor: Tensor) -> Tensor:
    """Return ⟨f, u⟩ of the unit features: the mean over tokens of the tokens' cosines, [B, L, D]² → [B]."""
    return F.cosine_similarity(tokens, anchor, dim=-1).mean(1)


def purifier_loss(
    noise_hat: Tensor,
    noise: Tensor,
    purified: Tensor,
    clean: Tensor,
    cosines: Tensor,
    cosine_weight: float,
    pixel_weight: float,
) -> Tensor:
    """L_P = ‖ε̂ − ε‖² + cosine_weight·(1 − mean Cos) + pixel_weight·‖x − P(x+N)‖², means over elements.

    The paper prints the cosine with the sign that would push features apart.

    Args:
        noise_hat, noise: [B, 3, H, W], the predicted and the true standard normal noise.
        purified, clean: [B, 3, H, W] in [0, 1].
        cosines: [B], Cos(f_e(P(x+N)), f_e(x)).
        cosine_weight, pixel_weight: 0.25 and 0.25 in the paper.
    """
    diffusion = F.mse_loss(noise_hat, noise)
    return diffusion + cosine_weight * (1 - cosines.mean()) + pixel_weight * F.mse_loss(purified, clean)


def statistics_loss(tokens: Tensor, anchor: Tensor) -> Tensor:
    """l_stats: mean over channels of the squared differences of mean and of standard deviation.

    Args:
        tokens, anchor: [B, L, D] raw features; moments are over batch and tokens.
    """
    mean = (tokens.mean((0, 1)) - anchor.mean((0, 1))).square().mean()
    std = (tokens.std((0, 1), correction=0) - anchor.std((0, 1), correction=0)).square().mean()
    return mean + std


def mapper_loss(
    refined: Tensor, clean: Tensor, at_zero: Tensor, stats_weight: float, identity_weight: float
) -> Tensor:
    """L_M = (1 − mean Cos(z_m, f_e(x))) + stats_weight·l_stats + identity_weight·‖M(z, 0)‖².

    Args:
        refined: [B, L, D], z + M(z, σ).
        clean: [B, L, D], f_e(x).
        at_zero: [B, L, D], M(z, 0): zero by construction, kept as an assertion.
        stats_weight, identity_weight: 100 and 0.25 in the paper.
    """
    identity = at_zero.square().mean()
    cosine = feature_cosine(refined, clean).mean()
    return (1 - cosine) + stats_weight * statistics_loss(refined, clean) + identity_weight * identity


def add_noise(levels: Tensor, z: Tensor, sigma: float) -> Tensor:
    """Return x + round(255·sigma·z): integer noise on the grid, as the engine draws it.

    Args:
        levels: [B, 3, H, W] grid levels.
        z: [B, 3, H, W] standard normal.
        sigma: noise level in [0,1] pixel units.
    """
    return levels + (255.0 * sigma * z).round()
