"""`python -m study results --part digits | photo | summary`: attack × defence × ε, image by image.

Rows are written as they are finished, and a call that was stopped goes on. `summary` makes the tables of
docs/attacks.md of what is there: means with bootstrap intervals over images.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.measuring.harness import RESULTS
from benchmarks.measuring.rows import Rows
from fsfast.engine.engine import load_engine
from fsfast.errors import FsfastError
from study import material, summary
from study.attacks.catalogue import attack_named
from study.attacks.objectives import Aim
from study.attacks.run import changed, run
from study.attacks.spec import show_eps
from study.columns import COLUMNS, KEY, SHORT
from study.defences import Defences
from study.material import Material
from study.plan import PARTS, Entry
from study.victim import Victim

PROGRAM = "python -m study results"
FOLDER = RESULTS / "attacks"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 2 wrong use."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__)
    parser.add_argument(
        "--part",
        action="append",
        choices=(*PARTS, "summary"),
        help="once for each (default: digits, summary)",
    )
    parser.add_argument("--data", type=Path, help="folder of `python -m train photo-data`, for part photo")
    parser.add_argument("--engine", action="append", help="of part photo (default: photo)")
    parser.add_argument("--images", type=int, help="at most so many (default: 100 digits, all photographs)")
    parser.add_argument("--attack", action="append", help="of the part's attacks these alone, once for each")
    parser.add_argument("--seed", type=int, action="append", help="of the attacks' seeds these alone")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--bf16", action="store_true", help="make attacks in bfloat16")
    parser.add_argument("--out", type=Path, default=FOLDER)
    args = parser.parse_args(argv)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        for part in args.part or ("digits", "summary"):
            if part == "summary":
                summary.write(args.out)
                continue
            for victim, found in _materials(part, args):
                _measure(part, args, victim, found)
    except (FsfastError, ValueError, OSError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    return 0


def _materials(part: str, args: argparse.Namespace) -> Iterator[tuple[Victim, Material]]:
    if part == "digits":
        victim = Victim.of(load_engine("demo"), args.device, bf16=args.bf16)
        yield victim, material.digits(victim, args.images)
        return
    if args.data is None:
        raise FsfastError("part photo wants --data, the folder of `python -m train photo-data`")
    for engine in args.engine or ("photo",):
        victim = Victim.of(load_engine(engine), args.device, rows=16, bf16=args.bf16)
        yield victim, material.photographs(victim, engine, args.data, args.images)


def _measure(part: str, args: argparse.Namespace, victim: Victim, found: Material) -> None:
    rows = Rows(args.out / f"{part}.csv", COLUMNS, KEY)
    entries = [entry for entry in PARTS[part] if not args.attack or entry.attack in args.attack]
    if unknown := set(args.attack or ()) - {entry.attack for entry in entries}:
        known = ", ".join(entry.attack for entry in PARTS[part])
        raise FsfastError(f"wanted attacks of part {part} ({known}), got {min(unknown)}")
    work = [
        (entry, levels, seed, first)
        for entry in entries
        for seed in entry.seeds
        if not args.seed or seed in args.seed
        for levels in entry.levels or (0,)
        for first in range(0, len(found.names), found.batch)
    ]
    with Defences(found.engine, victim, secret=b"of the results, secret", device=args.device) as defences:
        for entry, levels, seed, first in tqdm(work, desc=part, mininterval=1.0):
            batch = slice(first, first + found.batch)
            eps = show_eps(levels / 255) if levels else ""
            keys = [(found.engine, entry.attack, eps, seed, name) for name in found.names[batch]]
            if all(key in rows for key in keys):
                continue
            attacked = _attacked(entry, levels, seed, victim, found, batch)
            for key, cells in zip(keys, _cells(found, batch, attacked, defences), strict=True):
                if key not in rows:
                    rows.append(dict(zip(KEY, key, strict=True)) | cells)


def _attacked(entry: Entry, levels: int, seed: int, victim: Victim, found: Material, batch: slice) -> Tensor:
    images, target = found.levels[batch], found.target[batch]
    if entry.attack == "clean":
        return images
    spec = attack_named(entry.attack)
    if spec is None:
        assert victim.classes is not None
        assert target.classes is not None
        return changed(entry.attack, images, [victim.classes.names[k] for k in target.classes.tolist()])
    target = target.as_class() if entry.aimed == "class" else target
    return run(Aim(spec.at(levels / 255, seed), victim, images, target))


@torch.no_grad()
def _cells(
    found: Material, batch: slice, attacked: Tensor, defences: Defences
) -> Iterator[dict[str, object]]:
    clean = torch.cat([defences.victim.clean(part) for part in found.levels[batch].split(8)])
    answers = defences.answers(attacked)
    assert found.target.classes is not None
    targets = found.target.classes[batch].tolist()
    for i, (label, target) in enumerate(zip(found.labels[batch].tolist(), targets, strict=True)):
        cells: dict[str, object] = {"label": label, "target": target}
        for name, answer in answers.items():
            assert answer.classes is not None
            cells[f"{SHORT[name]}_class"] = int(answer.classes[i])
            cells[f"{SHORT[name]}_cosine"] = round(float((answer.unit[i] * clean[i]).sum()), 4)
        yield cells
