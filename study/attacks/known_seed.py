"""An attack on a server whose noise is known: seeds that do not change and are no secret.

Its samples are then one fixed function, which needs no average over noise. Under `secret=` the noise changes with
every pixel, and what was fitted to one noise meets another.
"""

from study.attacks.spec import AttackSpec

# The seed that the server is known to use for every image.
SEED = 0

SPEC = AttackSpec(
    "known-seed",
    alpha=None,
    steps=50,
    features="tokens",
    graph="known-seed",
    noises=4,
    starts=("plain", "random"),
)
