"""What all measurements share: the engines, the images, what a sample costs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measuring import harness
from benchmarks.paper.counts import Count
from benchmarks.paper.engines import Spec
from benchmarks.paper.request import Inputs, Request
from fsfast.commands.common import as_text
from fsfast.encoder import SmoothedEncoder
from fsfast.engine.engine import Engine
from fsfast.errors import printable
from fsfast.images.grid import GridImage, to_grid_image


@dataclass(frozen=True)
class Study:
    """One call of the command.

    Attributes:
        request, inputs: what is asked for.
        engines: all of them.
        counts: purifier's preset → stage → operations of one sample.
    """

    request: Request
    inputs: Inputs
    engines: Mapping[Spec, Engine]
    counts: Mapping[str, Mapping[str, Count]]

    @property
    def main(self) -> str:
        """The purifier of Tables 2 and 5."""
        return next(iter(self.inputs.purifiers))

    @property
    def images(self) -> range:
        """The positions of the images."""
        return range(len(self.inputs.images))

    @property
    def purified(self) -> list[Spec]:
        """The engines of Table S.8."""
        return [spec for spec in self.engines if spec.purifier and spec.sigma == self.request.sigmas[0]]

    def flops(self, purifier: str | None, stages: Sequence[str]) -> float:
        """Return the operations of one sample."""
        return float(sum(self.counts[purifier or self.main][stage].flops for stage in stages))

    def name(self, position: int) -> str:
        """Return an image's name in the tables: its path below the folder of images."""
        path = os.path.relpath(self.inputs.images[position], self.request.images)
        return printable(as_text(path), keep="")

    def image(self, position: int, spec: Spec) -> GridImage:
        """Return an image on an engine's grid."""
        return to_grid_image(
            self.inputs.images[position], self.engines[spec].manifest.grid, name=self.name(position)
        )

    def attacked(self, position: int) -> Path:
        """Return where an attacked image stands."""
        return self.request.out / "attacked" / f"{position:04}.png"

    def open(self, spec: Spec, micro_batch: int, stages: Sequence[str] | None = None) -> SmoothedEncoder:
        """Open an engine; on a CPU a micro-batch is one row."""
        return SmoothedEncoder(
            self.engines[spec].path,
            device=self.request.device,
            backend=self.request.backend,
            precision=self.request.precision,
            micro_batch=micro_batch if self.request.on_gpu else None,
            stages=stages,
        )

    def circumstances(self) -> dict[str, str]:
        """Return where and with what this call measures."""
        driver = harness.driver() if self.request.on_gpu else {}
        return harness.circumstances(self.request.machine) | driver
