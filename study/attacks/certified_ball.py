"""Attacks in ℓ2 balls around the certified radius, away from the image's own features: half of it, itself, and twice.

Inside the radius a certificate has to hold, whoever attacks; outside it says nothing.
"""

from __future__ import annotations

from dataclasses import replace

from study.attacks.spec import AttackSpec

_BALL = AttackSpec(
    "l2-1",
    eps=1.0,
    norm="l2",
    alpha=None,
    steps=50,
    features="tokens",
    away=True,
    graph="smoothed",
    noises=8,
    rule="momentum",
    momentum=0.75,
    starts=("random",),
)
SPECS = tuple(replace(_BALL, name=f"l2-{factor:g}", eps=factor) for factor in (0.5, 1.0, 2.0))
