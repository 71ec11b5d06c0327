"""Arrays and tensors become [..., 3] uint8: levels as they are, floats where they lie on the 1/255 grid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np

from fsfast.errors import ImageError
from fsfast.images.decoding import refusal

# Floats must lie this close to a multiple of 1/255, in levels.
GRID_TOLERANCE = 1e-3
# Normalised pixels in float16, whose last bit is worth up to .07 levels with the means and deviations of CLIP, SigLIP
# and ImageNet.
HALF_TOLERANCE = 0.1

_HALF = "half precision cannot hold multiples of 1/255; keep the float32 or uint8 original"


def from_pixel_values(x: Any, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Undo the normalisation of an image processor: v = 255(x·std + mean), which must be whole numbers.

    Args:
        x: [B, 3, H, W] or [3, H, W] array or tensor, float16, float32 or float64: (v/255 − mean)/std.
        mean: 3 numbers, in [0, 1] units.
        std: 3 positive numbers.

    Returns:
        uint8 [B, H, W, 3], or [H, W, 3] for [3, H, W].

    Raises:
        ImageError: wrong dtype (bfloat16 cannot tell neighbouring levels apart), wrong shape, NaN, outside 0 … 255, or
            more than 1e-3 levels off the grid, 0.1 in float16 (a wrong mean or std, or a resize in floats).
        TypeError: not an array or tensor.
        ValueError: mean or std is not 3 finite numbers, or std is not positive.

    Float32 inputs are off the grid by less than 1e-4 levels, float16 ones by less than .07 (all 256 levels with CLIP's
    constants; tested).
    """
    values, _ = as_numpy(x)
    half = values.dtype == np.float16
    _check_float(values.astype(np.float32) if half else values, "pixel values")
    shift, scale = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    if not (shift.shape == scale.shape == (3,) and np.isfinite([shift, scale]).all() and scale.min() > 0.0):
        raise ValueError(f"wanted mean and std as 3 finite numbers each, std > 0; got mean {mean}, std {std}")
    if values.ndim not in (3, 4) or values.shape[-3] != 3 or 0 in values.shape:
        raise refusal(
            "pixel values [B, 3, H, W] or [3, H, W] with no axis of length 0",
            f"shape {list(values.shape)}",
            "channels come first here; images [H, W, 3] need no undoing if they are uint8",
        )
    levels = 255.0 * (np.moveaxis(values, -3, -1).astype(np.float64) * scale + shift)
    return _whole_levels(
        levels,
        "pass the mean and std that the image processor used, or the original images in place of x",
        HALF_TOLERANCE if half else GRID_TOLERANCE,
    )


