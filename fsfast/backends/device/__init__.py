"""A GPU as torch sees it: a device with its stream, memory and arithmetic, and networks that run there.

Importing it needs torch: BackendUnavailable says so where it is missing.
"""

from fsfast.errors import BackendUnavailable
from fsfast.installation import pip

try:
    import torch  # noqa: F401
except ImportError as error:
    raise BackendUnavailable(
        f"device='cuda' needs torch built for CUDA ({error}); {pip('install', 'torch', 'triton')}"
    ) from None
