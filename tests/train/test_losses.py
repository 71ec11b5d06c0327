"""The losses against the formulas of Algorithm 1, element by element in float64."""

import math

import numpy as np
import pytest
import torch

from fsfast.models import SmoothnessMapper
from train.losses import (
    add_noise,
    class_cosines,
    encoder_loss,
    feature_cosine,
    mapper_loss,
    purifier_loss,
    statistics_loss,
)

B, L, D, K = 3, 5, 7, 4


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


def cosine(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def log_softmax(logits, label):
    return float(logits[label] - math.log(np.exp(logits).sum()))


def test_class_scores_are_linear_in_the_concatenated_unit_feature(tensors):
    tokens, classes = tensors(B, L, D), tensors(K, D)
    f = torch.stack([torch.cat([t / t.norm() / L**0.5 for t in image]) for image in tokens])
    w = torch.stack([torch.cat([c / c.norm() / L**0.5] * L) for c in classes])
    assert torch.allclose(f.norm(dim=1), torch.ones(B, dtype=torch.float64))
    assert torch.allclose(w.norm(dim=1), torch.ones(K, dtype=torch.float64))
    torch.testing.assert_close(class_cosines(tokens, classes), f @ w.T)


def test_feature_cosine(tensors):
    z, u = tensors(B, L, D), tensors(B, L, D)
    expected = [np.mean([cosine(z[b, j].numpy(), u[b, j].numpy()) for j in range(L)]) for b in range(B)]
    np.testing.assert_allclose(feature_cosine(z, u), expected, rtol=1e-12)


def test_encoder_loss(tensors):
    tokens, classes, labels = tensors(B, L, D), tensors(K, D), torch.tensor([0, 3, 1])
    c = np.array(
        [
            [[cosine(tokens[b, j].numpy(), classes[k].numpy()) for k in range(K)] for j in range(L)]
            for b in range(B)
        ]
    )
    image = -np.mean([log_softmax(9 * c[b].mean(0), labels[b]) for b in range(B)])
    token = -np.mean([log_softmax(9 * c[b, j], labels[b]) for b in range(B) for j in range(L)])
    loss = encoder_loss(tokens, classes, labels, temperature=9.0, token_weight=0.3)
    assert loss.item() == pytest.approx(image + 0.3 * token, rel=1e-12)


def test_purifier_loss_and_its_signs(tensors):
    noise_hat, noise, purified, clean = (tensors(B, 3, 4, 4) for _ in range(4))
    cosines = torch.tensor([0.5, 0.25, -0.5], dtype=torch.float64)
    loss = purifier_loss(noise_hat, noise, purified, clean, cosines, 0.25, 0.125)
    expected = (
        np.mean((noise_hat - noise).numpy() ** 2)
        + 0.25 * (1 - (0.5 + 0.25 - 0.5) / 3)
        + 0.125 * np.mean((purified - clean).numpy() ** 2)
    )
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    # The paper prints the opposite: features that agree must make the loss smaller.
    assert purifier_loss(noise_hat, noise, purified, clean, cosines + 0.1, 0.25, 0.125) < loss


def test_statistics_loss(tensors):
    z, u = tensors(B, L, D), 2 + 3 * tensors(B, L, D)
    a, b = z.numpy().reshape(-1, D), u.numpy().reshape(-1, D)
    expected = np.mean((a.mean(0) - b.mean(0)) ** 2) + np.mean((a.std(0) - b.std(0)) ** 2)
    assert statistics_loss(z, u).item() == pytest.approx(expected, rel=1e-12)
    assert statistics_loss(z, z[torch.randperm(B)]).item() == pytest.approx(0, abs=1e-28)


def test_mapper_loss_and_its_signs(tensors):
    refined, clean, at_zero = (tensors(B, L, D) for _ in range(3))
    expected = (
        (1 - feature_cosine(refined, clean).mean())
        + 100 * statistics_loss(refined, clean)
        + 0.25 * at_zero.square().mean()
    )
    assert mapper_loss(refined, clean, at_zero, 100, 0.25).item() == pytest.approx(expected.item(), rel=1e-12)
    assert mapper_loss(clean, clean, torch.zeros_like(clean), 100, 0.25).item() == pytest.approx(0, abs=1e-12)


def test_the_mappers_identity_term_is_zero_by_construction(tensors):
    torch.manual_seed(0)
    mapper = SmoothnessMapper(64).double()
    z = tensors(2, 3, 64)
    assert torch.equal(mapper(z, 0.0), z)


def test_noise_stays_on_the_grid_with_the_right_width(tensors):
    levels = torch.full((1, 3, 64, 64), 7.0)
    noisy = add_noise(levels, tensors(1, 3, 64, 64).float(), 0.25)
    assert torch.equal(noisy, noisy.round())
    # 12,288 samples: four standard errors of the standard deviation, √(σ² + 1/12) with rounding.
    assert noisy.std().item() == pytest.approx(math.hypot(63.75, 12**-0.5), rel=4 / math.sqrt(2 * 12288))
