"""`python -m study soundness --attempts 10000`: try to break certificates, many times, on every engine at hand.

Every attempt moves an image inside a certified ℓ2 ball to turn its smoothed feature away from the anchor; attempts on
one image differ in radius and start, and run side by side. What they found is measured with noise that no attack saw,
and with more of it where that does not settle it. `--planted 1.5` lets certificates claim at ε what holds at ε/1.5.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.certified.soundness import ERRORS, Setting, attack, measure
from benchmarks.measuring.harness import RESULTS
from benchmarks.measuring.rows import Rows
from fsfast.certificates.certificate import Certificate
from fsfast.encoder import SmoothedEncoder
from fsfast.engine.engine import Engine, load_engine
from fsfast.errors import FsfastError
from fsfast.images.grid import to_grid_image
from fsfast.models.torch_function import TorchFunction
from fsfast.report.examples import load_examples
from train.data import study_set

PROGRAM = "python -m study soundness"
OUTPUT = RESULTS / "attacks" / "soundness.csv"
# Of the largest radius with any certificate.
SHARES = (0.5, 0.75, 0.9, 1.0)
# At each radius.
STARTS = 4
# So many times the noises, where the first measurement does not settle it.
_MORE = 4
# The cheapest first.
NETWORKS: tuple[tuple[str, ...], ...] = (
    ("encoder",),
    ("purifier", "encoder"),
    ("purifier", "encoder", "mapper"),
)


@dataclass(frozen=True, eq=False)
class Case:
    """A certificate to break.

    Attributes:
        function: what is certified.
        levels: [1, 3, H, W].
        anchor: [1, L, D] float64, of norm 1 over all.
        claim: the certified cosine at an ℓ2 radius in [0, 1] units, None where there is none.
        largest: radius with any certificate, [0, 1] units.
    """

    function: TorchFunction
    levels: Tensor
    anchor: Tensor
    claim: Callable[[float], float | None]
    largest: float


@dataclass(frozen=True)
class Found:
    """What the attempts on one image at one radius came to.

    Attributes:
        share: of the largest radius with any certificate.
        attempts, violations: numbers.
        margin: the smallest difference between measured and certified cosine.
        error: standard error of the measured one.
        epsilon, bound, measured: of that attempt.
    """

    share: float
    attempts: int
    violations: int
    margin: float
    error: float
    epsilon: float
    bound: float
    measured: float


IMAGE = ("engine", "networks", "image")
KEY = (*IMAGE, "share")
COLUMNS = (*IMAGE, *(field.name for field in fields(Found)))


def attempt(case: Case, setting: Setting, starts: int = STARTS) -> list[Found]:
    """Try to break a certificate from several starts at several radii; of those where something is certified."""
    claimed = [(share, share * case.largest, case.claim(share * case.largest)) for share in SHARES]
    tried = [each for each in claimed if each[2] is not None for _ in range(starts)]
    if not tried:
        return []
    shares, epsilons, bounds = torch.tensor(tried, dtype=torch.float64).T
    levels = case.levels.expand(len(tried), -1, -1, -1)
    anchors = case.anchor.expand(len(tried), -1, -1)
    attacked = attack(case.function, levels, anchors.float(), 255.0 * epsilons.float(), setting)
    after, errors = _measured(case, attacked, anchors, bounds, setting)
    violated, found = after + ERRORS * errors < bounds, []
    for share in sorted(set(shares.tolist())):
        (own,) = torch.where(shares == share)
        worst = own[(after - bounds)[own].argmin()]
        numbers = (after[worst] - bounds[worst], errors[worst], epsilons[worst], bounds[worst], after[worst])
        found.append(Found(share, len(own), int(violated[own].sum()), *map(float, numbers)))
    return found


def _measured(
    case: Case, attacked: Tensor, anchors: Tensor, bounds: Tensor, setting: Setting
) -> tuple[Tensor, Tensor]:
    """Return cosines and their standard errors, with more noises where the first do not settle it."""
    after, errors = (
        each.clone() for each in measure(case.function, attacked, anchors, setting, setting.seed + 1)
    )
    unsettled = after - ERRORS * errors < bounds
    if unsettled.any():
        more = replace(setting, evaluation=_MORE * setting.evaluation)
        again = measure(case.function, attacked[unsettled], anchors[unsettled], more, setting.seed + 2)
        after[unsettled], errors[unsettled] = again
    return after, errors


def planted(case: Case, factor: float) -> Case:
    """Return a case with an error: what is certified at ε is claimed at `factor`·ε."""
    return replace(case, claim=lambda epsilon: case.claim(epsilon / factor), largest=factor * case.largest)


def certified(encoder: SmoothedEncoder, function: TorchFunction, pixels: np.ndarray, n: int) -> Case:
    """Certify an image [H, W, 3] and return what there is to break."""
    served = encoder.encode(pixels, progress=False)
    certificate = encoder.certify(pixels, n, served=served, progress=False)
    assert isinstance(certificate, Certificate)
    unit = served.unit.astype(np.float64)
    anchor = torch.from_numpy(unit[:, None] if unit.ndim == 2 else unit)
    levels = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float()
    return Case(
        function, levels, anchor / anchor.shape[1] ** 0.5, certificate.cosine, certificate.radius(1e-3)
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 nothing was broken, 1 something was, 2 wrong use."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__)
    parser.add_argument("--attempts", type=int, default=10_000, help="in all, about (default 10000)")
    parser.add_argument(
        "--engine", action="append", help="name or folder, once for each (default: demo); photo takes long"
    )
    parser.add_argument("--n", type=int, default=1000, help="certification samples (default 1000)")
    parser.add_argument("--steps", type=int, default=12, help="of an attack (default 12)")
    parser.add_argument("--noises", type=int, default=4, help="per step (default 4)")
    parser.add_argument("--starts", type=int, default=STARTS, help=f"at each radius (default {STARTS})")
    parser.add_argument("--planted", type=float, help="plant an error of this factor in every radius")
    parser.add_argument(
        "--out", type=Path, default=OUTPUT, help="results file, which a stopped call goes on with"
    )
    args = parser.parse_args(argv)
    if min(args.attempts, args.n, args.steps, args.noises, args.starts) < 1:
        parser.error("wanted --attempts, --n, --steps, --noises and --starts of at least 1")
    if args.planted is not None and args.out == OUTPUT:
        parser.error("wanted another --out with --planted: what is planted is no result")
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        rows = Rows(args.out, COLUMNS, KEY)
        for name in args.engine or ("demo",):
            _break(args, load_engine(name), rows, len(args.engine or ("demo",)))
    except (FsfastError, ValueError, OSError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    return _report(list(rows))


def _break(args: argparse.Namespace, engine: Engine, rows: Rows, engines: int) -> None:
    choices = [networks for networks in NETWORKS if set(networks) <= set(engine.manifest.stages)]
    if engine.manifest.grid.size != engine.manifest.encoder_size:
        choices = choices[-1:]
    images = max(1, round(args.attempts / (engines * len(choices) * len(SHARES) * args.starts)))
    setting = Setting(args.steps, args.noises, evaluation=64)
    for networks in choices:
        function = TorchFunction(engine, networks)
        with SmoothedEncoder(
            str(engine.path), device="cpu", stages=networks, threads=torch.get_num_threads()
        ) as encoder:
            show = f"{engine.manifest.name}, {' + '.join(networks)}"
            named = tqdm(_images(engine, images), desc=show, total=images, mininterval=1.0)
            for i, (name, pixels) in enumerate(named):
                image = (engine.manifest.name, "+".join(networks), name)
                # The last row of an image.
                if (*image, SHARES[-1]) in rows:
                    continue
                case = certified(encoder, function, pixels, args.n)
                case = planted(case, args.planted) if args.planted else case
                _append(rows, image, attempt(case, replace(setting, seed=3 * i), args.starts))


def _append(rows: Rows, image: tuple[str, str, str], found: Sequence[Found]) -> None:
    """Write the rows of an image; one without attempts stands for radii where nothing is certified."""
    by_share = {each.share: asdict(each) for each in found}
    for share in (*(s for s in SHARES[:-1] if s in by_share), SHARES[-1]):
        nothing = dict.fromkeys(COLUMNS) | {"share": share, "attempts": 0, "violations": 0}
        if (*image, share) not in rows:
            rows.append(by_share.get(share, nothing) | dict(zip(IMAGE, image, strict=True)))


def _images(engine: Engine, count: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield test images of the engine: digits, or the examples that come with it, again and again under flips."""
    grid = engine.manifest.grid
    if engine.manifest.name != "demo":
        examples = load_examples(engine.path.name) or load_examples("photo")
        for i in range(count):
            example = examples[i % len(examples)]
            pixels = to_grid_image(example.image, grid).pixels
            turned = np.rot90(pixels, i // len(examples)) if grid.height == grid.width else pixels
            yield f"{example.name} {i // len(examples)}", np.ascontiguousarray(turned)
        return
    for i, levels in enumerate(study_set(0, count).images):
        yield f"digit {i}", np.ascontiguousarray(levels.permute(1, 2, 0).byte().numpy())


def _report(rows: Sequence[dict[str, str]]) -> int:
    """Print what came of it; returns 1 where a certificate was broken."""
    tried = [row for row in rows if row["attempts"] != "0"]
    if not tried:
        print("nothing was certified: take a larger --n")
        return 2
    worst = min(tried, key=lambda row: float(row["margin"]))
    violations = sum(int(row["violations"]) for row in tried)
    certificates = len({tuple(row[name] for name in IMAGE) for row in tried})
    attempts = sum(int(row["attempts"]) for row in tried)
    print(
        f"{attempts} attempts on {certificates} certificates, {violations} violations; smallest margin "
        f"{float(worst['margin']):.3f} (± {float(worst['error']):.3f}): {worst['engine']}, {worst['networks']}, "
        f"{worst['image']}, ε = {float(worst['epsilon']):.3f}, certified {float(worst['bound']):.3f}, measured "
        f"{float(worst['measured']):.3f}"
    )
    return 1 if violations else 0
