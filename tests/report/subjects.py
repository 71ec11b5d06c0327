"""Images for what the demo shows."""

from __future__ import annotations

from fsfast.images.grid import to_grid_image
from fsfast.report.data import Subject
from fsfast.report.examples import load_examples


def subjects_of(encoder, count=2):
    grid = encoder.manifest.grid
    return [
        Subject(
            e.name,
            to_grid_image(e.image, grid, name=e.image.name),
            e.label,
            to_grid_image(e.attacked, grid),
            e.target,
        )
        for e in load_examples()[:count]
    ]
