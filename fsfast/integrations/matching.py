"""Whether an engine stands for a host's vision tower: everything that the host reads must be what the engine makes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fsfast.engine.manifest import Manifest
from fsfast.errors import EngineError


@dataclass(frozen=True)
class HostReads:
    """What a host hands to its vision tower and reads from it; None where the host does not say.

    Attributes:
        host: its name, for messages.
        output: the layer, as `fsfast export --output` names it: penultimate, tokens, tokens+ln_post, pooled or merged.
        tokens: L, patch tokens per image; 1 for a pooled vector.
        dim: D, the length of a token.
        class_token: whether it reads a class token before them; engines have none.
        size: (height, width) of the pixel values.
        mean, std: their normalisation in [0, 1] units; None where levels travel.
        rescale: what levels are multiplied by before the normalisation; None where levels travel.
    """

    host: str
    output: str | None = None
    tokens: int | None = None
    dim: int | None = None
    class_token: bool = False
    size: tuple[int, int] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    rescale: float | None = None


class Difference(NamedTuple):
    """One thing in which an engine is not what the host reads.

    Attributes:
        what: is different.
        wanted: by the host.
        found: in the engine.
        remedy: what makes them equal.
    """

    what: str
    wanted: object
    found: object
    remedy: str


def check_match(manifest: Manifest, reads: HostReads) -> None:
    """Refuse an engine that makes something else than the host reads.

    Raises:
        EngineError: naming every difference: what was wanted, what was found, and the remedy.
    """
    found = list(differences(manifest, reads))
    if found:
        lines = [f"{d.what}: wanted {d.wanted}, found {d.found}; {d.remedy}" for d in found]
        raise EngineError(
            "\n  ".join(
                [f"the engine {manifest.name!r} does not stand for the tower of {reads.host}:", *lines]
            )
        )


def differences(manifest: Manifest, reads: HostReads) -> Iterator[Difference]:
    """Yield everything in which the engine is not what the host reads."""
    export = "export the engine anew: fsfast export RECIPE"
    output = output_name(manifest)
    if reads.output not in (None, output):
        yield Difference("layer", reads.output, output, f"{export} --output {reads.output}")
    if reads.class_token:
        yield Difference(
            "class token", "one", "patch tokens alone", "let the host read the patch tokens alone"
        )
    weights = f"{export} --encoder with the weights of this tower, and a recipe of its shape"
    if reads.tokens not in (None, manifest.tokens):
        yield Difference("tokens L", reads.tokens, manifest.tokens, weights)
    if reads.dim not in (None, manifest.dim):
        yield Difference("channels D", reads.dim, manifest.dim, weights)
    if reads.size is not None and reads.size != manifest.grid.size:
        height, width = reads.size
        remedy = f"set the host's image size, or {export} with [grid] height = {height}, width = {width}"
        yield Difference("image size", f"{height}×{width}", "×".join(map(str, manifest.grid.size)), remedy)
    yield from _normalisation(manifest, reads)


def _normalisation(manifest: Manifest, reads: HostReads) -> Iterator[Difference]:
    for what, wanted, found in (("mean", reads.mean, manifest.mean), ("std", reads.std, manifest.std)):
        if wanted is not None and not _close(wanted, found):
            remedy = f"set image_{what} of the host's image processor, or [normalise] of the recipe"
            yield Difference(what, _numbers(wanted), _numbers(found), remedy)
    if reads.rescale is not None and not _close([reads.rescale], [1 / 255]):
        remedy = "set rescale_factor = 1/255 in the host's image processor"
        yield Difference("rescale factor", f"{reads.rescale:g}", "1/255", remedy)


def output_name(manifest: Manifest) -> str:
    """Return the output of an engine as `fsfast export --output` names it; ln_post is a choice for tokens alone."""
    after = manifest.output == "tokens" and manifest.record["output"]["ln_post"]
    return "tokens+ln_post" if after else manifest.output


def _close(wanted: Sequence[float], found: Sequence[float]) -> bool:
    # Configurations hold float32 values here, and their shortest digits there.
    return len(wanted) == len(found) and all(
        math.isclose(a, b, rel_tol=1e-6) for a, b in zip(wanted, found, strict=True)
    )


def _numbers(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:g}' for value in values)}]"
