"""Names for smoothed features in the caches of hosts."""

from __future__ import annotations

from hashlib import sha256

from fsfast.integrations.projector import Projector
from fsfast.runtime.features import SmoothedFeatures


def cache_id(out: SmoothedFeatures, i: int = 0, projector: Projector | None = None) -> str:
    """Return a name for one image's features, which no other features have: smoothed and plain never mix.

    It covers the function (engine, back end, precision), σ, n0, the seed, the pixels on the grid, and the projector.

    Args:
        out: of `SmoothedEncoder.encode` or `fsfast.Client.encode`.
        i: which image of it.
        projector: needed where language models share a cache.

    Returns:
        letters, digits, "." and "-" alone; fit for a path.
    """
    facts = {
        "function_id": out.function_id,
        "engine_digest": out.engine_digest,
        "sigma": float(out.sigma),
        "n0": int(out.n0),
        "seed": int(out.seeds[i]),
        "output": "features",
        "grid_sha256": out.grid_sha256[i],
        "projector": projector.digest if projector else None,
    }
    text = "".join(f"{name}={value!r}\n" for name, value in facts.items())
    return f"fsfast-s{out.sigma:g}-n{out.n0}-{sha256(text.encode()).hexdigest()}"
