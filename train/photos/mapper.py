"""A low-rank mapper in closed form: from features of noisy and purified crops to those of the crops themselves.

Reduced-rank ridge regression; Izenman, "Reduced-rank regression for the multivariate linear model", 1975.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from fsfast.files import write_whole
from fsfast.models import LowRankMapper
from train.photos.features import Features

# What a mapper is chosen of.
RANKS = (32, 64, 128)
# Relative to the mean diagonal of the features' second moments.
RIDGES = (0.3, 1.0, 3.0, 10.0)
STRENGTHS = (0.5, 0.75, 1.0)
# Of the way to the mean feature.
_TOWARDS_MEAN = 0.1
# Crops whose tokens are multiplied at a time.
_CROPS = 64


@dataclass(frozen=True)
class Row:
    """What a mapper does on the crops that it is chosen by.

    Attributes:
        mapper: "none"; "towards the mean", a tenth of the way to the mean feature, for comparison; or "low rank".
        rank, ridge, strength: of the last one; None otherwise.
        score: S, the mean over crops and noises of (1 + Cos(f(x+N), f_e(x)))/2.
        score_centred: the same of unit tokens without the mean unit token of the crops that were fitted to.
        served_to_clean: cosine of the mean over noises to the clean feature.
        agreement: share of noisy crops with the class of the clean one.
    """

    mapper: str
    rank: int | None
    ridge: float | None
    strength: float | None
    score: float
    score_centred: float
    served_to_clean: float
    agreement: float

    def improves(self, other: Row) -> bool:
        """Whether the centred score is better than in another row, and nothing worse."""
        names = ("score", "served_to_clean", "agreement")
        kept = all(getattr(self, name) >= getattr(other, name) for name in names)
        return kept and self.score_centred > other.score_centred


class Moments:
    """The second moments of noisy tokens z, and of them with what clean ones c have more.

    Each pair is divided by the norm of the clean token, since directions are what counts; those of zeros are left out.

    Args:
        features: of the crops that a mapper is to be fitted to.
    """

    def __init__(self, features: Features) -> None:
        dim = features.clean.shape[-1]
        self.noisy = torch.zeros(dim, dim, dtype=torch.float64)
        self.residual = torch.zeros(dim, dim, dtype=torch.float64)
        for clean, noisy in zip(features.clean.split(_CROPS), features.noisy.split(_CROPS), strict=True):
            norms = clean.float().norm(dim=-1, keepdim=True)
            inverse = torch.where(norms > 0, 1 / norms, 0.0)[:, None]
            z = noisy.float() * inverse
            residual = clean.float()[:, None] * inverse - z
            z, residual = z.flatten(0, -2), residual.flatten(0, -2)
            self.noisy += (z.T @ z).double()
            self.residual += (z.T @ residual).double()

    def weights(self, ridge: float) -> tuple[Tensor, Tensor]:
        """Return W [D, D] that minimises Σ‖zᵀW − (c − z)‖² + λ‖W‖², and its directions [D, D], the best first.

        The first r directions V, in columns, make the best solution of rank r: W·V·Vᵀ.
        """
        damped = self.noisy + ridge * self.noisy.diagonal().mean() * torch.eye(
            len(self.noisy), dtype=torch.float64
        )
        solution = torch.linalg.solve(damped, self.residual)
        _, directions = torch.linalg.eigh(solution.T @ damped @ solution)
        return solution, directions.flip(-1)


def low_rank(solution: Tensor, directions: Tensor, rank: int, strength: float) -> LowRankMapper:
    """Return the mapper z + strength·z·W·V·Vᵀ of what `Moments.weights` returns."""
    best = directions[:, :rank]
    mapper = LowRankMapper(len(solution), rank)
    with torch.no_grad():
        mapper.down.copy_(solution @ best)
        mapper.up.copy_(strength * best.T)
    return mapper.eval().requires_grad_(False)


class Judge:
    """Measures mappers on crops that they are not fitted to.

    Args:
        features: of these crops.
        centre: [L, D], the mean unit token of those that they are fitted to.
        rows: [K, D] of the classifier.
    """

    def __init__(self, features: Features, centre: Tensor, rows: Tensor) -> None:
        self._noisy, self._centre, self._rows = features.noisy, centre, rows
        self._clean = F.normalize(features.clean.float(), dim=-1)
        self._classes = self._class(self._clean)

    @torch.no_grad()
    def row(
        self,
        refined: Callable[[Tensor], Tensor],
        mapper: str,
        rank: int | None = None,
        ridge: float | None = None,
        strength: float | None = None,
    ) -> Row:
        """Return the row of a function of tokens [M, L, D] float32."""
        found = []
        for i in range(0, len(self._noisy), _CROPS):
            noisy = self._noisy[i : i + _CROPS].float()
            units = F.normalize(refined(noisy.flatten(0, 1)), dim=-1).unflatten(0, noisy.shape[:2])
            found.append(self._numbers(units, i))
        score, centred, served, agreement = torch.cat(found, -1).double().mean(-1).tolist()
        measured = ((1 + score) / 2, (1 + centred) / 2, served, agreement)
        return Row(mapper, rank, ridge, strength, *(round(each, 5) for each in measured))

    def _numbers(self, units: Tensor, first: int) -> Tensor:
        """Cosine, centred cosine, cosine of the mean, share of equal classes of crops [P, N, L, D]: [4, P]."""
        places = slice(first, first + len(units))
        clean = self._clean[places]
        cosine = (units * clean[:, None]).sum(-1)
        centred = F.cosine_similarity(units - self._centre, clean[:, None] - self._centre, dim=-1)
        served = (F.normalize(units.mean(1), dim=-1) * clean).sum(-1)
        same = self._class(units) == self._classes[places, None]
        return torch.stack([cosine.mean((1, 2)), centred.mean((1, 2)), served.mean(1), same.float().mean(1)])

    def _class(self, units: Tensor) -> Tensor:
        """[…, L, D] → the class, […]."""
        return (units.mean(-2) @ self._rows.T).argmax(-1)


def fit(features: Features, rows: Tensor) -> tuple[LowRankMapper | None, list[Row]]:
    """Choose rank, ridge and strength on the crops for it, and fit the mapper with them to all crops.

    Of those that make nothing worse than without a mapper the one with the highest centred score is taken: going
    towards the mean raises the score alone.

    Args:
        features: of all crops.
        rows: [K, D] of the classifier.

    Returns:
        the mapper, None where there is no such one; and what was measured: without one, on the way to the mean, and of
        every choice, each fitted to the other crops; the one that was taken is the first of these.
    """
    fitted = features.part(~features.tuning)
    clean = fitted.clean.float()
    judge = Judge(features.part(features.tuning), F.normalize(clean, dim=-1).mean(0), rows)
    none, mean = judge.row(lambda z: z, "none"), clean.mean(0)
    towards = judge.row(lambda z: z + _TOWARDS_MEAN * (mean - z), "towards the mean")
    moments, found = Moments(fitted), []
    for ridge in tqdm(RIDGES, desc="ridges"):
        solved = moments.weights(ridge)
        for rank, strength in product(RANKS, STRENGTHS):
            found.append(judge.row(low_rank(*solved, rank, strength), "low rank", rank, ridge, strength))
    found.sort(key=lambda row: (not row.improves(none), -row.score_centred))
    best = found[0]
    if not best.improves(none):
        return None, [none, towards, *found]
    assert best.rank is not None
    assert best.ridge is not None
    assert best.strength is not None
    mapper = low_rank(*Moments(features).weights(best.ridge), best.rank, best.strength)
    return mapper, [none, towards, *found]


def write_table(path: Path, sigma: float, output: str, features: Features, rows: Sequence[Row]) -> None:
    """Write what `fit` measured of features as CSV."""
    text = io.StringIO(newline="")
    about = {
        **{"sigma": sigma, "output": output},
        **{"crops": int(features.tuning.sum()), "noises": features.noisy.shape[1]},
    }
    lines = [about | asdict(row) for row in rows]
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_whole(path, text.getvalue().encode())
