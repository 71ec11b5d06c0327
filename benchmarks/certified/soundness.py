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
from train.ascent import L2Ball, Steady, ascend
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
    function: TorchFunction, levels: Tensor, anchors: Tensor, radii: Tensor, setting: Setting
) -> Tensor:
    """Return the attacked images: in the balls of `radii` grid levels, and in the pixels' range.

    Args:
        function: what is attacked.
        levels: [B, 3, H, W], grid values. Between grid values the function is f(round(x' + noise)): the theory
            covers those x', too, so the attack is not confined to integers.
        anchors: [B, L, D] of norm 1 over all.
        radii: [B], 255·ε.
        setting: how hard to try.
    """
    generator = torch.Generator(levels.device).manual_seed(setting.seed)
    ball = L2Ball(levels, radii)

    def away(attacked: Tensor, _: int) -> Tensor:
        z = torch.randn((setting.noises, *levels.shape), generator=generator, device=levels.device)
        # Rounding has no gradient of its own; what it moves is far below the noise.
        units = function((attacked + 255.0 * function.sigma * z).flatten(0, 1)).unflatten(0, z.shape[:2])
        return -(units * anchors).sum((2, 3)).mean(0)

    def length(step: int) -> Tensor:
        return radii[:, None, None, None] * (0.5 if step < setting.steps // 2 else 0.15)

    return ascend(away, ball, ball.random(generator), Steady(length), setting.steps)


@torch.inference_mode()
def measure(
    function: TorchFunction, levels: Tensor, anchors: Tensor, setting: Setting, seed: int
) -> tuple[Tensor, Tensor]:
    """Return the cosines of the smoothed features to the anchors, and their standard errors, [B] float64 each.

    ‖f̂‖² is estimated by the inner product of two independent halves, which is not biased.
    """
    generator = torch.Generator(levels.device).manual_seed(seed)
    halves, inner = torch.zeros(2, *anchors.shape, dtype=torch.float64, device=levels.device), []
    together = max(2, _ROWS // len(levels) // 2 * 2)
    for first in range(0, setting.evaluation, together):
        shape = (min(together, setting.evaluation - first), *levels.shape)
        z = torch.randn(shape, generator=generator, device=levels.device)
        noisy = (levels + 255.0 * function.sigma * z).round()
        units = function(noisy.flatten(0, 1)).double().unflatten(0, shape[:2])
        inner.append((units * anchors).sum((2, 3)))
        for half in (0, 1):
            halves[half] += units[half::2].sum(0)
    counts = (setting.evaluation + 1) // 2, setting.evaluation // 2
    norms = ((halves[0] * halves[1]).sum((1, 2)) / (counts[0] * counts[1])).clamp_min(1e-12).sqrt()
    values = torch.cat(inner)
    return values.mean(0) / norms, values.std(0) / len(values) ** 0.5 / norms


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
            levels = test.images[image : image + 1]
            pixels = levels[0].permute(1, 2, 0).byte().numpy()
            served = encoder.encode(pixels)
            certificate = encoder.certify(pixels, n, served=served)
            assert isinstance(certificate, Certificate)
            anchor = torch.from_numpy(served.unit.astype(np.float64)) / served.unit.shape[1] ** 0.5
            before, _ = measure(function, levels, anchor, setting, 2 * image)
            largest = certificate.radius(1e-3)
            for share in shares:
                epsilon = share * largest
                claimed = bound(certificate, epsilon)
                if claimed is None:
                    continue
                radius = torch.tensor([255.0 * epsilon])
                attacked = attack(function, levels, anchor.float(), radius, setting)
                after, error = map(float, measure(function, attacked, anchor, setting, 2 * image + 1))
                violated = after + ERRORS * error < claimed
                yield Attacked(image, epsilon, claimed, float(before), after, error, violated)


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
