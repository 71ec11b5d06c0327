"""What is measured: processor time per request, twice the capacity, a long run, a server that is killed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import fsfast
from benchmarks.load.faults import Fault, grpc_faults, http_faults, many_half_open
from benchmarks.load.server import Server, free_port
from benchmarks.load.traffic import BAD_IMAGE, GOOD, REFUSED, UNREACHED, Tally, Traffic, pictures

CLIENTS = (1, 8, 32)
# Of the pictures, before they are fitted to the grid.
_SIZE = 256
_PICTURES = 50
# Of the processor, for one number of clients: slow engines are asked less often.
_SECONDS = 120.0
# Twice the capacity of the demo's engine fills so many rows within seconds.
_QUEUE = ("--max-rows", "256")


@dataclass(frozen=True)
class Load:
    """One number of clients, each of which asks for one picture at a time.

    Attributes:
        server_ms: processor time of the server per request, threads of a back end that wait for work spinning included.
        engine_ms: processor time of `SmoothedEncoder.encode` for the same pictures.
        own_ms: of `server_ms` that of the thread that reads, routes, schedules and writes, and does nothing else.
        own_share: of `engine_ms`.
    """

    engine: str
    clients: int
    requests: int
    requests_per_s: float
    p50_ms: float
    p95_ms: float
    server_ms: float
    engine_ms: float
    own_ms: float
    own_share: float
    memory_mb: float


@dataclass(frozen=True)
class Overload:
    """Twice as many requests as a server can answer.

    Attributes:
        requests, good, refused, unreached, other: how many there were, and what became of them; refused with 429.
        wrong: answers that were not those for their image.
        capacity_per_s: answers per second to eight clients that wait for theirs.
        goodput_per_s: good answers per second at twice that rate.
        goodput_share: of the capacity. The clients' own work on the same machine is in it.
        capacity_ms, overload_ms: the server's processor time per good answer, that of all refusals included.
        processor_share: of the first in the second: the goodput where clients have machines of their own.
        before_mb, after_mb: the server's memory, after a tenth of the run and in the end.
    """

    engine: str
    requests: int
    good: int
    refused: int
    unreached: int
    other: int
    wrong: int
    capacity_per_s: float
    goodput_per_s: float
    goodput_share: float
    capacity_ms: float
    overload_ms: float
    processor_share: float
    before_mb: float
    after_mb: float


@dataclass(frozen=True)
class Endurance:
    """A run whose end is compared with its beginning.

    Attributes:
        case: a long run, or a server that is killed.
        refused: answers with 429.
        unreached: requests without an answer.
        other: further outcomes.
        wrong: answers that were not those for their image.
        before_mb, after_mb: the server's memory, after a tenth of the run and in the end.
    """

    case: str
    engine: str
    requests: int
    good: int
    bad_images: int
    refused: int
    unreached: int
    other: int
    wrong: int
    before_mb: float
    after_mb: float


async def loads(name: str, engine: str, most: int, clients: Sequence[int] = CLIENTS) -> list[Load]:
    """Measure requests of every number of clients, at most so many each.

    Args:
        name: of the engine in the table.
        engine: its directory, or the name of a built-in one.
        most: requests; a slow engine is asked as often as two minutes of one processor allow.
        clients: numbers of clients.
    """
    files = pictures(_PICTURES, _SIZE)
    engine_ms = 1e3 * _encode_seconds(engine, files)
    requests = min(most, max(clients[-1], int(1e3 * _SECONDS / engine_ms)))
    found = []
    with Server(f"{name}={engine}") as server:
        traffic = Traffic(server.url, name, files)
        await traffic.by_clients(2, 20)
        for count in clients:
            before, before_loop = server.processor_seconds, server.loop_seconds
            tally = await traffic.by_clients(count, requests)
            server_ms = 1e3 * (server.processor_seconds - before) / requests
            own_ms = 1e3 * (server.loop_seconds - before_loop) / requests
            found.append(
                Load(
                    name,
                    count,
                    requests,
                    tally.goodput,
                    1e3 * tally.percentile(50),
                    1e3 * tally.percentile(95),
                    server_ms,
                    engine_ms,
                    own_ms,
                    own_ms / engine_ms,
                    server.memory / 1e6,
                )
            )
    return found


def _encode_seconds(engine: str, files: Sequence[bytes]) -> float:
    """Return the processor time of encoding one picture, without a server."""
    with fsfast.SmoothedEncoder(engine) as encoder:
        encoder.encode(files[0])
        before = time.process_time()
        for file in files:
            encoder.encode(file)
        return (time.process_time() - before) / len(files)


async def overload(engine: str, requests: int, seconds: float) -> Overload:
    """Measure the capacity with 8 clients, and then send twice as much."""
    with Server(engine, *_QUEUE) as server:
        traffic = Traffic(server.url, engine, pictures(_PICTURES, _SIZE))
        await traffic.by_clients(2, 20)
        spent = [server.processor_seconds]
        first = await traffic.by_clients(8, requests)
        spent.append(server.processor_seconds)
        await traffic.by_rate(2 * first.goodput, seconds / 10)
        before = server.memory
        spent.append(server.processor_seconds)
        tally = await traffic.by_rate(2 * first.goodput, seconds)
        spent.append(server.processor_seconds)
        outcomes, good = tally.outcomes, tally.outcomes[GOOD]
        counts = good, outcomes[REFUSED], outcomes[UNREACHED]
        capacity_ms = 1e3 * (spent[1] - spent[0]) / first.outcomes[GOOD]
        overload_ms = 1e3 * (spent[3] - spent[2]) / good
        return Overload(
            engine,
            outcomes.total(),
            *counts,
            outcomes.total() - sum(counts),
            first.wrong + tally.wrong,
            first.goodput,
            tally.goodput,
            tally.goodput / first.goodput,
            capacity_ms,
            overload_ms,
            capacity_ms / overload_ms,
            before / 1e6,
            server.memory / 1e6,
        )


async def long_run(engine: str, requests: int, clients: int = 8) -> Endurance:
    """Send many requests, of which one in ten brings no picture."""
    with Server(engine) as server:
        traffic = Traffic(server.url, engine, pictures(_PICTURES, _SIZE), bad_every=10)
        await traffic.by_clients(clients, requests // 10)
        before = server.memory
        tally = await traffic.by_clients(clients, requests)
        return _endurance("a long run, one in ten without a picture", engine, tally, before, server.memory)


async def restart(engine: str, requests: int, clients: int = 8) -> Endurance:
    """Kill the server amid requests, and start it again at the same address."""
    port = free_port()
    traffic = Traffic(f"http://127.0.0.1:{port}", engine, pictures(_PICTURES, _SIZE))
    with Server(engine, port=port) as server:
        tally = Tally()
        running = asyncio.create_task(traffic.by_clients(clients, requests, tally))
        while tally.outcomes.total() < requests // 4:
            await asyncio.sleep(0.01)
        before = server.memory
        server.kill()
        await running
    with Server(engine, port=port) as server:
        again = await traffic.by_clients(clients, requests)
        for name, count in again.outcomes.items():
            tally.outcomes[name] += count
        tally.wrong += again.wrong
        return _endurance("kill -9, and a new server", engine, tally, before, server.memory)


def _endurance(case: str, engine: str, tally: Tally, before: int, after: int) -> Endurance:
    named = (GOOD, BAD_IMAGE, REFUSED, UNREACHED)
    counts = [tally.outcomes[name] for name in named]
    total = tally.outcomes.total()
    return Endurance(
        case, engine, total, *counts, total - sum(counts), tally.wrong, before / 1e6, after / 1e6
    )


async def faults(body_mb: float = 4.0, patience: float = 5.0) -> list[Fault]:
    """Let the built-in engine's server meet every kind of broken client; it waits for requests so many seconds."""
    files = pictures(4, _SIZE)
    options = {"--max-body-mb": body_mb, "--head-seconds": patience, "--body-seconds": patience}
    with Server("demo", *(str(word) for pair in options.items() for word in pair)) as server:
        return [
            *await http_faults(server, files, int(body_mb * 1e6)),
            await many_half_open(server, files),
            *await grpc_faults(server, files),
        ]
