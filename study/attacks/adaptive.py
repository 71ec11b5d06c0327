"""Attacks on the whole defence: gradients through all networks, averaged over fresh noises (EOT).

Purifiers of one step are ordinary networks, so that nothing has to be approximated (Athalye et al. 2018, arXiv
1802.00420). One run starts from what the plain attack found, the other at random; the better one counts.
"""

from __future__ import annotations

from dataclasses import replace

from study.attacks.spec import AttackSpec

_EOT = AttackSpec(
    "eot-4",
    alpha=None,
    steps=50,
    features="tokens",
    graph="smoothed",
    noises=4,
    rule="momentum",
    momentum=0.75,
    starts=("plain", "random"),
)
SPECS = (
    _EOT,
    replace(_EOT, name="eot-16", noises=16),
    replace(_EOT, name="eot-32", noises=32),
    replace(_EOT, name="apgd-eot-8", noises=8, rule="apgd", momentum=0.0),
    # The strongest on a class: 60 steps of each objective.
    replace(
        _EOT,
        name="eot-8-rounds",
        noises=8,
        steps=60,
        rule="sign",
        momentum=0.0,
        objectives=("score", "cross-entropy", "margin"),
    ),
    replace(_EOT, name="purified", graph="purified", noises=1, rule="sign", momentum=0.0, starts=("image",)),
)
