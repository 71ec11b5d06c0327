"""What certificates say on the built-in engine, by all methods: `python -m benchmarks.certified.study`.

Every method gets the same samples and the whole of α; only `joint` divides it. "None" counts as 0.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import ndtr, ndtri
from tqdm import tqdm

import fsfast
from benchmarks.measuring.files import write_table
from fsfast.bounds import mean_lower_bound
from fsfast.bounds.cosine import CosineMethod, cosine_curve, radius
from fsfast.certificates.certificate import Certificate
from fsfast.certificates.evidence import Budget, Constants, constants
from train.data import study_set

FOLDER = Path(__file__).parents[1] / "results" / "certificates"
# In units of σ.
DISTANCES = (0.5, 1.0, 1.5, 2.0)
TARGET = 0.5
CURVE = np.linspace(0.0, 3.0, 49)


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        name: shown.
        bound: of `cosine_lower_bound`.
        known: what it may use of a certificate.
    """

    name: str
    bound: CosineMethod
    known: Callable[[Certificate], Constants]


def _mean(method: str) -> Callable[[Certificate], Constants]:
    def known(c: Certificate) -> Constants:
        bound = float(mean_lower_bound(c.scores, c.alpha, method)) - c.total_variation
        return Constants(max(0.0, bound), (), None)

    return known


def _caps(c: Certificate) -> Constants:
    share = c.alpha / max(len(c.thresholds), 1)
    budget = Budget(mean=0.5, cap=share, perpendicular=0.5)
    return Constants(0.0, constants(c.scores, c.thresholds, 1.0, budget, c.total_variation).caps, None)


METHODS = (
    Method("paper (plug-in, not a certificate)", "paper", lambda c: Constants(c.mean_score, (), None)),
    Method("fcsb + Hoeffding", "fcsb", _mean("hoeffding")),
    Method("fcsb + mixture", "fcsb", _mean("mixture")),
    Method("sharp", "sharp", _mean("mixture")),
    Method("cap", "cap", _caps),
    Method("joint", "joint", lambda c: c.constants),
)


def rows(certificates: Sequence[Certificate]) -> Iterator[dict[str, str]]:
    """Yield a row per method: averages over certificates with one n."""
    for method in METHODS:
        radii, curves = [], []
        for c in certificates:
            known = method.known(c)
            held = {"mean": known.mean, "caps": known.caps, "perp": known.perp, "method": method.bound}
            radii.append(radius(TARGET, sigma=c.sigma, **held))
            curves.append(np.nan_to_num(cosine_curve(np.array(DISTANCES), **held)).clip(0.0))
        bounds = np.array(curves)
        row = {
            "n": str(certificates[0].n),
            "images": str(len(certificates)),
            "alpha": f"{certificates[0].alpha:g}",
            "method": method.name,
            "certified_share": f"{np.mean(np.array(radii) > 0):.3f}",
            "mean_radius": f"{np.mean(radii):.4f}",
        }
        for i, d in enumerate(DISTANCES):
            row[f"bound_{d:g}"] = f"{bounds[:, i].mean():.4f}"
            row[f"none_{d:g}"] = f"{np.mean(bounds[:, i] <= 0):.3f}"
        yield row


def curves(certificates: Sequence[Certificate]) -> Iterator[dict[str, str]]:
    """Yield the mean bound of every method at every radius of CURVE; `certificates` have one n."""
    for method in METHODS:
        bounds = [
            cosine_curve(CURVE, mean=known.mean, caps=known.caps, perp=known.perp, method=method.bound)
            for known in map(method.known, certificates)
        ]
        for d, mean in zip(CURVE, np.nan_to_num(bounds).clip(0.0).mean(axis=0), strict=True):
            yield {
                "n": str(certificates[0].n),
                "method": method.name,
                "d": f"{d:g}",
                "bound": f"{mean:.4f}",
            }


def fixed_samples(score: float, alpha: float) -> float:
    """Return how many samples Hoeffding's bound and fcsb need for cosine ≥ .5 at d = 1, given the mean score."""
    needed = float(ndtr(1.0 + ndtri((1.0 + TARGET) / 2.0)))
    return math.inf if score <= needed else math.log(1.0 / alpha) / (2.0 * (score - needed) ** 2)


def decisions(certificates: Sequence[Certificate]) -> dict[str, str]:
    """Return how many samples early stopping took, on images whose mean cosine is at least .9."""
    chosen = [c for c in certificates if 2.0 * c.mean_score - 1.0 >= 0.9]
    taken = np.median([c.n for c in chosen])
    fixed = np.median([fixed_samples(c.mean_score, c.alpha) for c in chosen])
    return {
        "images": str(len(chosen)),
        "alpha": f"{chosen[0].alpha:g}",
        "reached": f"{np.mean([c.stopping is not None and c.stopping.reason == 'reached' for c in chosen]):.3f}",
        "median_n": f"{taken:.0f}",
        "median_n_hoeffding_fcsb": f"{fixed:.0f}",
        "times_fewer": f"{fixed / taken:.1f}",
    }


def certify_all(
    encoder: fsfast.SmoothedEncoder, images: Sequence[np.ndarray], **plan: object
) -> list[Certificate]:
    """Certify images one by one, with a progress bar over them."""
    return [encoder.certify(image, **plan) for image in tqdm(images, desc=str(plan))]  # type: ignore[arg-type, misc]


def main(argv: list[str] | None = None) -> int:
    """Certify test images, write the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.certified.study", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--images", type=int, default=100, help="test images at --n (default 100)")
    parser.add_argument("--n", type=int, default=1000, help="samples (default 1000)")
    parser.add_argument("--more-images", type=int, default=20, help="test images at --more-n (default 20)")
    parser.add_argument("--more-n", type=int, default=10_000, help="samples (default 10000)")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the results files")
    args = parser.parse_args(argv)
    if min(args.images, args.n, args.more_images, args.more_n) < 1:
        parser.error("wanted numbers of images and samples of at least 1")
    pixels = list(study_set(0).images.permute(0, 2, 3, 1).byte().numpy())
    table: list[dict[str, str]] = []
    lines: list[dict[str, str]] = []
    with fsfast.SmoothedEncoder("demo") as encoder:
        for count, n in ((args.images, args.n), (args.more_images, args.more_n)):
            certificates = certify_all(encoder, pixels[:count], n=n, alpha=1e-3)
            table += rows(certificates)
            lines += curves(certificates)
        stopped = certify_all(
            encoder, pixels[: args.images], epsilon=encoder.sigma, cosine=TARGET, alpha=1e-3
        )
    tables = {"methods": table, "curves": lines, "stopping": [decisions(stopped)]}
    for name, content in tables.items():
        write_table(args.out / f"{name}.csv", content)
    for name in ("methods", "stopping"):
        print((args.out / f"{name}.csv").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
