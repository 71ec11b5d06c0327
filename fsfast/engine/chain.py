"""What stands before and between an engine's networks on a CPU: noise, and the way from purifier to encoder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fsfast.engine.engine import Engine
from fsfast.engine.schedule import Denoise, grid_scaling
from fsfast.kernels import denoise_resize_normalise, noise_tables, noisy_batch, resize_tables
from fsfast.kernels.types import NoiseTables, ResizeTables, Rows


def scaled_noise(
    thresholds: np.ndarray, denoise: Denoise | None, mean: tuple[float, ...], std: tuple[float, ...]
) -> NoiseTables:
    """Return the noise table, scaled for the first network; arguments as those of `Chain.of`."""
    return noise_tables(thresholds, *grid_scaling(denoise, np.array(mean), np.array(std)), "float32")


def levels_alone(noise: NoiseTables) -> NoiseTables:
    """Return the table with which the noise kernel writes the grid levels themselves: scale 1, offset 0."""
    return noise_tables(noise.thresholds, np.ones(3), np.zeros(3), "float32")


@dataclass(frozen=True, eq=False)
class Chain:
    """The kernels around the networks, with an engine's constants.

    Attributes:
        denoise: the purifier's step, or None without one.
        noise: the noise table, scaled for the first network.
        resize: from the grid to the encoder's input.
        mean, std: [3] float64, of the encoder's input in [0, 1] units.
    """

    denoise: Denoise | None
    noise: NoiseTables
    resize: ResizeTables
    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(
        cls,
        thresholds: np.ndarray,
        denoise: Denoise | None,
        sizes: tuple[tuple[int, int], tuple[int, int]],
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> Chain:
        """Return the chain of these constants.

        Args:
            thresholds: of the noise table.
            denoise: as the attribute.
            sizes: (height, width) of the grid, and of the encoder's input.
            mean, std: three numbers each.
        """
        noise = scaled_noise(thresholds, denoise, mean, std)
        return cls(denoise, noise, resize_tables(*sizes), np.array(mean), np.array(std))

    @classmethod
    def of_engine(cls, engine: Engine, *, purifier: bool) -> Chain:
        """Return the chain of an engine, with its purifier or without."""
        manifest = engine.manifest
        denoise = manifest.denoise if purifier else None
        sizes = (manifest.grid.size, manifest.encoder_size)
        return cls.of(engine.thresholds, denoise, sizes, manifest.mean, manifest.std)

    def noisy(self, images: np.ndarray, rows: Rows, stream: int, out: np.ndarray | None = None) -> np.ndarray:
        """Return what the first network sees of rows, [M, 3, H, W] float32: x_t, or without a purifier pixels."""
        return noisy_batch(images, rows, stream, self.noise, out=out)

    def pixels(self, x_t: np.ndarray, eps_hat: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return the encoder's input of x_t and the purifier's answer, [M, 3, h, w] float32."""
        assert self.denoise is not None
        return self._fitted(x_t, eps_hat, (self.denoise.a, self.denoise.b), out)

    def clean_pixels(self, signed: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return the encoder's input of images without noise, [M, 3, H, W] float32 in [−1, 1]."""
        return self._fitted(signed, None, (1.0, 0.0), out)

    def passed_on(self, stage: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the next network's input, from the input and the output of a stage."""
        return self.pixels(x, y) if stage == "purifier" else y

    def _fitted(
        self,
        x_t: np.ndarray,
        eps_hat: np.ndarray | None,
        denoise: tuple[float, float],
        out: np.ndarray | None,
    ) -> np.ndarray:
        return denoise_resize_normalise(x_t, eps_hat, denoise, self.resize, self.mean, self.std, out=out)
