"""What a finished training run's folder holds, as whoever builds an engine from it reads it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

# Of the rows of the class directions: ten digits, and a mark that only ever serves as the target of attacks.
CLASS_NAMES = (*(str(digit) for digit in range(10)), "star")


@dataclass(frozen=True)
class Weights:
    """The weights of a finished run, on the CPU.

    Attributes:
        encoder: state dict of VisionTransformer.
        class_features: [11, D], the directions of the classes; the score of class k is the mean over tokens
            of the cosine with row k.
        purifier: state dict of UNet.
        mapper: state dict of SmoothnessMapper.
        mapper_alone: the same, trained without a purifier, for the ablation; an engine does not have it.
    """

    encoder: dict[str, Tensor]
    class_features: Tensor
    purifier: dict[str, Tensor]
    mapper: dict[str, Tensor]
    mapper_alone: dict[str, Tensor]


def load_run(folder: Path) -> Weights:
    """Read the weights of a finished run.

    Raises:
        ValueError: a file is missing.
    """
    encoder = load_weights(folder / "encoder.safetensors")
    classes = load_weights(folder / "class_features.safetensors")["class_features"]
    others = (load_weights(folder / f"{name}.safetensors") for name in ("purifier", "mapper", "mapper-alone"))
    return Weights(encoder, classes, *others)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read finished weights.

    Raises:
        ValueError: there are none.
    """
    if not path.exists():
        raise ValueError(f"wanted trained weights at {path}, got no file; run: python -m train demo")
    return load_file(path)
