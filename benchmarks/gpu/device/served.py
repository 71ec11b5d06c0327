"""The kernels in the shapes and types in which adm256 and ViT-L/14 are served, each beside its ceiling."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from benchmarks.gpu import kernels, parts
from benchmarks.gpu.device.place import Place
from benchmarks.gpu.device.rows import guarded
from benchmarks.measuring.harness import Row


def served(
    place: Place,
    sizes: Sequence[int] = (4, 16),
    sides: tuple[int, int] = (256, 336),
    tokens: tuple[int, int] = (576, 1024),
    norms: Sequence[tuple[Any, ...]] = parts.NORM_SHAPES,
) -> Iterator[Any]:
    """Measure the kernels around the networks, and group_norm_silu; without torch.compile, which takes minutes.

    Args:
        place: where.
        sizes: M.
        sides: of the grid and of the encoder's input.
        tokens: L and D.
        norms: as `benchmarks.gpu.parts.NORM_SHAPES`.
    """
    cases: dict[str, Callable[..., Iterator[Row]]] = {}
    for m in sizes:
        around: dict[str, Any] = {"dtypes": ["float32"], "layouts": ["nhwc"]}
        cases[f"noisy_batch, M={m}"] = partial(kernels.noise, m=m, side=sides[0], **around)
        cases[f"denoise_resize_normalise, M={m}"] = partial(kernels.resize, m=m, sizes=[sides])
        cases[f"cosine_mean, M={m}"] = partial(kernels.reduction, shapes=[(m, *tokens, 1, "bfloat16")])
    for shape in norms:
        cases[f"group_norm_silu, {shape}"] = partial(parts.norms, shapes=[shape])
    for case, measure in cases.items():
        yield from guarded(case, partial(measure, str(place.device), compile=None))
