"""Data sets through an engine with Ray Data: features or certificates as Parquet, slice by slice."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from fsfast.certificates.certification import plan_of
from fsfast.integrations.arrow import Precision
from fsfast.integrations.ray.job import Job, Kind
from fsfast.integrations.ray.opening import engine_everywhere
from fsfast.integrations.ray.pool import Machines, Summary, run
from fsfast.integrations.ray.results import Results
from fsfast.integrations.ray.slices import Paths
from fsfast.runtime.progress import Progress
from fsfast.runtime.sampling import check_samples


def encode_dataset(
    images: Paths,
    out: str | os.PathLike[str],
    engine: str | os.PathLike[str] = "demo",
    *,
    n0: int | None = None,
    raw_mean: bool = False,
    precision: Precision = "float32",
    column: str = "image",
    slice_images: int = 64,
    retry_failed: bool = False,
    machines: Machines | None = None,
    progress: Progress = None,
) -> Summary:
    """Write the smoothed features of a data set as Parquet files that `fsfast.integrations.arrow` reads.

    The same call again, after whatever ended it, goes on. Under the secret that this needs, all files have the same
    bits however often that happens.

    Args:
        images: paths or URLs (`s3://…`) of images, of folders, patterns, and of Parquet files with a column of images.
        out: folder of results; with several machines on a file system that they share, or a URL.
        engine: its directory, the same on all machines, or the name of a built-in one.
        n0, raw_mean: as in `SmoothedEncoder.encode`.
        precision: of the column of features; `unit` is always float32.
        column: of Parquet files, with files of images as bytes.
        slice_images: of one slice, which a worker holds in memory, and which is lost where it dies.
        retry_failed: do slices again that have images that failed.
        machines: where; None: one worker with one processor.
        progress: as in `SmoothedEncoder.encode`.

    Raises:
        FsfastError: `out` was begun with other images, settings, or another function; or there is no secret.
        BackendUnavailable: Ray is not installed.
    """
    n0 = None if n0 is None else check_samples(n0, "n0")
    machines = machines or Machines()
    job = _job("features", out, engine, machines, {"n0": n0, "raw_mean": raw_mean}, column)
    return run(replace(job, precision=precision), images, slice_images, retry_failed, machines, progress)


def certify_dataset(
    images: Paths,
    out: str | os.PathLike[str],
    engine: str | os.PathLike[str] = "demo",
    *,
    n: int | None = None,
    alpha: float = 1e-3,
    epsilon: float | None = None,
    cosine: float | None = None,
    n_max: int | None = None,
    n0: int | None = None,
    column: str = "image",
    slice_images: int = 16,
    retry_failed: bool = False,
    machines: Machines | None = None,
    progress: Progress = None,
) -> Summary:
    """Write certificates of a data set as Parquet files that `fsfast.integrations.certificate_table` reads.

    Args:
        n, alpha, epsilon, cosine, n_max, n0: as in `SmoothedEncoder.certify`.
        images, out, engine, column, slice_images, retry_failed, machines, progress: as in `encode_dataset`.

    Raises:
        FsfastError, BackendUnavailable: as `encode_dataset`.
        ValueError: what is asked contradicts itself.
    """
    n0 = None if n0 is None else check_samples(n0, "n0")
    plan_of(n, alpha, "mixture", epsilon, cosine, n_max, per_token=False)
    asked = {"n": n, "alpha": alpha, "epsilon": epsilon, "cosine": cosine, "n_max": n_max, "n0": n0}
    machines = machines or Machines()
    job = _job("certificates", out, engine, machines, asked, column)
    return run(job, images, slice_images, retry_failed, machines, progress)


def _job(
    kind: Kind,
    out: str | os.PathLike[str],
    engine: str | os.PathLike[str],
    machines: Machines,
    arguments: dict[str, Any],
    column: str,
) -> Job:
    return Job(
        kind,
        Results(out).url,
        engine_everywhere(engine),
        machines.engine_options,
        arguments,
        column=column,
        num_cpus=machines.num_cpus,
        secret_file=machines.secret_file,
    )
