"""The folder of the results: what it was begun with, and that a second call asks for the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.measuring.files import write_table
from benchmarks.measuring.harness import circumstances
from benchmarks.paper.request import Inputs, Request
from fsfast._version import __version__
from fsfast.commands.journal import locked
from fsfast.errors import FsfastError
from fsfast.files import write_whole

SETTINGS = "settings.json"
FILES = "files.csv"
_LOCK = ".lock"
# Of the circumstances those that change no bit.
_FREE = ("commit", "date")


def settings(request: Request, inputs: Inputs) -> dict[str, object]:
    """Return what a second call must ask for again, by the names that its refusal uses."""
    found: dict[str, object] = {
        "rehearsal": request.rehearsal,
        "recipe": request.recipe,
        "purifier": [file.sha256 for file in inputs.files if file.role == "purifier"],
        "encoder": [file.sha256 for file in inputs.files if file.role == "encoder"],
        "mapper": [file.sha256 for file in inputs.files if file.role == "mapper"],
        "images": [len(inputs.images), inputs.images_sha256],
        # None as in folders of before.
        "weights": dict(request.weights) or None,
        "sigma": list(request.sigmas),
        "n0": list(request.numbers),
        "n": request.n,
        "alpha": request.alpha,
        "runs": request.runs,
        "attack-steps": request.attack_steps,
        "train": None if request.train is None else [request.purifier_steps, request.mapper_steps],
        "backend": request.backend,
        "precision": request.precision,
        "micro-batch": request.micro_batch,
        "fsfast": __version__,
    }
    return found | {
        name: value for name, value in circumstances(request.machine).items() if name not in _FREE
    }


def begin(request: Request, inputs: Inputs) -> None:
    """Write the settings and the files' hashes, or compare them with those of an earlier call.

    Raises:
        FsfastError: the folder was begun with other settings; the first is named.
    """
    path, now = request.out / SETTINGS, settings(request, inputs)
    if path.exists():
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise FsfastError(
                f"{path} is not what this command wrote ({error}); choose another --out"
            ) from None
        for name, value in now.items():
            if there.get(name) != value:
                raise FsfastError(
                    f"{request.out} was begun with another {name} ({there.get(name)} there, {value} now); "
                    "choose another --out"
                )
        return
    write_table(request.out / FILES, list(inputs.files), digits=17)
    write_whole(path, json.dumps(now, indent=1, ensure_ascii=False).encode() + b"\n")


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep a second call from writing to the folder meanwhile.

    Raises:
        FsfastError: one writes to it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(str(folder / _LOCK), "paper"))
        except FsfastError:
            raise FsfastError(
                f"another call writes to {folder}; wait for it, or choose another --out"
            ) from None
        yield
