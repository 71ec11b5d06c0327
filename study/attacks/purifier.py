"""An attack on the purifier alone: what it makes of the attacked image is to differ from what it makes of the clean.

It knows no target, and nothing of the encoder.
"""

from study.attacks.spec import AttackSpec

SPEC = AttackSpec(
    "purifier",
    alpha=None,
    steps=50,
    objectives=("distance",),
    away=True,
    graph="smoothed",
    noises=4,
    rule="momentum",
    momentum=0.75,
    starts=("random",),
)
