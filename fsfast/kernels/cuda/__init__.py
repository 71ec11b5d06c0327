"""The kernels in Triton, for CUDA GPUs.

`noisy_batch`, `denoise_resize_normalise` and `cosine_mean` are the functions of `fsfast.kernels.cpu`, on torch tensors.
`group_norm_silu`, `quick_gelu`, `layer_norm_conv` and `l2_norm_residual` are parts of the networks.

`fsfast.kernels.library` offers them to torch.compile and torch.export under names that work on the CPU, too.
"""

from __future__ import annotations

from fsfast.errors import BackendUnavailable
from fsfast.installation import pip

try:
    import torch  # noqa: F401
    import triton  # noqa: F401
except ImportError as error:
    raise BackendUnavailable(
        f"the GPU kernels of fsfast need torch and Triton ({error}); on Linux run {pip('install', 'torch', 'triton')}"
    ) from error

from fsfast.kernels.cuda.cosine_mean import cosine_mean
from fsfast.kernels.cuda.denoise_resize_normalise import denoise_resize_normalise
from fsfast.kernels.cuda.group_norm_silu import group_norm_silu
from fsfast.kernels.cuda.l2_norm_residual import l2_norm_residual
from fsfast.kernels.cuda.layer_norm_conv import layer_norm_conv
from fsfast.kernels.cuda.noisy_batch import noisy_batch
from fsfast.kernels.cuda.quick_gelu import quick_gelu

__all__ = [
    "cosine_mean",
    "denoise_resize_normalise",
    "group_norm_silu",
    "l2_norm_residual",
    "layer_norm_conv",
    "noisy_batch",
    "quick_gelu",
]
