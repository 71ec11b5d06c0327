"""The purifier for photographs that comes with fsfast, an engine for each noise level has it: `--purifier photo`."""

from __future__ import annotations

from pathlib import Path

from fsfast.engine.engine import BUILT_IN, load_engine

NAME, PRESET = "photo", "drunet-light"


def shipped_purifier(sigma: float) -> Path:
    """Return the built-in engine that has it.

    Args:
        sigma: noise level in [0,1] pixel units.

    Raises:
        ValueError: there is none for this noise level.
    """
    engines = {load_engine(path).manifest.sigma: path for path in sorted(BUILT_IN.glob(f"{NAME}*"))}
    if sigma in engines:
        return engines[sigma]
    if not engines:
        raise ValueError(
            f"this fsfast comes without the purifier {NAME}; give one of your own: --purifier FILE"
        )
    there = " or ".join(f"{each:g}" for each in sorted(engines))
    raise ValueError(
        f"the purifier {NAME} is made for sigma = {there}, got {sigma:g}; choose with --sigma, or give a purifier of "
        "your own: --purifier FILE"
    )
