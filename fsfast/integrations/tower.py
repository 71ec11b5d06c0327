"""A vision tower that is no network: pixel values in, smoothed features of an engine out."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from fsfast.encoder import SmoothedEncoder
from fsfast.errors import EngineError, FsfastError
from fsfast.integrations.packages import host_package
from fsfast.integrations.pixels import Form, to_levels
from fsfast.runtime.features import SmoothedFeatures
from fsfast.runtime.sampling import check_samples

host_package("torch", "transformers")

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402


@dataclass(frozen=True, eq=False)
class Handed:
    """What a tower handed to the language model at its last call.

    Attributes:
        images: [B, H, W, 3] uint8, on the grid; `encoder.certify(handed.images, served=handed.features)` certifies
            exactly what was handed on.
        features: of these images.
    """

    images: np.ndarray
    features: SmoothedFeatures


class SmoothedTower(nn.Module):
    """What the towers of all hosts share; a host's class gives `forward` its signature and calls `features`.

    It has no weights of its own; `to` moves a buffer that nothing else reads, so that the tower knows the model's type
    and place. It does not copy, pickle or save: an engine is opened, not loaded.

    Args:
        encoder: open.
        n0: samples per image; None: the engine's.
        clean: hand on the features of the plain encoder instead, which nothing protects: for comparisons.
        form: of the pixel values, see `fsfast.integrations.pixels`.
        digest: of the engine that is wanted, hex; None: whichever `encoder` has.

    Raises:
        EngineError: another digest.
        TypeError, ValueError: another argument is off.
    """

    _like: Tensor

    def __init__(
        self,
        encoder: SmoothedEncoder,
        n0: int | None = None,
        *,
        clean: bool = False,
        form: Form = "normalised",
        digest: str | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(encoder, SmoothedEncoder):
            raise TypeError(f"wanted an open fsfast.SmoothedEncoder, got {type(encoder).__name__}")
        if digest not in (None, encoder.engine_digest):
            raise EngineError(
                f"wanted the engine with digest {digest}, {encoder.engine_path} has {encoder.engine_digest}; open that "
                "engine, or pin this one where you trust it"
            )
        if clean is not True and clean is not False:
            raise TypeError(f"wanted clean to be True or False, got {clean!r}")
        if clean:
            warnings.warn(
                "clean=True: the features come without smoothing and without a guarantee", stacklevel=3
            )
        self.encoder, self.clean, self.form = encoder, clean, form
        self.n0 = encoder.n0 if n0 is None else check_samples(n0, "n0")
        self._handed: Handed | None = None
        self.register_buffer("_like", torch.zeros(()), persistent=False)
        self.register_state_dict_pre_hook(_refuse_saving)

    @property
    def dtype(self) -> torch.dtype:
        """The type to which hosts that ask cast pixel values: float32, unless levels travel, which any type holds."""
        return torch.float32 if self.form == "normalised" else self.features_dtype

    @property
    def features_dtype(self) -> torch.dtype:
        """The type of the features that are handed on: that of the model, by `to`."""
        return self._like.dtype

    @property
    def device(self) -> torch.device:
        """Where the model wants its pixel values; the engine runs where `encoder` was opened."""
        return self._like.device

    @property
    def handed(self) -> Handed:
        """The images and features of the last call.

        Raises:
            FsfastError: there was none, or its features were those of the plain encoder.
        """
        if self._handed is None:
            raise FsfastError("the tower has served no smoothed features; call the model with an image first")
        return self._handed

    @torch.compiler.disable
    def features(self, pixel_values: Tensor) -> Tensor:
        """Return the features of a batch, [B, L, D] on the device of `pixel_values`, in the type of the model.

        Images that stand in a batch more than once, as beams and returned sequences repeat them, are encoded once.

        Raises:
            ImageError, FsfastError: as `fsfast.integrations.pixels.to_levels`, and `SmoothedEncoder.encode`.
        """
        if torch.jit.is_tracing():
            raise FsfastError(
                "a trace would keep the features of one image for ever; serve the model without a trace"
            )
        # After an error nobody shall certify what an earlier call handed on.
        self._handed = None
        images = to_levels(pixel_values, self.form, self.encoder.manifest)
        first, which = _distinct(images)
        if self.clean:
            values = self.encoder.clean(images[first])[which]
        else:
            served = self.encoder.encode(images[first], self.n0, progress=False)[which]
            self._handed, values = Handed(images, served), served.features
        return torch.from_numpy(values).to(pixel_values.device, self.features_dtype)

    def extra_repr(self) -> str:
        """What print(model) shows of the tower."""
        kind = "clean, no guarantee" if self.clean else f"n0={self.n0}, sigma={self.encoder.sigma:g}"
        return f"{self.encoder.manifest.name}, {kind}, digest={self.encoder.engine_digest[:16]}"

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        raise _tied("copy")

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise _tied("pickle")


def _distinct(images: np.ndarray) -> tuple[list[int], list[int]]:
    """Return where each distinct image of a batch stands first, and which of these every image is."""
    place: dict[bytes, int] = {}
    first: list[int] = []
    which: list[int] = []
    for position, image in enumerate(images):
        number = place.setdefault(image.tobytes(), len(first))
        if number == len(first):
            first.append(position)
        which.append(number)
    return first, which


def _refuse_saving(tower: nn.Module, *_: object) -> NoReturn:
    raise FsfastError(
        "an engine has no weights that could be saved with the model, and what is loaded without them has a random "
        "tower; detach the engine, save, and attach it again after loading"
    )


def _tied(verb: str) -> TypeError:
    return TypeError(
        f"a tower that serves an engine does not {verb}; {verb} the model without it, and attach there"
    )
