"""A certificate while its samples are drawn: what it would state if they ended here."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from fsfast.bounds.cosine import cosine_curve, radius
from fsfast.certificates.certification import FIRST_LOOK, Plan
from fsfast.certificates.evidence import Budget, choose_thresholds, constants
from fsfast.certificates.statement import Statement, round_scores
from fsfast.encoder import SmoothedEncoder
from fsfast.runtime.sampling import Stream

# The cosine whose radius is told.
_COSINE = 0.5
# Bounds take as long as some samples: they are computed anew for half as many samples more.
_RATIO = 1.5
# Seconds between two pieces of news.
_PAUSE = 0.2
# Of the curve that is told, in units of σ.
_RADII = np.linspace(0, 2, 25)


def curve_of(certificate: Statement) -> list[dict[str, float | None]]:
    """Return the bounds of a certificate at as many radii as its growing was told at."""
    return _curve(certificate.sigma, certificate.curve(list(_RADII * certificate.sigma)))


def _curve(sigma: float, cosines: np.ndarray) -> list[dict[str, float | None]]:
    return [
        {"epsilon": float(factor * sigma), "cosine": None if np.isnan(cosine) else float(cosine)}
        for factor, cosine in zip(_RADII, cosines, strict=True)
    ]


class Growing:
    """Collects scores on the engine's thread, and tells on the event loop what follows from them.

    The bounds hold at all numbers of samples at once, so that looking at them again and again costs nothing; the
    certificate's own may be better.

    Args:
        encoder: that is certified.
        plan: of the certificate.
    """

    def __init__(self, encoder: SmoothedEncoder, plan: Plan) -> None:
        self._sigma = encoder.sigma
        self._total_variation = encoder.function.total_variation
        self._plan = plan
        self._pilot: list[np.ndarray] = []
        self._scores: list[np.ndarray] = []
        self._count, self._look = 0, FIRST_LOOK
        self._bounds: dict[str, Any] = {"radius": 0.0, "curve": []}
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()

    def watch(self, stream: Stream, scores: np.ndarray) -> None:
        """Take scores; as `fsfast.serve.sharing.Watch`."""
        if stream is Stream.PILOT:
            self._pilot.append(scores)
        elif stream is Stream.CERTIFICATION:
            self._scores.append(scores)
            self._count += len(scores)
            self._loop.call_soon_threadsafe(self._changed.set)

    def state(self, samples: int = 0) -> dict[str, Any]:
        """Return what is known: samples and `of` how many, the certified radius for a cosine of ½, and the curve."""
        return {"samples": samples, "of": self._plan.n, **self._bounds}

    async def news(self) -> dict[str, Any]:
        """Wait for more scores, and return the state then; its bounds are those of some number of samples before."""
        await self._changed.wait()
        self._changed.clear()
        count = self._count
        if count >= self._look:
            self._look = round(count * _RATIO)
            self._bounds = await asyncio.to_thread(self._computed, list(self._pilot), list(self._scores))
        else:
            await asyncio.sleep(_PAUSE)
        return self.state(count)

    def _computed(self, pilot: list[np.ndarray], parts: list[np.ndarray]) -> dict[str, Any]:
        scores = round_scores(np.concatenate(parts))
        thresholds = choose_thresholds(round_scores(np.concatenate(pilot)))
        budget = Budget.of(self._plan.alpha, len(thresholds), stopped=True)
        known = constants(scores, thresholds, None, budget, self._total_variation)
        curve = cosine_curve(_RADII, mean=known.mean, caps=known.caps)
        return {
            "radius": radius(_COSINE, sigma=self._sigma, mean=known.mean, caps=known.caps),
            "curve": _curve(self._sigma, curve),
        }
