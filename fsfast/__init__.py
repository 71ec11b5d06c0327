"""Vision features that come with a mathematical guarantee against attack, served fast.

>>> import fsfast
>>> enc = fsfast.SmoothedEncoder("demo")
>>> features = enc.encode("photo.jpg").features
>>> certificate = enc.certify("photo.jpg", n=1000, alpha=1e-3)
>>> certificate.cosine(0.25)
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fsfast._version import __version__
from fsfast.errors import (
    BackendUnavailable,
    CertificateError,
    EngineError,
    FsfastError,
    ImageError,
    ReplicasDiffer,
    ServerError,
)

if TYPE_CHECKING:
    from fsfast.certificates.certificate import Certificate
    from fsfast.certificates.lines import load_certificates
    from fsfast.certificates.reading import load_certificate
    from fsfast.certificates.replay import Verification
    from fsfast.client import AsyncClient, Client
    from fsfast.encoder import SmoothedEncoder
    from fsfast.images.arrays import from_pixel_values
    from fsfast.runtime.feature_folder import FeatureFolder
    from fsfast.runtime.features import SmoothedFeatures, load_features
    from fsfast.runtime.many import Outcome

__all__ = [
    "AsyncClient",
    "BackendUnavailable",
    "Certificate",
    "CertificateError",
    "Client",
    "EngineError",
    "FeatureFolder",
    "FsfastError",
    "ImageError",
    "Outcome",
    "ReplicasDiffer",
    "ServerError",
    "SmoothedEncoder",
    "SmoothedFeatures",
    "Verification",
    "__version__",
    "from_pixel_values",
    "load_certificate",
    "load_certificates",
    "load_features",
]

# Also for code that imports ONNX Runtime after fsfast, but not through it: see fsfast.backends.quiet.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Imported on first use: a server that only encodes never pays for SciPy.
_HOME = {
    "AsyncClient": "client",
    "Client": "client",
    "SmoothedEncoder": "encoder",
    "SmoothedFeatures": "runtime.features",
    "load_features": "runtime.features",
    "FeatureFolder": "runtime.feature_folder",
    "Outcome": "runtime.many",
    "from_pixel_values": "images.arrays",
    "Certificate": "certificates.certificate",
    "Verification": "certificates.replay",
    "load_certificate": "certificates.reading",
    "load_certificates": "certificates.lines",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fsfast' has no attribute {name!r}")
    return getattr(import_module(f"fsfast.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
