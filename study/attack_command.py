"""`python -m study attack ENGINE IMAGE…`: attack an engine of yours, before somebody else does.

Each attack changes every image on the engine's grid, by at most ε, so that the features come near those of the target
(ℓ2 attacks and purifier: away from the image's own). The table and the page show what the encoder alone and the
smoothed one make of it, with the certified radius beside; attacked images are kept as PNG, and a call that was stopped
goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.measuring.rows import Rows
from fsfast.certificates.certificate import Certificate
from fsfast.certificates.wording import show_radius
from fsfast.commands.inputs import image_arguments, image_paths
from fsfast.engine.engine import load_engine
from fsfast.errors import FsfastError
from fsfast.files import write_whole
from fsfast.images.grid import GridImage, to_grid_image
from fsfast.report.text import table
from study import page
from study.attacks.catalogue import CHANGES, SPECS, attack_named
from study.attacks.objectives import Aim
from study.attacks.run import changed, check, run
from study.attacks.spec import AttackSpec, parse_eps, show_eps
from study.defences import NONE, Answer, Defences, levels_of_pixels, pixels_of
from study.pictures import as_png, read_png
from study.targets import Target, class_target, image_target
from study.victim import ROWS, Victim

PROGRAM = "python -m study attack"
DEFAULT = ("attackvlm", "eot-8-rounds")
# For an engine without classes.
_WITHOUT_CLASSES = ("attackvlm", "eot-4")
# Radius of the certificates, where the engine has no classes: for this cosine.
COSINE = 0.5
COLUMNS = (
    *(
        "image",
        "sha256",
        "attack",
        "eps",
        "target",
        "clean_class",
        "target_class",
        "plain_class",
        "smoothed_class",
    ),
    *("plain_to_clean", "smoothed_to_clean", "plain_to_target", "smoothed_to_target"),
    *("linf", "l2", "certified_radius", "file"),
)
KEY = ("sha256", "attack", "eps", "target")


@dataclass(frozen=True, eq=False)
class Subject:
    """One image.

    Attributes:
        image: on the grid.
        levels: [1, 3, H, W].
        target: of the attack.
        clean: f_e of it.
        radius: certified ℓ2 radius, [0, 1] units; 0 where nothing is certified.
    """

    image: GridImage
    levels: Tensor
    target: Target
    clean: Answer
    radius: float


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 2 wrong use."""
    args = _parser().parse_args(argv)
    try:
        for name in args.attack or ():
            attack_named(name)
        victim, images = _opened(args)
        usual = DEFAULT if victim.classes is not None else _WITHOUT_CLASSES
        attacks = [(name, attack_named(name)) for name in args.attack or usual]
        args.out.mkdir(parents=True, exist_ok=True)
        with Defences(args.engine, victim, device=args.device) as defences:
            rows = _attack_all(args, attacks, defences, images)
    except (FsfastError, ValueError, OSError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    shown = [row for row in rows if row["sha256"] in {image.grid_sha256 for image in images}]
    print(_table(shown))
    write_whole(args.out / "attacks.html", page.render(args.out, shown, victim.sigma).encode())
    print(f"→ {args.out / 'attacks.html'}, {rows.path}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "engine", metavar="ENGINE", help="directory of an engine, or the name of a built-in one"
    )
    image_arguments(parser, on_error=False)
    parser.add_argument(
        "--attack",
        action="append",
        metavar="NAME",
        help=f"once for each (default: {' and '.join(DEFAULT)}): {', '.join((*SPECS, *CHANGES))}",
    )
    parser.add_argument(
        "--target",
        metavar="IMAGE|CLASS",
        help="what all images are to be taken for: a file, or a class's name or number (default: the next image that "
        "the encoder sees another class in)",
    )
    parser.add_argument("--eps", type=_eps, default=16 / 255, help="radius of ℓ∞ attacks (default 16/255)")
    parser.add_argument("--steps", type=_count, help="instead of an attack's own number of steps")
    parser.add_argument("--noises", type=_count, help="instead of an attack's own number of noises per step")
    parser.add_argument(
        "--rows", type=_count, default=ROWS, help=f"noisy images in memory at a time (default {ROWS})"
    )
    parser.add_argument("--seed", type=int, default=0, help="of starts, crops and noises (default 0)")
    parser.add_argument("--n", type=_count, default=1000, help="samples of a certificate (default 1000)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--bf16", action="store_true", help="make attacks in bfloat16")
    parser.add_argument(
        "--out", type=Path, default=Path("attacks"), help="folder of the results (default: attacks)"
    )
    return parser


def _eps(text: str) -> float:
    try:
        return parse_eps(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"wanted a number of at least 1, got {text!r}")
    return int(text)


def _opened(args: argparse.Namespace) -> tuple[Victim, list[GridImage]]:
    engine = load_engine(args.engine)
    victim = Victim.of(engine, args.device, rows=args.rows, bf16=args.bf16)
    return victim, [to_grid_image(path, engine.manifest.grid) for path in image_paths(args)]


def _attack_all(
    args: argparse.Namespace,
    attacks: Sequence[tuple[str, AttackSpec | None]],
    defences: Defences,
    images: Sequence[GridImage],
) -> Rows:
    rows = Rows(args.out / "attacks.csv", COLUMNS, KEY)
    victim = defences.victim
    targets, said = _targets(args, victim, images)
    for _, spec in attacks:
        if spec is not None:
            check(spec, victim, targets[0])
    subjects: dict[int, Subject] = {}
    work = [(i, name, spec) for i in range(len(images)) for name, spec in attacks]
    for i, name, spec in tqdm(work, desc="attacks", mininterval=0.5):
        spec = spec and _as_asked(spec, args)
        key = (images[i].grid_sha256, name, _eps_of(name, spec), said[i])
        if key in rows:
            continue
        if i not in subjects:
            subjects = {i: _subject(args, defences, images[i], targets[i])}
        rows.append(dict(zip(KEY, key, strict=True)) | _attacked(args, defences, subjects[i], name, spec))
    return rows


def _as_asked(spec: AttackSpec, args: argparse.Namespace) -> AttackSpec:
    spec = spec.at(args.eps if spec.norm == "linf" else spec.eps, args.seed)
    return replace(spec, steps=args.steps or spec.steps, noises=args.noises or spec.noises)


def _eps_of(name: str, spec: AttackSpec | None) -> str:
    if spec is None:
        return ""
    return show_eps(spec.eps) if spec.norm == "linf" else f"{spec.eps:g} × radius"


def _targets(
    args: argparse.Namespace, victim: Victim, images: Sequence[GridImage]
) -> tuple[list[Target], list[str]]:
    """Return every image's target, and what it is called."""
    if args.target is not None and not Path(args.target).is_file():
        return [class_target(victim, args.target, 1)] * len(images), [args.target] * len(images)
    if args.target is not None:
        grid = load_engine(args.engine).manifest.grid
        found = image_target(victim, _levels(to_grid_image(args.target, grid), victim))
        return [found] * len(images), [Path(args.target).name] * len(images)
    own = [image_target(victim, _levels(image, victim)) for image in images]
    chosen = [_another(own, i) for i in range(len(own))]
    return [own[j] for j in chosen], [Path(images[j].name or str(j)).name for j in chosen]


def _another(targets: Sequence[Target], i: int) -> int:
    """Return the next image of another class, the next one where there are no classes."""
    others = [(i + k) % len(targets) for k in range(1, len(targets))]
    mine = targets[i].classes
    found = [j for j in others if mine is None or int(targets[j].classes) != int(mine)]  # type: ignore[arg-type]
    if not found:
        raise FsfastError(
            "wanted images of at least two classes, each to be the target of another; give --target IMAGE or --target "
            "CLASS"
        )
    return found[0]


def _levels(image: GridImage, victim: Victim) -> Tensor:
    return levels_of_pixels(image.pixels[None], victim.device)


def _subject(args: argparse.Namespace, defences: Defences, image: GridImage, target: Target) -> Subject:
    levels = _levels(image, defences.victim)
    certificate = defences.encoder.certify(image, args.n, progress=False)
    assert isinstance(certificate, Certificate)
    clean = defences.answers(levels, (NONE,))[NONE]
    return Subject(image, levels, target, clean, certificate.radius(COSINE))


def _attacked(
    args: argparse.Namespace, defences: Defences, subject: Subject, name: str, spec: AttackSpec | None
) -> dict[str, object]:
    victim = defences.victim
    file = f"{subject.image.grid_sha256[:16]}-{name}-{args.seed}.png"
    if spec is None:
        attacked = changed(name, subject.levels, [_target_name(victim, subject.target)])
    else:
        radii = torch.tensor([subject.radius])
        attacked = run(Aim(spec, victim, subject.levels, subject.target), radii, name)
    write_whole(args.out / file, as_png(pixels_of(attacked)[0]))
    # What is judged is the file.
    levels = levels_of_pixels(read_png(args.out / file)[None], victim.device)
    plain = defences.answers(levels, (NONE,))[NONE]
    served = defences.smoothed(levels, defences.encoder.n0)
    change = (levels - subject.levels) / 255.0
    return {
        "image": Path(subject.image.name or "image").name,
        "clean_class": _name(victim, subject.clean),
        "target_class": _target_name(victim, subject.target) if victim.classes else None,
        "plain_class": _name(victim, plain),
        "smoothed_class": _name(victim, served),
        "plain_to_clean": _cosine(plain.unit, subject.clean.unit),
        "smoothed_to_clean": _cosine(served.unit, subject.clean.unit),
        "plain_to_target": _cosine(plain.unit, subject.target.features),
        "smoothed_to_target": _cosine(served.unit, subject.target.features),
        "linf": round(float(change.abs().max()) * 255),
        "l2": round(float(change.norm()), 4),
        "certified_radius": round(subject.radius, 4),
        "file": file,
    }


def _name(victim: Victim, answer: Answer) -> str | None:
    return (
        None
        if answer.classes is None or victim.classes is None
        else victim.classes.names[int(answer.classes)]
    )


def _target_name(victim: Victim, target: Target) -> str:
    if target.classes is None or victim.classes is None:
        return "target"
    return victim.classes.names[int(target.classes)]


def _cosine(unit: Tensor, other: Tensor | None) -> float | None:
    return None if other is None else round(float((unit * other).sum()), 4)


def _table(rows: Sequence[dict[str, str]]) -> str:
    header = (
        *("image", "attack", "ε", "target", "clean", "attacked, plain", "attacked, smoothed"),
        *("cosine to clean: plain", "smoothed", "ℓ2", "certified radius"),
    )
    cells = [
        [
            *(row[name] for name in ("image", "attack", "eps")),
            row["target_class"] or row["target"],
            *(row[name] for name in ("clean_class", "plain_class", "smoothed_class")),
            *(row[name] for name in ("plain_to_clean", "smoothed_to_clean", "l2")),
            show_radius(float(row["certified_radius"])),
        ]
        for row in rows
    ]
    return table(cells, header)
