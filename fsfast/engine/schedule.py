"""The diffusion schedule behind one-step denoising, in float64; the engine's coefficients come from here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

STEPS = 1000
BETA_FIRST, BETA_LAST = 1e-4, 0.02


def alpha_bars() -> np.ndarray:
    """Return ᾱ of the linear schedule (Ho et al. 2020, §4), [1000] float64, decreasing."""
    return np.cumprod(1.0 - np.linspace(BETA_FIRST, BETA_LAST, STEPS, dtype=np.float64))


def t_star(sigma: float) -> int:
    """Return the timestep whose noise level matches images in [0, 1] with noise of standard deviation sigma.

    The smallest t ≥ 1 with √((1−ᾱ_t)/ᾱ_t) ≥ 2·sigma: on pixels in [−1, 1] the noise is twice as large
    (Carlini et al. 2023, "(Certified!!) Adversarial Robustness for Free!").

    Args:
        sigma: standard deviation on pixels in [0, 1]; 0 < sigma ≤ 78.7, the noisiest step of the schedule.

    Returns:
        t in 1…999, counted from 0 as guided-diffusion does.

    Raises:
        ValueError: sigma is not finite, not positive, or beyond the schedule.
    """
    bars = alpha_bars()
    noise_levels = np.sqrt((1.0 - bars) / bars)
    largest = float(noise_levels[-1]) / 2.0
    if not (math.isfinite(sigma) and 0.0 < sigma <= largest):
        raise ValueError(
            f"wanted sigma with 0 < sigma <= {largest:.1f} on pixels in [0, 1], got {sigma!r}; "
            "without noise there is nothing to denoise: leave the purifier out"
        )
    return max(1, int(np.searchsorted(noise_levels, 2.0 * sigma, side="left")))


@dataclass(frozen=True)
class Denoise:
    """One denoising step at a fixed noise level.

    x_t = scale·v + offset, with v the noisy grid values (0…255, and beyond where the noise leads);
    x₀ = a·x_t − b·ε̂, and the purified image is (clamp(x₀, −1, 1) + 1) / 2.

    Attributes:
        t: timestep, counted from 0.
        alpha_bar: ᾱ_t.
    """

    t: int
    alpha_bar: float

    @classmethod
    def at_sigma(cls, sigma: float) -> Denoise:
        """Return the step at t_star(sigma); raises ValueError as `t_star` does."""
        t = t_star(sigma)
        return cls(t, float(alpha_bars()[t]))

    @property
    def scale(self) -> float:
        """√ᾱ·2/255."""
        return math.sqrt(self.alpha_bar) * 2.0 / 255.0

    @property
    def offset(self) -> float:
        """−√ᾱ."""
        return -math.sqrt(self.alpha_bar)

    @property
    def a(self) -> float:
        """1/√ᾱ."""
        return 1.0 / math.sqrt(self.alpha_bar)

    @property
    def b(self) -> float:
        """√(1/ᾱ − 1), without cancellation where ᾱ is near 1."""
        return math.sqrt((1.0 - self.alpha_bar) / self.alpha_bar)

    def noisy(self, levels: Any) -> Any:
        """Return x_t of noisy grid values; NumPy's arrays and torch's tensors alike."""
        return self.scale * levels + self.offset

    def purified(self, x_t: Any, eps_hat: Any) -> Any:
        """Return the purified image in [0, 1]; NumPy's arrays and torch's tensors alike."""
        return ((self.a * x_t - self.b * eps_hat).clip(-1.0, 1.0) + 1.0) / 2.0


def grid_scaling(denoise: Denoise | None, mean: np.ndarray, std: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return scale and offset per channel, [3] float64: the first network sees scale·v + offset of grid value v.

    Args:
        denoise: the purifier's step, or None without one: then the encoder sees normalised pixels.
        mean, std: [3], the encoder's normalisation in [0, 1] units.
    """
    if denoise is not None:
        return np.full(3, denoise.scale), np.full(3, denoise.offset)
    return 1 / (255 * std), -mean / std
