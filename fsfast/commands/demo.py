"""Show everything once: classes, certificates, attacks, timings, and a page to look at.

Uses a built-in engine and images that its training never saw, or images of yours (--image). Writes
demo.html, features.safetensors and certificates.jsonl. The page needs matplotlib (extra [plot]).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fsfast.commands.common import as_text, engine_arguments, open_encoder, readable
from fsfast.files import check_target, write_whole
from fsfast.installation import pip_install_extras

if TYPE_CHECKING:
    from fsfast.encoder import SmoothedEncoder
    from fsfast.report.data import DemoResult, Subject

PHOTOGRAPH = Path(__file__).parent.parent / "assets" / "cat.jpg"
PAGE, FEATURES, CERTIFICATES = "demo.html", "features.safetensors", "certificates.jsonl"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "--image", metavar="FILE", nargs="+", action="extend", help="images of yours instead of the examples"
    )
    parser.add_argument(
        "--engine",
        metavar="ENGINE",
        default="photo",
        help='directory of an engine, or the name of a built-in one (default: "photo")',
    )
    parser.add_argument(
        "-n",
        "--n",
        metavar="N",
        type=int,
        default=500,
        help="certification samples per image (default 500)",
    )
    parser.add_argument(
        "--alpha",
        metavar="P",
        type=float,
        default=1e-3,
        help="probability of a wrong certificate (default 0.001)",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        default="demo-output",
        help="folder of the files that are written (default: demo-output)",
    )
    parser.add_argument(
        "--no-page", action="store_true", help="no page, and no comparison of the engine's networks"
    )
    engine_arguments(parser, positional=False, device=False)
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def run(args: argparse.Namespace) -> int:
    """Gather everything, print it, write the files."""
    if not 0.0 < args.alpha < 1.0:
        raise ValueError(f"wanted --alpha in (0, 1), got {args.alpha}")
    started = time.perf_counter()
    with open_encoder(args) as encoder:
        from fsfast.report.gather import gather

        subjects = _own_images(args.image, encoder) if args.image else _examples(encoder)
        if not subjects:
            return 2
        folder = Path(args.output)
        _check_folder(folder)
        result = gather(encoder, subjects, args.n, args.alpha, compare=not args.no_page, started=started)
    why_no_page = "left out" if args.no_page else _missing_for_the_page()
    kept = [as_text(str(path)) for path in _write(result, folder, page=why_no_page is None)]
    if args.json:
        from fsfast.report.summary import to_json

        print(json.dumps({**to_json(result), "kept": kept, "no_page": why_no_page}))
    else:
        _print(result, kept, None if args.no_page else why_no_page, args.engine)
    some_failed = len(subjects) < len(args.image or ())
    return 1 if some_failed or not result.verification or not result.bit_equal else 0


def _own_images(paths: list[str], encoder: SmoothedEncoder) -> list[Subject]:
    """Return the images that can be read; the others are named on stderr."""
    from fsfast.report.data import Subject

    images = [image for image in readable(paths, encoder.grid, "demo") if image is not None]
    return [Subject(Path(str(image.name)).name, image) for image in images]


def _examples(encoder: SmoothedEncoder) -> list[Subject]:
    """Return the examples of a built-in engine; for another engine, which they say nothing about, a photograph."""
    from fsfast.engine.engine import BUILT_IN
    from fsfast.images.grid import to_grid_image
    from fsfast.report.data import Subject
    from fsfast.report.examples import load_examples

    grid, name = encoder.manifest.grid, encoder.manifest.name
    built_in = encoder.engine_path.resolve() == BUILT_IN.resolve() / name
    examples = load_examples(name) if built_in else []
    if not examples:
        return [Subject(PHOTOGRAPH.name, to_grid_image(PHOTOGRAPH, grid, name=PHOTOGRAPH.name))]
    return [
        Subject(
            name=example.name,
            image=to_grid_image(example.image, grid, name=example.image.name),
            label=example.label,
            attacked=to_grid_image(example.attacked, grid, name=example.attacked.name),
            target=example.target,
        )
        for example in examples
    ]


def _check_folder(folder: Path) -> None:
    """Make the folder, and refuse it before the work if the files could not be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"cannot make the folder {folder}: {error.strerror}; name another one with --output"
        ) from None
    for name in (PAGE, FEATURES, CERTIFICATES):
        check_target(folder / name)


def _missing_for_the_page() -> str | None:
    """Return why no page can be made, and the remedy; None if it can."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        return f"matplotlib cannot be used ({error}); for the page: {pip_install_extras('plot')}"
    return None


def _write(result: DemoResult, folder: Path, *, page: bool) -> list[Path]:
    """Write what is kept, each file whole or not at all; return the files, the page first."""
    kept = []
    if page:
        from fsfast.report.page import render_page

        kept.append(folder / PAGE)
        write_whole(kept[-1], render_page(result).encode())
    kept.append(folder / FEATURES)
    result.served.save(kept[-1])
    kept.append(folder / CERTIFICATES)
    lines = (json.dumps(case.certificate.to_record(), ensure_ascii=False) for case in result.cases)
    write_whole(kept[-1], "".join(f"{line}\n" for line in lines).encode())
    return kept


def _print(result: DemoResult, kept: list[str], why_no_page: str | None, engine: str) -> None:
    from fsfast.report.summary import to_text

    print(to_text(result))
    if why_no_page is not None:
        print(f"\nno page: {why_no_page}")
    names = ", ".join(Path(path).name for path in kept)
    print(f"\nwritten to {Path(kept[0]).parent}: {names}")
    print(f"next: {_command()} certify {as_text(engine)} YOUR-PHOTO.jpg")


def _command() -> str:
    """Return how this program can be started again from here."""
    if shutil.which("fsfast"):
        return "fsfast"
    program = os.path.relpath(sys.argv[0])
    return "python -m fsfast" if os.path.basename(program) == "__main__.py" else program
