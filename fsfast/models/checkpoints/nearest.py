"""The family that a checkpoint of an unknown layout comes nearest to, by names."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from fsfast.models.checkpoints.encoder import empty_tower
from fsfast.models.checkpoints.families import FAMILIES
from fsfast.models.checkpoints.layouts import Tower
from fsfast.models.checkpoints.matching import Differences
from fsfast.models.checkpoints.names import LAYOUTS, Layout
from fsfast.models.checkpoints.shards import Checkpoint


@dataclass(frozen=True)
class Nearest:
    """A family and how far a checkpoint is from it.

    Attributes:
        family: in words.
        layout: whose names.
        fits: names in common.
        wanted: names that a tower of the family with as many blocks has.
        differences: names that are missing, and unexpected under the same prefix.
    """

    family: str
    layout: str
    fits: int
    wanted: int
    differences: Differences


def nearest(checkpoint: Checkpoint) -> Nearest | None:
    """Return the family with most names in common, None where no name is."""
    found: list[tuple[int, Tower, str]] = []
    for layout in LAYOUTS:
        for family in filter(None, (layout.family, layout.classless, layout.ungated)):
            template = _names(layout, family, "", checkpoint, 1)
            prefixes = Counter(
                name.removesuffix(end)
                for name in checkpoint.names
                for end in template
                if name == end or name.endswith(f".{end}")
            )
            for prefix, count in prefixes.most_common(1):
                found.append((count, Tower(layout, prefix, False, False, checkpoint.names), family))
    if not found:
        return None
    _, tower, family = max(found, key=lambda each: each[0])
    wanted = _names(tower.layout, family, tower.prefix, checkpoint, max(tower.blocks(), 1))
    there = wanted & checkpoint.names
    unexpected = sorted(set(tower.own) - wanted)
    differences = Differences(tuple(sorted(wanted - there)), tuple(unexpected), ())
    return Nearest(family, tower.layout.name, len(there), len(wanted), differences)


def _names(layout: Layout, family: str, prefix: str, checkpoint: Checkpoint, blocks: int) -> set[str]:
    """The names of a tower of a family; where biases may be left out, those that the checkpoint has."""
    tower = Tower(layout, prefix, False, False, checkpoint.names)
    own = FAMILIES[family].config
    # Blocks that are told apart by their index change no name; taps have weights of their own.
    taps = tuple(tap for tap in own.taps if tap < blocks)
    config = replace(own, layers=blocks, taps=taps, full_layers=())
    _, _, sources = empty_tower(tower, config)
    return {name for source in sources.values() for name in source.stored}