def decode_array(image: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the pixels [h, w, 3] uint8 of an array or tensor, and the source record.

    Raises:
        ImageError: wrong dtype, shape or range, NaN, or floats off the 1/255 grid.
        TypeError: not a kind of object that holds an image.
    """
    values, kind = as_numpy(image)
    shape = list(values.shape)
    if len(shape) != 3 or shape[-1] != 3:
        raise wrong_shape("an image [H, W, 3]", values)
    if 0 in shape:
        raise refusal("an image with pixels", f"shape {shape}", "check how it was made")
    steps: list[str] = []
    source: dict[str, Any] = {"kind": kind, "size": shape[:2], "mode": str(values.dtype), "steps": steps}
    if values.dtype == np.uint8:
        return values, source
    _check_float(values, "uint8 pixels, or floats")
    low, high = float(values.min()), float(values.max())
    if low < -0.5 or high > 1.5:
        remedy = "pass levels 0 … 255 as uint8, normalised pixels through fsfast.from_pixel_values"
        raise refusal("floats in [0, 1]", f"{low:g} … {high:g}", remedy)
    steps.append("floats read as multiples of 1/255")
    remedy = "round them yourself and pass uint8: np.rint(255 * x).astype(np.uint8)"
    return _whole_levels(255.0 * values.astype(np.float64), remedy), source


def as_numpy(x: Any) -> tuple[np.ndarray, str]:
    """Return the values as a NumPy array, and "array" or "tensor"; torch is recognised, never imported."""
    if isinstance(x, np.ndarray):
        return x, "array"
    try:
        if all(hasattr(x, method) for method in ("detach", "cpu", "numpy")):
            if "bfloat16" in str(x.dtype):
                raise refusal("pixels of full precision", f"bfloat16 {list(x.shape)}", _HALF)
            return x.detach().cpu().numpy(), "tensor"
        if hasattr(x, "__array__"):
            return np.asarray(x), "array"
        if hasattr(x, "__dlpack__"):
            return np.from_dlpack(x), "array"
    except (TypeError, RuntimeError, BufferError) as error:
        raise TypeError(f"wanted a dense array or tensor, got one that NumPy cannot read: {error}") from error
    raise TypeError(
        "wanted a path, bytes or an open file, a PIL image, an array or tensor, or a list of these; got "
        f"{type(x).__name__}{_kind_remedy(x)}"
    )


def _kind_remedy(x: Any) -> str:
    """Say what to do about an object that holds images and is none: the end of a sentence."""
    if isinstance(x, Mapping):
        if "pixel_values" in x:
            return "; pass its entry 'pixel_values' through fsfast.from_pixel_values"
        # Rows of data sets; an encoded image is {"bytes": …, "path": …} there, and either may be None.
        found = [key for key in ("image", "img", "bytes", "path") if x.get(key) is not None]
        return f"; pass its entry {found[0]!r}" if found else "; pass the images in it as a list"
    if isinstance(x, Set):
        return ", which has no order; pass a list"
    return "; pass list(images)" if isinstance(x, Iterable) else ""


def _check_float(values: np.ndarray, wanted: str) -> None:
    """Refuse arrays [..., ] that are not float32 or wider, or not finite."""
    if values.dtype.kind != "f" or values.dtype.itemsize < 4:
        if "float16" in str(values.dtype):
            remedy = _HALF
        elif values.dtype == np.bool_:
            remedy = "for a black and white image pass 255 * x.astype(np.uint8)"
        else:
            remedy = "if the levels are 0 … 255, convert with .astype(np.uint8)"
        raise refusal(f"{wanted} as float32 or float64", str(values.dtype), remedy)
    wrong = int((~np.isfinite(values)).sum())
    if wrong:
        raise refusal("finite pixels", f"{wrong} of {values.size} NaN or infinite", "repair their source")


def wrong_shape(wanted: str, x: Any, batch: int = 0) -> ImageError:
    """Return the error about an array or tensor of another shape; `batch` leading axes are right."""
    dtype, shape = str(getattr(x, "dtype", type(x).__name__)).removeprefix("torch."), tuple(x.shape)
    return refusal(wanted, f"{dtype} of shape {list(shape)}", _shape_remedy(shape[batch:], batch, dtype))


def _shape_remedy(shape: tuple[int, ...], batch: int, dtype: str) -> str:
    if dtype.startswith(("object", "<U", "|S", "StringDType")):
        return "an array of paths or images is passed as a list: x.tolist()"
    if len(shape) == 2:
        return "for a grey image repeat the channel: np.stack([x] * 3, axis=-1)"
    if len(shape) != 3:
        return "pass one image [H, W, 3] or a batch [B, H, W, 3]"
    if shape[-1] == 1:
        return "for a grey image repeat the channel: np.repeat(x, 3, axis=-1)"
    if shape[-1] == 4:
        return (
            "drop the alpha channel with x[..., :3], or pass PIL.Image.fromarray(x), composed on white here"
        )
    if shape[0] in (1, 3, 4):
        order = (0, 2, 3, 1) if batch else (1, 2, 0)
        remedy = f"channels come last: x.permute{order} for a tensor, np.transpose(x, {order}) for an array"
        if "float16" in dtype:
            remedy += f"; {_HALF}"
        elif "float" in dtype:
            remedy += "; what an image processor normalised goes through fsfast.from_pixel_values instead"
        return remedy
    return "the last axis holds red, green and blue"


def _whole_levels(levels: np.ndarray, remedy: str, tolerance: float = GRID_TOLERANCE) -> np.ndarray:
    """Return finite `levels` [..., 3] as uint8; all must be whole numbers in 0 … 255 within the tolerance."""
    nearest = np.clip(np.rint(levels), 0.0, 255.0)
    deviation = np.abs(levels - nearest)
    off = int((deviation > tolerance).sum())
    if off:
        raise refusal(
            f"multiples of 1/255 in [0, 1], within {tolerance} levels",
            f"{off} of {levels.size} values off the grid, the worst by {deviation.max():.3g} levels",
            remedy,
        )
    return nearest.astype(np.uint8)
