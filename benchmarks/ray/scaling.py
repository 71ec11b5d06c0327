"""How much two workers do in the time of one: Ray Data over a set of images, Ray Serve under some clients."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
import ray
from ray import serve

import fsfast
from fsfast.integrations.ray import deployment, encode_dataset
from fsfast.integrations.ray.pool import Machines

# Not by benchmarks.measuring.built, which wants what builds engines.
IMAGES = Path(fsfast.__file__).parent / "assets"
SECRET = "a secret of the benchmarks"
_PORT = 8321
_STORE = 100_000_000
# Images of a slice, of which every worker gets some.
_SLICE = 16


@dataclass(frozen=True)
class Scaling:
    """One line of scaling.csv.

    Attributes:
        case: "alone" (one process without Ray), "data" or "serve".
        engine: its name.
        workers: of one thread each.
        images: that were encoded with the engine's n0.
        seconds: from the first image or request to the last; of data sets, from the end of the first slice.
        images_per_s: of all workers.
        speed_up: to one worker of the same case.
        read_ms, compute_ms, write_ms: of one image, by one worker; 0 where they are not known apart.
        read_kb, written_kb: of one image, 10³ bytes.
        p50_ms, p95_ms: of a request; 0 for data sets.
        memory_mb: of all processes below this one at the end, 10⁶ bytes.
        ray: its version.
    """

    case: str
    engine: str
    workers: int
    images: int
    seconds: float
    images_per_s: float
    speed_up: float = 1.0
    read_ms: float = 0.0
    compute_ms: float = 0.0
    write_ms: float = 0.0
    read_kb: float = 0.0
    written_kb: float = 0.0
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    memory_mb: float = 0.0
    ray: str = version("ray")


def scaling(engine: str, images: int, folder: Path) -> Iterator[Scaling]:
    """Yield one line after the other.

    Args:
        engine: directory of an engine, or the name of a built-in one.
        images: of the set, and of the requests.
        folder: for images and results; it has room for them.
    """
    paths = _pictures(images, folder / "images")
    yield _alone(engine, paths)
    for measured in (_data, _serve):
        first: Scaling | None = None
        for workers in (1, 2):
            with _ray():
                found = measured(engine, paths, workers, folder)
            first = first or found
            yield replace(found, speed_up=found.images_per_s / first.images_per_s)


def _pictures(count: int, folder: Path) -> list[Path]:
    """Write so many pictures, each of other bytes."""
    given = sorted(IMAGES.rglob("*.jpg")) + sorted(IMAGES.rglob("*.png"))
    folder.mkdir()
    for i in range(count):
        source = given[i % len(given)]
        # What follows the end of a picture is not read, and makes it another file.
        (folder / f"{i:05d}{source.suffix}").write_bytes(source.read_bytes() + i.to_bytes(4, "little"))
    return sorted(folder.iterdir())


@contextmanager
def _ray() -> Iterator[None]:
    """A node of two processors, ended afterwards."""
    ray.init(num_cpus=2, object_store_memory=_STORE, include_dashboard=False, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


def _alone(engine: str, paths: list[Path]) -> Scaling:
    with fsfast.SmoothedEncoder(engine, threads=1, secret=SECRET) as encoder:
        encoder.encode(paths[0])
        start = time.perf_counter()
        for _ in encoder.encode_iter(paths, progress=False):
            pass
        seconds = time.perf_counter() - start
        return Scaling("alone", encoder.manifest.name, 1, len(paths), seconds, len(paths) / seconds)


def _data(engine: str, paths: list[Path], workers: int, folder: Path) -> Scaling:
    out = folder / "features"
    ends: list[tuple[float, float]] = []

    def advance(images: float) -> None:
        if images:
            ends.append((time.perf_counter(), images))

    summary = encode_dataset(
        paths, out, engine, slice_images=_SLICE, machines=Machines(workers), progress=advance
    )
    shutil.rmtree(out)
    spent, count = summary.spent, len(paths)
    # From the end of the first slice, before which workers open their engines.
    (start, first), (end, _) = ends[0], ends[-1]
    return Scaling(
        "data",
        Path(engine).name,
        workers,
        count,
        end - start,
        (count - first) / (end - start),
        read_ms=1e3 * spent.read / count,
        compute_ms=1e3 * spent.compute / count,
        write_ms=1e3 * spent.write / count,
        read_kb=spent.bytes_read / count / 1e3,
        written_kb=spent.bytes_written / count / 1e3,
        memory_mb=_memory(),
    )


def _serve(engine: str, paths: list[Path], workers: int, folder: Path) -> Scaling:
    serve.start(http_options={"port": _PORT})
    serve.run(deployment(engine, min_replicas=workers, max_replicas=workers))
    clients = 4 * workers
    with fsfast.Client(f"http://127.0.0.1:{_PORT}") as client, ThreadPoolExecutor(clients) as pool:

        def ask(path: Path) -> float:
            start = time.perf_counter()
            client.encode(path)
            return time.perf_counter() - start

        list(pool.map(ask, paths[:clients]))
        start = time.perf_counter()
        times = list(pool.map(ask, paths))
        seconds = time.perf_counter() - start
    memory = _memory()
    serve.shutdown()
    p50, p95 = np.percentile(times, (50, 95))
    return Scaling(
        "serve",
        Path(engine).name,
        workers,
        len(paths),
        seconds,
        len(paths) / seconds,
        p50_ms=1e3 * float(p50),
        p95_ms=1e3 * float(p95),
        memory_mb=memory,
    )


def _memory() -> float:
    """Return the MB that the processes below this one have to themselves."""
    found = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            found += process.memory_full_info().uss / 1e6
        except psutil.Error:
            continue
    return found
