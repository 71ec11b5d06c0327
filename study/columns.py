"""The tables of the results, image by image."""

from study.defences import KNOWN, NONE, PURIFIER, SMOOTHED

# Name of a defence → of its columns.
SHORT = {
    NONE: "none",
    PURIFIER: "purifier",
    **{name: f"n0_{n0}" for n0, name in SMOOTHED.items()},
    KNOWN: "known",
}
KEY = ("engine", "attack", "eps", "seed", "image")
# Of every defence the class that it sees, and the cosine of its feature to the encoder's own of the clean image.
COLUMNS = (
    *KEY,
    "label",
    "target",
    *(f"{name}_{what}" for name in SHORT.values() for what in ("class", "cosine")),
)
