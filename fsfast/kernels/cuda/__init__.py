"""The three kernels in Triton, for CUDA GPUs: the same functions as in `fsfast.kernels.cpu`, on torch tensors.

`fsfast.kernels.library` offers them to torch.compile and torch.export under names that work on the CPU, too.
"""

from __future__ import annotations

from fsfast.errors import BackendUnavailable

try:
    import torch  # noqa: F401
    import triton  # noqa: F401
except ImportError as error:
    raise BackendUnavailable(
        f"the GPU kernels of fsfast need torch and Triton ({error}); on Linux run pip install torch triton"
    ) from error

from fsfast.kernels.cuda.cosine_mean import cosine_mean
from fsfast.kernels.cuda.denoise_resize_normalise import denoise_resize_normalise
from fsfast.kernels.cuda.noisy_batch import noisy_batch

__all__ = ["cosine_mean", "denoise_resize_normalise", "noisy_batch"]
