"""At what scale this machine can run the paper's latency study (Table S.8)."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

# LLaVA-1.5-7B in bfloat16, the encoder with adm256, and room for sixteen rows.
_BYTES = 26e9


@dataclass(frozen=True)
class Scale:
    """What is run.

    Attributes:
        text: for people.
        language_model: LLaVA-1.5-7B's shapes behind the encoder, on a GPU.
    """

    text: str
    language_model: bool


def chosen() -> Scale:
    """Return the largest scale that this machine allows, and why not a larger one."""
    if why := _no_language_model():
        return Scale(f"an engine on the CPU, without a language model ({why})", False)
    return Scale("LLaVA-1.5-7B's shapes behind ViT-L/14-336, on the GPU, and an engine on the CPU", True)


def _no_language_model() -> str | None:
    import torch

    from fsfast.backends.device.place import problems

    if found := problems():
        return found[0]
    free, _ = torch.cuda.mem_get_info()
    if free < _BYTES:
        return f"{free / 1e9:.0f} GB of GPU memory are free, {_BYTES / 1e9:.0f} GB are needed"
    return None if find_spec("transformers") else "transformers is not installed"
