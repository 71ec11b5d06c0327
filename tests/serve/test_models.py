"""Engines within a budget of memory, and health that tells the truth."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

httpx = pytest.importorskip("httpx", reason="the tests of the server ask by httpx")
pytest.importorskip("fastapi", reason="the server needs the extra [serve]")

import fsfast  # noqa: E402
from fsfast.errors import EngineError  # noqa: E402
from fsfast.serve import models as module  # noqa: E402
from fsfast.serve.app import make_app  # noqa: E402
from fsfast.serve.errors import Stopping, UnknownModel  # noqa: E402
from fsfast.serve.models import Models  # noqa: E402
from fsfast.serve.service import Service  # noqa: E402

GROWTH = 100 << 20


@pytest.fixture
def two(monkeypatch):
    """Two names of one engine, of which one fits; each opening takes 100 MiB."""
    sizes = iter(range(0, 100 * GROWTH, GROWTH))
    monkeypatch.setattr(module, "resident_bytes", lambda: next(sizes))

    def opener(engine):
        return fsfast.SmoothedEncoder(engine, threads=1)

    return Models({"a": "demo", "b": "demo"}, opener, 1 << 10, memory=GROWTH * 3 // 2)


def test_what_was_not_used_for_longest_makes_room(two):
    async def run():
        await two.open_all()
        assert [model.name for model in two.open] == ["a"]
        async with two.use(None) as first:
            assert first.name == "a"
            with pytest.raises(Stopping, match="does not fit beside those in use"):
                await two.use("b").__aenter__()
        async with two.use("b") as second:
            assert [model.name for model in two.open] == ["b"]
            assert first.encoder.closed
            assert not second.encoder.closed
        assert (two.state("a"), two.state("b")) == ("CLOSED", "READY")
        with pytest.raises(UnknownModel, match="wanted a model of this server"):
            await two.use("c").__aenter__()
        await two.close()

    asyncio.run(run())


def test_a_model_is_replaced_after_its_requests_and_stays_where_its_engine_is_damaged(two):
    async def run():
        await two.open_all()
        async with two.use("a") as old:
            loading = asyncio.create_task(two.load("a"))
            while two.open[0] is old:
                await asyncio.sleep(0.01)
            # Who has the old one goes on with it.
            old.scheduler.admit(1)
            old.scheduler.release(1)
            assert not old.encoder.closed
        await loading
        assert old.encoder.closed

        def damaged(engine):
            raise EngineError("damaged")

        two._opener = damaged
        with pytest.raises(EngineError, match="damaged"):
            await two.load("a")
        await two.reload()
        assert two.ready("a")
        await two.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("alive", "started", "stopping", "live", "ready"),
    [
        (True, False, False, 200, 503),
        (True, True, False, 200, 200),
        (True, True, True, 200, 503),
        (False, True, False, 503, 503),
    ],
)
def test_health_tells_the_truth(alive, started, stopping, live, ready):
    service = Service(SimpleNamespace(alive=alive, open=[]), stopping=stopping, _started=started)

    async def statuses():
        transport = httpx.ASGITransport(make_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return [(await client.get(f"/v2/health/{what}")).status_code for what in ("live", "ready")]

    assert asyncio.run(statuses()) == [live, ready]
