"""The packages whose pictures are taken, which of them, and what they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from train import tiles

Kind = Literal["photograph", "drawing", "stamp", "medical"]
KINDS: tuple[Kind, ...] = ("photograph", "drawing", "stamp", "medical")


@dataclass(frozen=True)
class Rule:
    """Pictures of one kind.

    Attributes:
        kind: "photograph"; "drawing"; "stamp", a thing cut out of its ground; "medical", a photograph of tissue.
        wanted: patterns of upstream's names, as fnmatch has them.
        unwanted: patterns of those among them that are left out.
    """

    kind: Kind
    wanted: tuple[str, ...]
    unwanted: tuple[str, ...] = ()

    def takes(self, name: str) -> bool:
        """Whether a picture belongs to it."""
        return any(fnmatchcase(name, each) for each in self.wanted) and not any(
            fnmatchcase(name, each) for each in self.unwanted
        )


@dataclass(frozen=True)
class Source:
    """A package with pictures.

    Attributes:
        package: its name.
        of: "debian" or "pypi".
        rules: the first that takes a picture says its kind.
        root: what stands before the pictures' names in the package, and is replaced by `upstream`.
        upstream: the folder that the package's copyright file names them in.
        licence: where the package has no copyright file in Debian's form: of all pictures, or
        licences: of each.
        most: of the pictures that rules take at most so many are kept, chosen by their names; None: all.
    """

    package: str
    of: Literal["debian", "pypi"]
    rules: tuple[Rule, ...]
    root: str = ""
    upstream: str = ""
    licence: str | None = None
    licences: Mapping[str, str] = field(default_factory=dict)
    most: int | None = None

    def kind(self, name: str) -> Kind | None:
        """Return the kind of a picture by its upstream name, or None where it is not taken."""
        return next((rule.kind for rule in self.rules if rule.takes(name)), None)

    def upstream_name(self, name: str) -> str | None:
        """Return upstream's name of a file of the package, None where it lies elsewhere."""
        return self.upstream + name.removeprefix(self.root) if name.startswith(self.root) else None


_GCOMPRIS = "src/activities/"
# By the names that `train/tiles.py` has, with their licences.
_WHEELS = {
    "skimage/data/brick.png": "brick",
    "skimage/data/grass.png": "grass",
    "skimage/data/gravel.png": "gravel",
    "skimage/data/chelsea.png": "chelsea",
    "skimage/data/coffee.png": "coffee",
    "skimage/data/clock_motion.png": "clock",
    "skimage/data/rocket.jpg": "rocket",
    "skimage/data/hubble_deep_field.jpg": "hubble_deep_field",
    "skimage/data/cell.png": "cell",
    "skimage/data/ihc.png": "immunohistochemistry",
    "skimage/data/retina.jpg": "retina",
    "sklearn/datasets/images/flower.jpg": "flower.jpg",
    "sklearn/datasets/images/china.jpg": "china.jpg",
}


def _wheel(package: str, folder: str) -> Source:
    by_name = {source.name: source for source in tiles.SOURCES}
    known = {file: by_name[name] for file, name in _WHEELS.items() if file.startswith(folder)}
    medical = tuple(file for file, source in known.items() if source.kind == "medical")
    rules = (Rule("medical", medical), Rule("photograph", tuple(known)))
    return Source(package, "pypi", rules, licences={file: source.licence for file, source in known.items()})


# Pictures with human faces are left out, and so are those that are parts of others, or abstract.
SOURCES = (
    Source(
        "gcompris-qt-data",
        "debian",
        (
            Rule(
                "photograph",
                (
                    f"{_GCOMPRIS}categorization/resource/images/*",
                    f"{_GCOMPRIS}details/resource/image/*_background.webp",
                    f"{_GCOMPRIS}erase/resource/*",
                    f"{_GCOMPRIS}explore_farm_animals/resource/animals/*",
                    f"{_GCOMPRIS}explore_monuments/resource/*",
                    f"{_GCOMPRIS}explore_world_animals/resource/animals/*",
                    f"{_GCOMPRIS}explore_world_music/resource/music/a[fm]*",
                    f"{_GCOMPRIS}explore_world_music/resource/music/middleeast.webp",
                    f"{_GCOMPRIS}clickgame/resource/sea*",
                ),
                (
                    "*/alphabets.webp",
                    "*/numbers.webp",
                    # Paintings.
                    *(
                        f"*/{name}_background.webp"
                        for name in ("Eglise*", "Gogh*", "Portrait*", "Van*", "Vincent*")
                    ),
                ),
            ),
            Rule("drawing", (f"{_GCOMPRIS}lang/resource/words_sample/*",)),
        ),
        root="gcompris/",
    ),
    Source(
        "plasma-workspace-wallpapers",
        "debian",
        (
            Rule(
                "photograph",
                tuple(
                    f"{name}/contents/images/*"
                    for name in (
                        *(
                            "BytheWater",
                            "ColdRipple",
                            "ColorfulCups",
                            "DarkestHour",
                            "EveningGlow",
                            "FallenLeaf",
                        ),
                        *("Grey", "Kite", "OneStandsOut", "Path", "summer_1am"),
                    )
                ),
            ),
        ),
        root="usr/share/wallpapers/",
    ),
    Source(
        "mate-backgrounds", "debian", (Rule("photograph", ("nature/*",)),), root="usr/share/backgrounds/mate/"
    ),
    Source(
        "lomiri-wallpapers-16.04",
        "debian",
        (Rule("photograph", ("16.04/*",), ("*/analogpattern*", "*/umang*")),),
        root="usr/share/backgrounds/",
        upstream="16.04/",
    ),
    Source(
        "lomiri-wallpapers-20.04",
        "debian",
        (Rule("photograph", ("20.04/Kleiber*",)),),
        root="usr/share/backgrounds/",
        upstream="20.04/",
    ),
    Source(
        "tuxpaint-stamps-default",
        "debian",
        (
            Rule(
                "stamp",
                tuple(
                    f"{folder}/*.png"
                    for folder in ("animals", "food", "hobbies", "household", "plants", "sports", "vehicles")
                ),
                ("*/cartoon/*",),
            ),
        ),
        root="usr/share/tuxpaint/stamps/",
    ),
    Source(
        "openclipart-png",
        "debian",
        (
            Rule(
                "drawing",
                tuple(
                    f"{folder}/*"
                    for folder in (
                        *(
                            "animals",
                            "buildings",
                            "food",
                            "plants",
                            "recreation/music",
                            "recreation/toys",
                            "tools",
                        ),
                        "transportation",
                    )
                ),
                ("transportation/aiga-symbols/*", "transportation/roadsigns/*"),
            ),
        ),
        root="usr/share/openclipart/png/",
        licence="public domain",
        most=250,
    ),
    _wheel("scikit-image", "skimage/"),
    _wheel("scikit-learn", "sklearn/"),
)
