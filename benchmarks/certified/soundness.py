"""Adaptive attacks on certificates: `python -m benchmarks.certified.soundness` tries to break them.

Every attack moves an image inside the certified ℓ2 ball to turn its smoothed feature away from the anchor:
projected gradient descent on the inner product, with gradients through the whole function averaged over fresh
noises (expectation over transformation). What it found is then measured with noise that the attack never saw.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import fsfast
from benchmarks.measuring.files import write_table
from fsfast.certificates.certificate import Certificate
from fsfast.engine.engine import load_engine
from fsfast.models.torch_function import TorchFunction
from train.data import study_set

OUTPUT = Path(__file__).parents[1] / "results" / "certificates" / "soundness.csv"
# Attacked radii, as shares of the largest radius with any certificate.
SHARES = (0.25, 0.5, 0.75, 0.9, 1.0)
# A violation is claimed where the measured cosine is below the bound by this many standard errors.
ERRORS = 4.0
_ROWS = 64

Bound = Callable[[Certificate, float], float | None]


@dataclass(frozen=True)
class Setting:
    """How hard the attacks try.

    Attributes:
        steps: iterations.
        noises: fresh noises per iteration.
        evaluation: noises of the measurement.
        seed: of everything random.
    """

    steps: int = 25
    noises: int = 8
    evaluation: int = 400
    seed: int = 0


@dataclass(frozen=True)
class Attacked:
    """One attack.

    Attributes:
        image: number of the test image.
        epsilon: ℓ2 radius of the attack, [0,1] units.
        bound: the certified cosine there.
        before, after: measured cosine to the anchor on the image and on what the attack made of it.
        error: standard error of `after`.
        violated: `after` is below the bound by more than ERRORS standard errors.
    """

    image: int
    epsilon: float
    bound: float
    before: float
    after: float
    error: float
    violated: bool


def attack(
    function: TorchFunction, levels: Tensor, anchor: Tensor, radius: float, setting: Setting
) -> Tensor:
    """Return the attacked image: in the ball of `radius` grid levels, and in the pixels' range.

    Args:
        function: what is attacked.
        levels: [3, H, W], grid values. Between grid values the function is f(round(x' + noise)): the theory
            covers those x', too, so the attack is not confined to integers.
        anchor: [L, D] of norm 1 over all.
        radius: 255·ε.
        setting: how hard to try.
    """
    generator = torch.Generator().manual_seed(setting.seed)
    direction = torch.randn(levels.shape, generator=generator)
    attacked = (levels + 0.5 * radius * direction / direction.norm()).clamp(0.0, 255.0)
    for step in range(setting.steps):
        attacked.requires_grad_(True)
        z = torch.randn((setting.noises, *levels.shape), generator=generator)
        # Rounding has no gradient of its own; what it moves is far below the noise.
        inner = (function(attacked + 255.0 * function.sigma * z) * anchor).sum((1, 2)).mean()
        (gradient,) = torch.autograd.grad(inner, attacked)
        with torch.no_grad():
            length = radius * (0.5 if step < setting.steps // 2 else 0.15)
            moved = attacked - length * gradient / gradient.norm().clamp_min(1e-30)
            attacked = _projected(moved, levels, radius)
    return attacked.detach()


def _projected(moved: Tensor, levels: Tensor, radius: float) -> Tensor:
    """Return the point inside the ball and the pixels' range: clamping moves towards the image, so it comes last."""
    change = moved - levels
    change = change * min(1.0, radius / max(change.norm().item(), 1e-30))
    return (levels + change).clamp(0.0, 255.0)


@torch.inference_mode()
def measure(
    function: TorchFunction, levels: Tensor, anchor: Tensor, setting: Setting, seed: int
) -> tuple[float, float]:
    """Return the cosine of the smoothed feature to the anchor, and its standard error.

    ‖f̂‖² is estimated by the inner product of two independent halves, which is not biased.
    """
    generator = torch.Generator().manual_seed(seed)
    halves, inner = torch.zeros(2, *anchor.shape, dtype=torch.float64), []
    for first in range(0, setting.evaluation, _ROWS):
        z = torch.randn((min(_ROWS, setting.evaluation - first), *levels.shape), generator=generator)
        unit = function((levels + 255.0 * function.sigma * z).round()).double()
        inner.append((unit * anchor).sum((1, 2)))
        for half in (0, 1):
            halves[half] += unit[half::2].sum(0)
    counts = (setting.evaluation + 1) // 2, setting.evaluation // 2
    norm = ((halves[0] * halves[1]).sum() / (counts[0] * counts[1])).clamp_min(1e-12).sqrt()
    values = torch.cat(inner)
    error = values.std() / len(values) ** 0.5
    return float(values.mean() / norm), float(error / norm)


def certified(certificate: Certificate, epsilon: float) -> float | None:
    """Return what a certificate claims."""
    return certificate.cosine(epsilon)


def broken(certificate: Certificate, epsilon: float) -> float | None:
    """Return a bound with a planted error: the radius counts a tenth."""
    return certificate.cosine(0.1 * epsilon)


def run(
    images: Sequence[int], shares: Sequence[float], setting: Setting, n: int, bound: Bound = certified
) -> Iterator[Attacked]:
    """Certify test images of the built-in engine and attack each at several radii."""
    function = TorchFunction(load_engine("demo"))
    test = study_set(0)
    with fsfast.SmoothedEncoder("demo") as encoder:
        for image in images:
            levels = test.images[image]
            pixels = levels.permute(1, 2, 0).byte().numpy()
            served = encoder.encode(pixels)
            certificate = encoder.certify(pixels, n, served=served)
            assert isinstance(certificate, Certificate)
            anchor = torch.from_numpy(served.unit[0].astype(np.float64)) / served.unit.shape[1] ** 0.5
            before, _ = measure(function, levels, anchor, setting, 2 * image)
            largest = certificate.radius(1e-3)
            for share in shares:
                epsilon = share * largest
                claimed = bound(certificate, epsilon)
                if claimed is None:
                    continue
                attacked = attack(function, levels, anchor.float(), 255.0 * epsilon, setting)
                after, error = measure(function, attacked, anchor, setting, 2 * image + 1)
                violated = after + ERRORS * error < claimed
                yield Attacked(image, epsilon, claimed, before, after, error, violated)


def main(argv: list[str] | None = None) -> int:
    """Attack, write the table, print the smallest margin; returns 1 where a certificate was broken."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.certified.soundness", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--images", type=int, default=40, help="test images (default 40: 200 attacks)")
    parser.add_argument("--n", type=int, default=1000, help="certification samples (default 1000)")
    parser.add_argument("--steps", type=int, default=Setting.steps, help="iterations of an attack")
    parser.add_argument(
        "--broken", action="store_true", help="plant an error in the bound, which must be caught"
    )
    parser.add_argument("--out", type=Path, default=OUTPUT, help="results file")
    args = parser.parse_args(argv)
    if args.images < 1 or args.n < 1 or args.steps < 1:
        parser.error("wanted --images, --n and --steps of at least 1")
    setting = Setting(steps=args.steps)
    attacks = run(range(args.images), SHARES, setting, args.n, broken if args.broken else certified)
    results = list(tqdm(attacks, total=args.images * len(SHARES), desc="attack"))
    if not results:
        parser.error(f"none of {args.images} images has a certificate from n = {args.n}; take a larger --n")
    if not args.broken:
        write_table(args.out, results)
    worst = min(results, key=lambda r: r.after - r.bound)
    violations = sum(r.violated for r in results)
    print(
        f"{len(results)} attacks, {violations} violations; smallest margin {worst.after - worst.bound:.3f} "
        f"(± {worst.error:.3f}): image {worst.image}, ε = {worst.epsilon:.3f}, certified {worst.bound:.3f}, "
        f"measured {worst.after:.3f}, before the attack {worst.before:.3f}"
    )
    if args.broken and not violations:
        print("the planted error was not caught; try more steps or images")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
