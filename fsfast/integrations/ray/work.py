"""One slice of a data set: its images are read, computed and written. Nothing here knows Ray."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from fsfast.encoder import SmoothedEncoder
from fsfast.errors import FsfastError
from fsfast.images.grid import GridImage, to_grid_image
from fsfast.integrations.arrow import to_table
from fsfast.integrations.certificate_table import certificates_to_table
from fsfast.integrations.packages import host_package
from fsfast.integrations.parquet import encoding_of
from fsfast.integrations.ray.job import Job, Spent
from fsfast.integrations.ray.opening import check_same, identity, open_encoder
from fsfast.integrations.ray.results import Results
from fsfast.integrations.ray.slices import Slice
from fsfast.runtime.features import joined

host_package("pyarrow", "ray")

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402


class Worker:
    """Does slices one after the other with one engine.

    Args:
        job: what is to be done.

    Raises:
        ReplicasDiffer: this machine computes another function than the job is about.
        FsfastError: as `open_encoder`.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._results = Results(job.out)
        self.encoder = open_encoder(job.engine, job.options, job.secret_file, job.num_cpus)
        check_same(identity(self.encoder), job.identity, "this folder of results has")

    def do(self, each: Slice) -> Spent:
        """Do a slice, unless another worker that died has done it; its file is there before its record."""
        if self._results.record(each.name) is not None:
            return Spent()
        spent, failed = Spent(), list[dict[str, str]]()
        start = time.perf_counter()
        table = self._table(self._read(each, spent, failed))
        spent.compute = time.perf_counter() - start - spent.read
        start = time.perf_counter()
        if table is not None:
            content = _parquet(table)
            self._results.write(f"{self._job.kind}/{each.name}.parquet", content)
            spent.images, spent.bytes_written = len(table), len(content)
        self._results.finish(each.name, {"images": spent.images, "failed": failed})
        spent.failed, spent.write = len(failed), time.perf_counter() - start
        return spent

    def _read(self, each: Slice, spent: Spent, failed: list[dict[str, str]]) -> Iterator[GridImage]:
        """Yield images on the grid, and note those that are none."""
        images = each.images(self._job.column)
        start = time.perf_counter()
        for name, content in images:
            try:
                if isinstance(content, FsfastError):
                    raise content
                image = to_grid_image(content, self.encoder.grid, name)
            except (FsfastError, TypeError) as error:
                failed.append({"name": name, "error": f"{type(error).__name__}: {error}"})
            else:
                spent.bytes_read += len(content)
                spent.read += time.perf_counter() - start
                yield image
                start = time.perf_counter()
        spent.read += time.perf_counter() - start

    def _table(self, images: Iterator[GridImage]) -> pa.Table | None:
        """Return what is computed of images; None where there are none."""
        given: dict[str, Any] = {**self._job.arguments, "progress": False}
        if self._job.kind == "features":
            encoded = self.encoder.encode_iter(images, **given)
            parts = [outcome.result for outcome in encoded if outcome.result is not None]
            return to_table(joined(parts), self._job.precision) if parts else None
        certified = self.encoder.certify_iter(images, **given)
        made = [outcome.result for outcome in certified if outcome.result is not None]
        return certificates_to_table(made) if made else None


def described(job: Job, encoder: SmoothedEncoder) -> dict[str, Any]:
    """Return what all slices of a job have in common."""
    arguments = {name: value for name, value in job.arguments.items() if value is not None}
    facts = {"format": "fsfast-slices", "schema": 1, "kind": job.kind, "engine": encoder.manifest.name}
    facts |= {"sigma": encoder.sigma, "n0": encoder.n0} | identity(encoder) | arguments
    return facts | ({"precision": job.precision} if job.kind == "features" else {})


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **encoding_of(table.schema))
    content: bytes = sink.getvalue().to_pybytes()
    return content
