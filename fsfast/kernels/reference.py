"""The three kernels in NumPy, in integers and float64: what the fast ones are compared with."""

from __future__ import annotations

import numpy as np

from fsfast.kernels.casts import from_float32, to_float32
from fsfast.kernels.types import AxisTable, Dtype, FeatureSums, Layout, NoiseTables, ResizeTables, Rows

_LOW32 = np.uint64(0xFFFFFFFF)


def philox(seed: int, counters: np.ndarray) -> np.ndarray:
    """Return Philox4x32-10 of 128-bit counters under a 64-bit key.

    Args:
        seed: the key; its low 32 bits are the first key word.
        counters: [..., 4] uint32.

    Returns:
        [..., 4] uint32.
    """
    c0, c1, c2, c3 = np.moveaxis(counters.astype(np.uint64), -1, 0)
    for round_ in range(10):
        k0 = np.uint64((seed + round_ * 0x9E3779B9) & 0xFFFFFFFF)
        k1 = np.uint64(((seed >> 32) + round_ * 0xBB67AE85) & 0xFFFFFFFF)
        product0, product1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (
            (product1 >> np.uint64(32)) ^ c1 ^ k0,
            product1 & _LOW32,
            (product0 >> np.uint64(32)) ^ c3 ^ k1,
            product0 & _LOW32,
        )
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def uniform_bits(seed: int, sample: int, stream: int, elements: int) -> np.ndarray:
    """Return U, the 64 uniform bits of every element of one noise vector, [elements] uint64."""
    blocks = -(-elements // 4)
    counters = np.zeros((2, blocks, 4), np.uint32)
    counters[..., 0] = np.arange(blocks)
    counters[..., 1] = sample
    counters[..., 2] = stream
    counters[1, :, 3] = 1
    high, low = philox(seed, counters).reshape(2, -1)[:, :elements].astype(np.uint64)
    return high << np.uint64(32) | low


def noise(seed: int, sample: int, stream: int, elements: int, thresholds: np.ndarray) -> np.ndarray:
    """Return N = #{j: U ≥ T_j} − K of every element of one noise vector, [elements] int64."""
    uniform = uniform_bits(seed, sample, stream, elements)
    return np.searchsorted(thresholds, uniform, side="right") - len(thresholds) // 2


def noisy_batch(
    images: np.ndarray, rows: Rows, stream: int, noise_tables: NoiseTables, *, layout: Layout = "nchw"
) -> np.ndarray:
    """See `fsfast.kernels.cpu.noisy_batch`."""
    _, height, width, _ = images.shape
    out = np.zeros((len(rows), 3, height, width), noise_tables.values.dtype)
    for i in range(len(rows)):
        if rows.image[i] < 0:
            continue
        x = images[rows.image[i]].transpose(2, 0, 1).astype(np.int64)
        n = noise(int(rows.seed[i]), int(rows.sample[i]), stream, x.size, noise_tables.thresholds)
        level = x + n.reshape(x.shape) + noise_tables.reach
        for c in range(3):
            out[i, c] = noise_tables.values[c, level[c]]
    return out if layout == "nchw" else np.ascontiguousarray(out.transpose(0, 2, 3, 1))


def _resize_rows(x: np.ndarray, table: AxisTable) -> np.ndarray:
    """Resize the last axis but one: out[i] = Σ_t weights[i, t] · x[start[i] + t]."""
    out = np.zeros((*x.shape[:-2], len(table.start), x.shape[-1]))
    for i, start in enumerate(table.start):
        for t, weight in enumerate(table.weights[i, : table.size - start]):
            out[..., i, :] += float(weight) * x[..., start + t, :]
    return out


def denoise_resize_normalise(
    x_t: np.ndarray,
    eps_hat: np.ndarray | None,
    denoise: tuple[float, float],
    resize: ResizeTables,
    mean: np.ndarray,
    std: np.ndarray,
    *,
    dtype: Dtype = "float32",
    layout: Layout = "nchw",
) -> np.ndarray:
    """See `fsfast.kernels.cpu.denoise_resize_normalise`."""
    a, b = denoise
    x0 = a * to_float32(x_t).astype(np.float64)
    if eps_hat is not None:
        x0 = x0 - b * to_float32(eps_hat[:, :3]).astype(np.float64)
    pixel = (np.clip(x0, -1, 1) + 1) / 2
    pixel = _resize_rows(pixel, resize.rows)
    pixel = _resize_rows(pixel.swapaxes(2, 3), resize.columns).swapaxes(2, 3)
    normalised = (pixel - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    out = from_float32(normalised.astype(np.float32), dtype)
    return np.ascontiguousarray(out if layout == "nchw" else out.transpose(0, 2, 3, 1))


def cosine_mean(
    features: np.ndarray,
    rows: Rows,
    sums: FeatureSums | None,
    *,
    anchor: np.ndarray | None = None,
    per_token: bool = False,
) -> np.ndarray | None:
    """See `fsfast.kernels.cpu.cosine_mean`."""
    m, tokens, dim = features.shape
    dots = np.full((m, tokens), np.nan)
    for i in range(m):
        b = rows.image[i]
        if b < 0:
            continue
        token = to_float32(features[i]).astype(np.float64)  # [L, D]
        token[~np.isfinite(token).all(1)] = 0
        norm = np.sqrt((token**2).sum(1))
        unit = token / np.where(norm > 0, norm, 1)[:, None]
        if sums is not None:
            sums.unit[b] += unit
            sums.norm[b] += norm
            sums.count[b] += 1
            if sums.raw is not None:
                sums.raw[b] += token
        if anchor is not None:
            dots[i] = (unit * anchor[b]).sum(1)
    if anchor is None:
        return None
    if per_token:
        return np.maximum((1 + dots) / 2 - (dim + 8) * 2.0**-52, 0)
    return np.maximum((1 + dots.sum(1) / tokens) / 2 - (tokens * dim + 8) * 2.0**-52, 0)
