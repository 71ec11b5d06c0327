"""M-Attack (Li et al. 2025, arXiv 2503.10635), in the white-box setting.

As AttackVLM, between a random crop of the attacked image and another one of the target, new in every step. Its authors'
three surrogates are replaced by the encoder that is attacked.
"""

from study.attacks.spec import AttackSpec

SPEC = AttackSpec("m-attack", crops=(0.5, 0.9))
