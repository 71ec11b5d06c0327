"""AttackVLM's matching of image features, MF-ii (Zhao et al. 2023, arXiv 2305.16934), in the white-box setting.

The encoder's global feature climbs towards that of the target image by steps of the gradient's signs, without crops,
momentum or a random start. Its authors' radius is 8/255; 16/255 is the paper's.
"""

from study.attacks.spec import AttackSpec

SPEC = AttackSpec("attackvlm")
