"""Checks of kernel arguments: what was wanted, what came, and the remedy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fsfast.kernels.types import STORAGE, AxisTable, FeatureSums, NoiseTables, Rows, dtype_name

# A 32-bit counter numbers blocks of four elements.
MAX_ELEMENTS = 4 * 2**32


def check_array(name: str, array: np.ndarray, dtype: type, shape: Sequence[int | None]) -> None:
    """Raise TypeError or ValueError unless `array` has this dtype and shape; None stands for any length."""
    if not isinstance(array, np.ndarray):
        raise TypeError(
            f"{name}: wanted a NumPy array, got {type(array).__name__}; convert with np.asarray()"
        )
    if array.dtype != dtype:
        wanted = np.dtype(dtype).name
        raise TypeError(f"{name}: wanted {wanted}, got {array.dtype}; convert with .astype(np.{wanted})")
    _check_shape(name, array, shape)


def check_floats(name: str, array: np.ndarray, shape: Sequence[int | None]) -> None:
    """Raise TypeError or ValueError unless `array` is a tensor type of this shape."""
    if not isinstance(array, np.ndarray):
        raise TypeError(
            f"{name}: wanted a NumPy array, got {type(array).__name__}; convert with np.asarray()"
        )
    try:
        dtype_name(array)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None
    _check_shape(name, array, shape)
    if not array.flags.aligned:
        raise ValueError(f"{name}: wanted an aligned array; pass a copy")


def _check_shape(name: str, array: np.ndarray, shape: Sequence[int | None]) -> None:
    matches = array.ndim == len(shape) and all(
        want is None or want == got for want, got in zip(shape, array.shape, strict=True)
    )
    if not matches:
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"{name}: wanted shape [{wanted}], got {list(array.shape)}")


def check_packed(name: str, array: np.ndarray) -> None:
    """Raise ValueError unless `array` is C-contiguous and aligned."""
    if not (array.flags.c_contiguous and array.flags.aligned):
        raise ValueError(f"{name}: wanted a C-contiguous array; pass np.ascontiguousarray(…)")


def check_rows(rows: Rows, images: int) -> None:
    """Raise TypeError or ValueError unless `rows` is consistent and refers to `images` images."""
    m = len(rows.image)
    for name, dtype in (("image", np.int32), ("seed", np.uint64), ("sample", np.uint32)):
        check_array(f"rows.{name}", getattr(rows, name), dtype, (m,))
        check_packed(f"rows.{name}", getattr(rows, name))
    if m and not (rows.image.min() >= -1 and rows.image.max() < images):
        raise ValueError(
            f"rows.image: wanted indices from −1 (padding) to {images - 1}, got {rows.image.min()} to "
            f"{rows.image.max()}"
        )


def check_noise(noise: NoiseTables) -> None:
    """Raise TypeError or ValueError unless the tables fit each other."""
    count = len(noise.thresholds)
    check_array("noise.thresholds", noise.thresholds, np.uint64, (count,))
    check_array("noise.guide", noise.guide, np.uint32, (None,))
    check_floats("noise.values", noise.values, (3, 256 + count))
    check_array("noise.lines", noise.lines, np.float32, (3 if len(noise.lines) else 0, 5))
    for name in ("thresholds", "guide", "values", "lines"):
        check_packed(f"noise.{name}", getattr(noise, name))


def check_axis(name: str, table: AxisTable, size: int) -> None:
    """Raise TypeError or ValueError unless the table resizes an axis of `size` pixels."""
    out = len(table.start)
    check_array(f"{name}.start", table.start, np.int32, (out,))
    check_array(f"{name}.weights", table.weights, np.float32, (out, None))
    check_packed(f"{name}.start", table.start)
    check_packed(f"{name}.weights", table.weights)
    if table.size != size:
        raise ValueError(
            f"{name}: made for {table.size} input pixels, got {size}; build it with resize_tables()"
        )
    if out == 0 or table.weights.shape[1] == 0 or table.start.min() < 0 or table.start.max() >= size:
        raise ValueError(f"{name}: reads outside of {size} pixels; build it with resize_tables()")


def check_sums(sums: FeatureSums, images: int | None, tokens: int, dim: int) -> int:
    """Raise TypeError or ValueError unless `sums` fits; return its number of images."""
    if images is None:
        images = len(sums.count)
    check_array("sums.count", sums.count, np.int64, (images,))
    arrays = {"unit": (images, tokens, dim), "norm": (images, tokens)}
    if sums.raw is not None:
        arrays["raw"] = (images, tokens, dim)
    for name, shape in arrays.items():
        check_array(f"sums.{name}", getattr(sums, name), np.float64, shape)
        check_packed(f"sums.{name}", getattr(sums, name))
    return images


def new_or_given(out: np.ndarray | None, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Return `out` if it is a writable contiguous array of this dtype and shape, or a new one for None."""
    if out is None:
        return np.empty(shape, dtype)
    check_array("out", out, dtype.type, shape)
    check_packed("out", out)
    if not out.flags.writeable:
        raise ValueError("out: wanted a writable array")
    return out


def check_choices(layout: str, threads: int, dtype: str = "float32") -> None:
    """Raise ValueError unless the options are known."""
    if layout not in ("nchw", "nhwc"):
        raise ValueError(f"layout: wanted 'nchw' or 'nhwc', got {layout!r}")
    if threads < 1:
        raise ValueError(f"threads: wanted at least 1, got {threads}")
    if dtype not in STORAGE:
        raise ValueError(f"dtype: wanted one of {', '.join(STORAGE)}, got {dtype!r}")
