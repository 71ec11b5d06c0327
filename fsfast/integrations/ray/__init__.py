"""Ray: `serve` makes replicas of an engine, `data` takes data sets through it.

>>> serve.run(deployment("engines/llava", max_replicas=4))
>>> encode_dataset("s3://bucket/photos", "s3://bucket/features", engine="engines/llava", workers=4)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fsfast.integrations.ray.data import certify_dataset, encode_dataset
    from fsfast.integrations.ray.serve import app, deployment

__all__ = ["app", "certify_dataset", "deployment", "encode_dataset"]

# Each of them needs packages that the other does not.
_PLACES = {"app": "serve", "deployment": "serve", "encode_dataset": "data", "certify_dataset": "data"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
