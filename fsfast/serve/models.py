"""The engines of a server: opened within a budget of memory, replaced without losing a request."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fsfast.encoder import SmoothedEncoder
from fsfast.errors import FsfastError, did_you_mean
from fsfast.machine import resident_bytes
from fsfast.serve.errors import Stopping, UnknownModel
from fsfast.serve.policy import Policy
from fsfast.serve.scheduler import Scheduler

logger = logging.getLogger("fsfast.serve")


@dataclass(eq=False)
class Model:
    """An open engine.

    Attributes:
        name: under which it is served.
        encoder: the engine.
        scheduler: that runs it.
        policy: the rule that its answers are held against, or None.
        memory: bytes by which the process grew.
        users: requests that are under way.
        used: when the last of them came, monotonic.
    """

    name: str
    encoder: SmoothedEncoder
    scheduler: Scheduler
    policy: Policy | None
    memory: int
    users: int = 0
    used: float = field(default_factory=time.monotonic)
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __enter__(self) -> Model:
        self.users += 1
        self.used = time.monotonic()
        self._idle.clear()
        return self

    def __exit__(self, *_: object) -> None:
        self.users -= 1
        if not self.users:
            self._idle.set()

    async def close(self) -> None:
        """Close the engine once nobody uses it."""
        if self.users:
            await self._idle.wait()
        await asyncio.to_thread(self.close_now)

    def close_now(self) -> None:
        """Close the engine; whoever waits is told so."""
        self.scheduler.close()
        self.encoder.close()


@dataclass(eq=False)
class _Entry:
    """A name, its engine, and the model while it is open; `unloaded` by an administrator it stays closed."""

    name: str
    engine: str
    model: Model | None = None
    memory: int = 0
    unloaded: bool = False


class Models:
    """Names and their engines. One that is not open is opened when it is asked for; of those that do not fit together
    into the budget, the one that was not used for longest is closed.

    Args:
        engines: name → directory of an engine, or the name of a built-in one; the first is the default.
        opener: opens an engine.
        max_rows: that may wait per model.
        policies: name → rule; "" for all others.
        memory: bytes for all engines; None: no limit.
    """

    def __init__(
        self,
        engines: Mapping[str, str],
        opener: Callable[[str], SmoothedEncoder],
        max_rows: int,
        policies: Mapping[str, Policy] | None = None,
        memory: int | None = None,
    ) -> None:
        self._entries = {name: _Entry(name, engine) for name, engine in engines.items()}
        self._opener = opener
        self._max_rows = max_rows
        self._policies = dict(policies or {})
        self._memory = memory
        self._lock = asyncio.Lock()

    @property
    def names(self) -> list[str]:
        """Of all models, open or not."""
        return list(self._entries)

    @property
    def open(self) -> list[Model]:
        """The models that are open."""
        return [entry.model for entry in self._entries.values() if entry.model is not None]

    @property
    def alive(self) -> bool:
        """Whether the threads of all open engines are there."""
        return all(model.scheduler.alive for model in self.open)

    def ready(self, name: str) -> bool:
        """Whether a model is open and answers; raises UnknownModel."""
        model = self._entry(name).model
        return model is not None and model.scheduler.alive

    def state(self, name: str) -> str:
        """Return "READY", or why it is not: as the repository API says it."""
        entry = self._entry(name)
        return "READY" if self.ready(name) else "UNAVAILABLE" if entry.unloaded else "CLOSED"

    async def open_all(self) -> None:
        """Open as many engines as fit into the budget, and let each compute once; errors as `SmoothedEncoder`."""
        for entry in self._entries.values():
            async with self._lock:
                if self._room_for(entry):
                    await self._open(entry)
                if entry.model is not None and not self._room_for(entry) and len(self.open) > 1:
                    # It needs more than its files said.
                    await self._close(entry)

    @asynccontextmanager
    async def use(self, name: str | None) -> AsyncIterator[Model]:
        """Give a model to a request; it stays open meanwhile.

        Args:
            name: of the model; None or "": the first.

        Raises:
            UnknownModel: there is none of this name.
            Stopping: it is unloaded, or does not fit beside those that are in use.
        """
        entry = self._entry(name or next(iter(self._entries)))
        if entry.model is None:
            async with self._lock:
                if entry.unloaded:
                    raise Stopping(f"the model {entry.name!r} is unloaded; ask its administrator to load it")
                if entry.model is None:
                    await self._make_room(entry)
                    await self._open(entry)
                    await self._trim(entry)
        assert entry.model is not None
        with entry.model as model:
            yield model

    async def load(self, name: str) -> None:
        """Open a model, or open it anew from what its directory holds now; requests under way end on the old one.

        Raises:
            UnknownModel: there is none of this name.
            EngineError: its engine cannot be used; the old one, if there is one, stays.
        """
        entry = self._entry(name)
        async with self._lock:
            old = entry.model
            await self._make_room(entry)
            await self._open(entry)
            entry.unloaded = False
            await self._trim(entry)
        if old is not None:
            await old.close()

    async def unload(self, name: str) -> None:
        """Close a model until it is loaded again; raises UnknownModel."""
        entry = self._entry(name)
        async with self._lock:
            entry.unloaded = True
            await self._close(entry)

    async def reload(self) -> None:
        """Open all open models anew; one that cannot be opened stays as it is, and the log says why."""
        for entry in self._entries.values():
            if entry.model is not None:
                try:
                    await self.load(entry.name)
                except (FsfastError, ValueError, OSError) as error:
                    logger.error("model %s stays as it was: %s", entry.name, error)

    async def close(self) -> None:
        """Close all engines; whoever waits is told so."""
        for entry in self._entries.values():
            model, entry.model = entry.model, None
            if model is not None:
                await asyncio.to_thread(model.close_now)

    def _entry(self, name: str) -> _Entry:
        try:
            return self._entries[name]
        except KeyError:
            known = ", ".join(self._entries)
            near = did_you_mean(name, self._entries)
            raise UnknownModel(f"wanted a model of this server ({known}), got {name!r}{near}") from None

    async def _open(self, entry: _Entry) -> None:
        """Open an engine; the lock is held."""
        before = resident_bytes()
        entry.model = await asyncio.to_thread(self._opened, entry)
        # An engine that is opened again may take memory that the process has already.
        entry.memory = entry.model.memory = max(
            resident_bytes() - before, entry.memory, _size_of(entry.engine)
        )
        encoder = entry.model.encoder
        logger.info(
            "model %s: %r, function %s, secret %s",
            entry.name,
            encoder,
            encoder.function_id,
            encoder.seeds.key_id,
        )

    def _opened(self, entry: _Entry) -> Model:
        encoder = self._opener(entry.engine)
        scheduler = Scheduler(encoder.function, encoder.threads, self._max_rows)
        policy = self._policies.get(entry.name, self._policies.get(""))
        model = Model(entry.name, encoder, scheduler, policy, 0)
        try:
            _warm_up(model)
        except BaseException:
            model.close_now()
            raise
        return model

    def _room_for(self, entry: _Entry) -> bool:
        if self._memory is None:
            return True
        needed = entry.memory or _size_of(entry.engine)
        return sum(model.memory for model in self.open if model.name != entry.name) + needed <= self._memory

    async def _make_room(self, entry: _Entry) -> None:
        """Close others until an engine fits; the lock is held.

        Raises:
            Stopping: it does not fit beside those that are in use.
        """
        await self._trim(entry)
        if not self._room_for(entry):
            if any(model.name != entry.name for model in self.open):
                raise Stopping(f"the model {entry.name!r} does not fit beside those in use; ask again later")
            logger.warning("model %s alone is larger than the budget of memory", entry.name)

    async def _trim(self, entry: _Entry) -> None:
        """Close what nobody uses, and of it what was not used for longest first, until an engine fits."""
        while not self._room_for(entry):
            idle = [model for model in self.open if not model.users and model.name != entry.name]
            if not idle:
                return
            oldest = min(idle, key=lambda model: model.used)
            logger.info("model %s is closed: memory for %s", oldest.name, entry.name)
            await self._close(self._entries[oldest.name])

    async def _close(self, entry: _Entry) -> None:
        """Take a model away from new requests, and close it after those that use it."""
        old, entry.model = entry.model, None
        if old is not None:
            await old.close()


def _warm_up(model: Model) -> None:
    """Let an engine compute once: the first request shall not wait for buffers and caches."""
    encoder = model.encoder
    blank = encoder.prepare(np.zeros((*encoder.grid.size, 3), np.uint8))
    assert not isinstance(blank, list)
    rows = min(encoder.n0, model.scheduler.max_rows)
    model.scheduler.admit(rows)
    model.scheduler.serve([blank], [0], rows, "")[0].result()


def _size_of(engine: str) -> int:
    """Return the bytes of an engine's files: what it needs at least."""
    from fsfast.engine.engine import engine_path

    return sum(file.stat().st_size for file in Path(engine_path(engine)).rglob("*") if file.is_file())
