"""What is to be made of a data set, and what a slice of it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from fsfast.integrations.arrow import Precision

Kind = Literal["features", "certificates"]


@dataclass(frozen=True)
class Job:
    """What is to be made of every slice; it holds no secret.

    Attributes:
        kind: of results, and of their folder.
        out: folder of results, as `Results` takes it.
        engine: directory of the engine on every machine, or the name of a built-in one.
        options: of `SmoothedEncoder`.
        arguments: of `encode_iter`, or of `certify_iter`.
        precision: of features in files.
        column: of Parquet files with images.
        num_cpus: processors of one worker.
        secret_file: on every machine; None: the environment's FSFAST_SECRET.
        identity: what every worker has to compute; empty: whatever it does.
    """

    kind: Kind
    out: str
    engine: str
    options: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    precision: Precision = "float32"
    column: str = "image"
    num_cpus: float = 1
    secret_file: str | None = None
    identity: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Spent:
    """What a slice took.

    Attributes:
        images: that did not fail.
        failed: images that did.
        bytes_read, bytes_written: of images, and of the slice's file.
        read, compute, write: seconds.
    """

    images: int = 0
    failed: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    read: float = 0.0
    compute: float = 0.0
    write: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))
