"""The purifier for photographs that comes with fsfast, a file for each of its noise levels: `--purifier photo`."""

from __future__ import annotations

from pathlib import Path

import fsfast

NAME, PRESET, LICENCE = "photo", "drunet-light", "Apache-2.0"
FOLDER = Path(fsfast.__file__).parent / "assets" / "purifiers"


def shipped_purifier(sigma: float) -> Path:
    """Return the file of its weights.

    Args:
        sigma: noise level in [0,1] pixel units.

    Raises:
        ValueError: there is none for this noise level.
    """
    path = FOLDER / f"{PRESET}-{sigma:g}.safetensors"
    if path.is_file():
        return path
    there = sorted(
        float(file.stem.removeprefix(f"{PRESET}-")) for file in FOLDER.glob(f"{PRESET}-*.safetensors")
    )
    if not there:
        raise ValueError(
            f"this fsfast comes without the purifier {NAME}; give one of your own: --purifier FILE"
        )
    raise ValueError(
        f"the purifier {NAME} is made for sigma = {' or '.join(f'{each:g}' for each in there)}, got {sigma:g}; choose "
        "with --sigma, or give a purifier of your own: --purifier FILE"
    )
