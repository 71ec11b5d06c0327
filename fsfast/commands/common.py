"""What several commands share: opening the engine, tables, errors of single inputs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from mimetypes import guess_type
from typing import TYPE_CHECKING, Any

from fsfast.errors import BackendUnavailable, FsfastError, printable
from fsfast.file_kind import recognise_file
from fsfast.images.grid import Grid, GridImage, to_grid_image
from fsfast.runtime.progress import beside_bars

if TYPE_CHECKING:
    from fsfast.encoder import SmoothedEncoder
    from fsfast.engine.profile import Profile

# Of a micro-batch that a certificate says, and that is believed.
MOST_ROWS = 64
# Images differ by at most √(3·H·W) in ℓ2; no grid comes near this.
MAX_EPSILON = 1e6


def engine_arguments(
    parser: argparse.ArgumentParser, *, positional: bool = True, device: bool = True, images: bool = True
) -> None:
    """Add the engine and how to run it.

    Args:
        parser: of the command.
        positional: whether the engine is the first argument.
        device: whether the command may run on a GPU.
        images: whether images follow the engine.
    """
    if positional:
        parser.add_argument(
            "engine",
            metavar="ENGINE",
            type=partial(not_an_image, wanted=f"the engine comes first: {parser.prog} demo")
            if images
            else str,
            help='directory of an engine, the name of a built-in one ("photo", "photo-0.12", "demo"), or one on the '
            "Hugging Face Hub: hf://owner/name[@revision][#digest]",
        )
    group = parser.add_argument_group("running the engine")
    if device:
        group.add_argument(
            "--device", metavar="NAME", default="auto", help="cpu, or a GPU: cuda, cuda:1, … (default: cpu)"
        )
    else:
        parser.set_defaults(device="cpu")
    group.add_argument(
        "--backend",
        metavar="NAME",
        default="auto",
        help="what runs the networks: onnxruntime, openvino, or auto: the faster one here (default); on a GPU torch, "
        "torch-compile, tensorrt, tensorrt_rtx, onnxruntime, or auto: torch (for an encoder that came as an ONNX "
        "graph onnxruntime or TensorRT)",
    )
    group.add_argument(
        "--precision",
        metavar="NAME",
        help="one of the engine's precisions, as `fsfast info` lists them (default: its first); with torch on a GPU "
        "float32, bfloat16 or float16",
    )
    group.add_argument(
        "--threads",
        metavar="N",
        type=int,
        help="processors to use (default: all); never changes the result",
    )
    group.add_argument(
        "--micro-batch",
        metavar="M",
        type=int,
        help="noisy samples per run of a network (default: 1; on a GPU n0, 4 to 16)",
    )
    group.add_argument(
        "--graph-threads",
        metavar="N",
        type=int,
        help="threads inside a run of a network (default: 1); more make a single sample faster, by another function",
    )
    group.add_argument(
        "--stages",
        metavar="NAME,…",
        type=lambda text: tuple(text.split(",")),
        help="of purifier,encoder,mapper those to use (default: all that the engine has)",
    )


def not_an_image(word: str, wanted: str) -> str:
    """Return an argument that comes before images; for argparse.

    Args:
        word: the argument.
        wanted: what should have come, and the command up to the place of the image.

    Raises:
        argparse.ArgumentTypeError: it is the image.
    """
    kind = recognise_file(word)
    named = (guess_type(word)[0] or "").startswith("image/") and not os.path.isdir(word)
    if kind.image if kind is not None else named:
        raise argparse.ArgumentTypeError(f"{word} looks like an image; {wanted} {word}")
    return word


def as_certified(chosen: dict[str, Any], profile: Profile) -> dict[str, Any]:
    """Complete options by the profile of a certificate, as far as this machine can.

    Elsewhere it would be another function, and nothing could be compared bit for bit.
    """
    from fsfast.backends.cpu import installed

    certified_on_gpu, device = profile.device.startswith("cuda"), chosen["device"]
    on_gpu = certified_on_gpu and _usable_on_gpu(profile.backend) if device == "auto" else device != "cpu"
    like: dict[str, Any] = {"stages": profile.stages}
    if on_gpu == certified_on_gpu:
        like |= {"precision": profile.precision}
        # More rows than anybody certifies with would cost the memory that a forged certificate asks for.
        like |= {"micro_batch": profile.micro_batch} if profile.micro_batch <= MOST_ROWS else {}
        like |= {"device": "cuda"} if on_gpu else {"graph_threads": profile.graph_threads}
        if on_gpu or profile.backend in installed():
            like["backend"] = profile.backend
    return chosen | {name: value for name, value in like.items() if chosen[name] in (None, "auto")}


def _usable_on_gpu(backend: str) -> bool:
    """Whether there is a GPU, and a back end for it."""
    try:
        from fsfast.backends.device.place import problems
        from fsfast.backends.gpu import missing

        return not (problems() or missing(backend))
    except BackendUnavailable:
        return False


def open_encoder(args: argparse.Namespace, profile: Profile | None = None) -> SmoothedEncoder:
    """Open the engine that the arguments name; what they leave open is taken from `profile`."""
    from fsfast.encoder import SmoothedEncoder

    check_sampling(args)
    names = ("device", "backend", "precision", "micro_batch", "graph_threads", "stages")
    chosen: dict[str, Any] = {name: getattr(args, name) for name in names}
    if profile is not None:
        chosen = as_certified(chosen, profile)
    return SmoothedEncoder(
        args.engine,
        threads=args.threads,
        **chosen,
        # Any bytes will do, not only text.
        secret=os.fsencode(os.environ.get("FSFAST_SECRET", "")) or None,
    )


def check_sampling(args: argparse.Namespace) -> None:
    """Refuse numbers of samples and a seed that are none, before networks are loaded, and also where no image can be
    read; raises ValueError."""
    from fsfast.runtime.sampling import check_samples
    from fsfast.runtime.seeds import check_seed

    for name in ("n", "n0"):
        if isinstance(count := getattr(args, name, None), int):
            check_samples(count, f"--{name}")
    if (seed := getattr(args, "seed", None)) is not None:
        check_seed(seed)


def parse_seed(text: str) -> int:
    """Read a seed, decimal or 0x…; for argparse."""
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"wanted a number like 7 or 0x1f, got {text!r}") from None


def readable(
    paths: Iterable[str], grid: Grid, command: str, on_error: str = "skip"
) -> Iterator[GridImage | None]:
    """Yield every image on an engine's grid, or None for one that failed, after naming it on stderr.

    With `on_error` "stop" the first that fails is the last.
    """
    for path in paths:
        try:
            yield to_grid_image(path, grid, name=as_text(path))
        except FsfastError as error:
            complain(command, path, error)
            yield None
            if on_error == "stop":
                return


def as_text(path: str) -> str:
    """Return a file name that can be written as UTF-8: bytes that are none become \\x escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def complain(command: str, path: str, error: Exception | str) -> None:
    """Name an input that failed."""
    text = str(error) if path in str(error) else f"{path}: {error}"
    with beside_bars():
        print(f"fsfast {command}: {printable(text)}", file=sys.stderr)


def shown_radii(sigma: float) -> list[float]:
    """Return the ℓ2 radii of a table of bounds where none are asked for."""
    return [factor * sigma for factor in (0.5, 1.0, 2.0)]
