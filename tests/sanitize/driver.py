"""Calls the sanitized extension: `python -m tests.sanitize.driver EXTENSION CASES`; a sanitizer ends the process."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np


def load(path: str) -> Any:
    """Put the sanitized extension in the place of the package's own."""
    spec = importlib.util.spec_from_file_location("fsfast.kernels._cpu", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fsfast.kernels._cpu"] = module
    spec.loader.exec_module(module)
    return module


def strided(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return an array of a shape, with random contents and strides."""
    axes = rng.permutation(len(shape))
    steps = rng.integers(1, 3, len(shape))
    whole = [int(shape[a]) * int(steps[a]) for a in axes]
    data = np.frombuffer(rng.bytes(int(np.prod(whole)) * np.dtype(dtype).itemsize), dtype).reshape(whole)
    view = data.transpose(np.argsort(axes))
    return view[tuple(slice(None, int(s) * int(n), int(s)) for s, n in zip(steps, shape, strict=True))]


class Calls:
    """Random calls; `rng` decides all."""

    def __init__(self, rng: np.random.Generator, module: Any):
        from export.thresholds import gaussian_thresholds
        from fsfast.kernels import cpu, noise_tables, resize_tables
        from fsfast.kernels.types import FeatureSums, Rows

        self.rng, self.module, self.cpu, self.rows_of, self.sums = rng, module, cpu, Rows, FeatureSums
        self.resize_tables = resize_tables
        scale, offset = np.full(3, 2 / 255), np.full(3, -1.0)
        self.noise = {
            (sigma, dtype): noise_tables(gaussian_thresholds(sigma), scale, offset, dtype)
            for sigma in (0.05, 0.25, 4.0)
            for dtype in ("float32", "float16", "bfloat16")
        }

    def rows(self, count: int, images: int) -> Any:
        """Return random rows, some of them padding."""
        image = self.rng.integers(-1, images, count).astype(np.int32)
        seed = self.rng.integers(0, 2**64, count, np.uint64)
        return self.rows_of(image, seed, self.rng.integers(0, 2**32, count, np.uint32))

    def noisy_batch(self) -> None:
        """Noise on images of any size and strides."""
        rng = self.rng
        images = strided(rng, (int(rng.integers(1, 4)), *map(int, rng.integers(1, 70, 2)), 3), np.uint8)
        noise = list(self.noise.values())[int(rng.integers(len(self.noise)))]
        layout = ("nchw", "nhwc")[int(rng.integers(2))]
        rows = self.rows(int(rng.integers(1, 6)), len(images))
        self.cpu.noisy_batch(
            images, rows, int(rng.integers(4)), noise, layout=layout, threads=int(rng.integers(1, 4))
        )

    def denoise_resize_normalise(self) -> None:
        """Every type, with and without an estimate, from any size to any."""
        rng = self.rng
        m, h, w, oh, ow = (int(rng.integers(1, n)) for n in (4, 60, 60, 60, 60))
        dtypes = (np.float32, np.float16, np.uint16)
        x = strided(rng, (m, 3, h, w), dtypes[int(rng.integers(3))])
        eps = (
            None
            if rng.integers(2)
            else strided(rng, (m, int(rng.integers(3, 7)), h, w), dtypes[int(rng.integers(3))])
        )
        resize = self.resize_tables((h, w), (oh, ow) if rng.integers(3) else (h, w))
        dtype, layout = (str(rng.choice(c)) for c in (("float32", "float16", "bfloat16"), ("nchw", "nhwc")))
        mean, std = rng.random(3), rng.random(3) + 0.1
        self.cpu.denoise_resize_normalise(
            x, eps, (1.1, 0.3), resize, mean, std, dtype=dtype, layout=layout, threads=int(rng.integers(1, 4))
        )

    def cosine_mean(self) -> None:
        """Sums and scores of features of any length."""
        rng = self.rng
        m, tokens, dim, images = (int(rng.integers(1, n)) for n in (6, 20, 300, 4))
        features = np.frombuffer(rng.bytes(m * tokens * dim * 4), np.float32).reshape(m, tokens, dim)
        if rng.integers(2):
            features = features.view(np.uint16).reshape(m, tokens, 2 * dim)
            dim *= 2
        sums = self.sums.zeros(images, tokens, dim, raw=bool(rng.integers(2))) if rng.integers(2) else None
        anchor = rng.standard_normal((images, tokens, dim)) if sums is None or rng.integers(2) else None
        self.cpu.cosine_mean(
            features, self.rows(m, images), sums, anchor=anchor, per_token=bool(rng.integers(2)),
            threads=int(rng.integers(1, 4)),
        )  # fmt: skip

    def hostile(self) -> None:
        """The compiled functions themselves, with arguments that do not fit each other."""
        rng, noise = self.rng, self.noise[(0.25, "float32")]
        images = strided(rng, (2, 9, 7, 3), np.uint8)
        rows = self.rows(3, 2)
        out = np.zeros((3, 3, 9, 7), np.float32)
        common = {"threads": 1, "instruction_set": 0}
        noisy = {
            "images": images, "row_image": rows.image, "row_seed": rows.seed, "row_sample": rows.sample, "stream": 0,
            "thresholds": noise.thresholds, "guide": noise.guide, "values": noise.values, "lines": noise.lines,
            "layout": "nchw", "out": out, **common,
        }  # fmt: skip
        resize = self.resize_tables((9, 7), (5, 6))
        denoise = {
            "x_t": strided(rng, (2, 3, 9, 7), np.float32), "eps_hat": None, "a": 1.0, "b": 0.0,
            "row_start": resize.rows.start, "row_weights": resize.rows.weights,
            "column_start": resize.columns.start, "column_weights": resize.columns.weights,
            "mean": [0.5] * 3, "std": [0.5] * 3, "layout": "nchw", "out": np.zeros((2, 3, 5, 6), np.float32), **common,
        }  # fmt: skip
        cosine = {
            "features": rng.random((3, 4, 5), np.float32), "row_image": rows.image, "images": 2,
            "anchor": rng.random((2, 4, 5)), "unit": np.zeros((2, 4, 5)), "norm": np.zeros((2, 4)), "raw": None,
            "dots": np.zeros((3, 4)), **common,
        }  # fmt: skip
        name, arguments = [
            ("noisy_batch", noisy),
            ("denoise_resize_normalise", denoise),
            ("cosine_mean", cosine),
        ][int(rng.integers(3))]
        for key in rng.choice(sorted(arguments), int(rng.integers(1, 3)), replace=False):
            arguments[str(key)] = self.spoiled(arguments[str(key)])
        with suppress(ValueError, TypeError, RuntimeError, MemoryError):
            getattr(self.module, name)(**arguments)

    def spoiled(self, value: Any) -> Any:
        """Return something else in the place of an argument."""
        rng = self.rng
        if isinstance(value, np.ndarray) and rng.integers(3):
            choice = int(rng.integers(5))
            if choice == 0:
                return strided(
                    rng, tuple(int(d) for d in rng.integers(0, 9, int(rng.integers(0, 6)))), value.dtype
                )
            if choice == 1:
                return value.astype(str(rng.choice(["f4", "f8", "i4", "u1", "u2", "f2", "i8", "c8", "S3"])))
            if choice == 2 and value.size:
                changed = value.copy()
                changed.reshape(-1)[int(rng.integers(value.size))] = np.frombuffer(
                    rng.bytes(16), value.dtype
                )[0]
                return changed
            if choice == 3 and value.ndim:
                return value[:-1]
            return np.asfortranarray(value)
        odd = [
            None,
            -1,
            0,
            1 << 40,
            -(1 << 62),
            1 << 62,
            "nhwc",
            "x",
            [],
            [1.0],
            [0.0] * 3,
            [float("nan")] * 3,
            2.5,
            np.empty(0),
        ]
        return odd[int(rng.integers(len(odd)))]


def main(extension: str, cases: int) -> None:
    """Run so many calls of each kind."""
    calls = Calls(np.random.default_rng(0), load(extension))
    kinds: list[Callable[[], None]] = [
        calls.noisy_batch, calls.denoise_resize_normalise, calls.cosine_mean, calls.hostile,
    ]  # fmt: skip
    with np.errstate(all="ignore"):
        for _ in range(cases):
            for kind in kinds:
                kind()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
