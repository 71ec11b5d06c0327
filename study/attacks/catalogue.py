"""The attacks by their names."""

from __future__ import annotations

from fsfast.errors import FsfastError, did_you_mean
from study.attacks import adaptive, attackvlm, certified_ball, foa_attack, known_seed, m_attack, purifier
from study.attacks.distortions import DISTORTIONS
from study.attacks.spec import AttackSpec

SPECS: dict[str, AttackSpec] = {
    spec.name: spec
    for spec in (
        attackvlm.SPEC,
        m_attack.SPEC,
        foa_attack.SPEC,
        # The plain attack on a class, as training measures it.
        AttackSpec("class", alpha=2 / 255, steps=50, objectives=("score",), starts=("random",)),
        *adaptive.SPECS,
        known_seed.SPEC,
        purifier.SPEC,
        *certified_ball.SPECS,
    )
}
# Changes that follow no gradient.
CHANGES = ("typographic", *DISTORTIONS)


def attack_named(name: str) -> AttackSpec | None:
    """Return an attack by its name, None for a change that follows no gradient.

    Raises:
        FsfastError: there is no such attack.
    """
    if name in CHANGES:
        return None
    if name not in SPECS:
        known = (*SPECS, *CHANGES)
        raise FsfastError(
            f"wanted an attack among {', '.join(known)}, got {name!r}{did_you_mean(name, known)}"
        )
    return SPECS[name]
