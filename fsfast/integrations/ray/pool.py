"""Slices of a data set on a pool of Ray Data's actors, which are replaced where they die.

Ray Data does not know what was done before: a slice counts when its record is written, and those that count are left
out.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from fsfast.errors import FsfastError
from fsfast.integrations.packages import host_package
from fsfast.integrations.ray.job import Job, Spent
from fsfast.integrations.ray.opening import IDENTITY
from fsfast.integrations.ray.results import Results
from fsfast.integrations.ray.slices import Paths, Slice, digest_of, paths_of, slices_of
from fsfast.integrations.ray.work import Worker, described
from fsfast.runtime.progress import Progress, progress_bar
from fsfast.runtime.sampling import check_samples

ray = host_package("ray", "ray")
data = host_package("ray.data", "ray")

# Tasks that Ray Data plans at once; more would only cost it memory.
_MOST_BLOCKS = 4096


@dataclass(frozen=True)
class Machines:
    """Where slices are done.

    Attributes:
        workers: actors; or the least and the most of them.
        num_cpus, num_gpus, resources: of Ray, that each of them has for itself.
        engine_options: of `SmoothedEncoder`, such as backend and precision; device="cuda" with num_gpus=1.
        secret_file: on every machine; None: the environment's FSFAST_SECRET.
    """

    workers: int | tuple[int, int] = 1
    num_cpus: float = 1
    num_gpus: float = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    engine_options: Mapping[str, Any] = field(default_factory=dict)
    secret_file: str | None = None

    @property
    def needed(self) -> dict[str, Any]:
        """What Ray is asked for, for one worker."""
        return {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus, "resources": dict(self.resources)}


@dataclass(frozen=True)
class Summary:
    """What a call did.

    Attributes:
        slices, slices_before: that were done now, and before.
        spent: on the slices of now, in sum over all workers.
        seconds: from asking Ray for workers to the last slice.
    """

    slices: int
    slices_before: int
    spent: Spent
    seconds: float


def run(
    job: Job, images: Paths, slice_images: int, retry_failed: bool, machines: Machines, progress: Progress
) -> Summary:
    """Do a job on the slices of images that are not done yet; arguments and errors as `data.encode_dataset`."""
    slices = slices_of(paths_of(images), check_samples(slice_images, "slice_images"), job.column)
    if not slices:
        raise FsfastError(f"wanted images, got none from {images!r}")
    # Asked of a worker: this machine may have another processor, and no engine.
    facts = ray.get(ray.remote(_describe).options(**machines.needed).remote(job))
    results = Results(job.out)
    results.pin(facts | {"images": sum(each.count for each in slices), "slices": digest_of(slices)})
    job = replace(job, identity={name: facts[name] for name in IDENTITY})
    if retry_failed:
        results.forget_failed()
    before = results.done()
    todo = [each for each in slices if each.name not in before]
    start, spent = time.perf_counter(), Spent()
    with progress_bar(progress, sum(each.count for each in slices), job.kind) as advance:
        advance(sum(each.count for each in slices) - sum(each.count for each in todo))
        for part in _done(job, todo, machines) if todo else ():
            spent = spent + part
            advance(part.images + part.failed)
    return Summary(len(todo), len(slices) - len(todo), spent, time.perf_counter() - start)


class _Actor:
    """A worker, as Ray Data calls it."""

    def __init__(self, job: Job) -> None:
        self._worker = Worker(job)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return asdict(self._worker.do(pickle.loads(row["slice"])))


def _describe(job: Job) -> dict[str, Any]:
    return described(job, Worker(job).encoder)


def _done(job: Job, todo: Sequence[Slice], machines: Machines) -> Iterator[Spent]:
    """Yield what slices took, as they are done."""
    low, high = (
        machines.workers if isinstance(machines.workers, tuple) else (machines.workers, machines.workers)
    )
    # Not by the actors' constructors: what those are given through Ray's object store would be lost with its machine.
    rows = [{"slice": pickle.dumps(each)} for each in todo]
    dataset = data.from_items(rows, override_num_blocks=min(len(rows), _MOST_BLOCKS)).map(
        _Actor,
        fn_constructor_args=(job,),
        compute=data.ActorPoolStrategy(min_size=low, max_size=high, max_tasks_in_flight_per_actor=1),
        **machines.needed,
    )
    for row in dataset.iter_rows():
        yield Spent(**row)
