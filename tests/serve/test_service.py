"""What every protocol calls, without one."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the server needs the extra [serve]")

import fsfast
from fsfast.serve import service as module
from fsfast.serve.errors import DeadlineExceeded, Stopping
from fsfast.serve.keys import Caller
from fsfast.serve.models import Models
from fsfast.serve.service import Asked, Service


def serving(work):
    """Run a coroutine function on a service that is started."""

    async def run():
        service = Service(
            Models({"demo": "demo"}, lambda engine: fsfast.SmoothedEncoder(engine, threads=1), 1 << 12)
        )
        with pytest.raises(Stopping, match="not ready yet"):
            await service.encode(None, [b""], caller=Caller("a"))
        await service.start()
        try:
            await work(service)
            (model,) = service.models.open
            assert (model.users, model.scheduler.waiting_rows) == (0, 0)
        finally:
            await service.close()

    asyncio.run(run())


def test_many_images_of_one_request_keep_nobody_from_the_decoders(encoder, files, monkeypatch):
    order, prepared = [], module._prepared

    def noted(encoder, images, seeds):
        order.append(len(images))
        return prepared(encoder, images, seeds)

    monkeypatch.setattr(module, "_prepared", noted)

    async def work(service):
        service._decoders = ThreadPoolExecutor(1)
        caller = Caller("many", seeds=True)
        many = asyncio.create_task(service.encode(None, [files[0]] * 100, 1, range(100), caller=caller))
        while not order:
            await asyncio.sleep(0)
        await service.encode(None, files[:1], 1, caller=Caller("one"))
        # One was being decoded, and one waited.
        assert order.index(1) <= 2
        found = (await many).stacked("features")
        assert np.array_equal(
            found[::33], encoder.encode([files[0]] * 4, 1, seeds=range(0, 100, 33)).features
        )

    serving(work)


def test_what_is_late_is_given_up(files):
    async def work(service):
        with pytest.raises(DeadlineExceeded, match=r"within 0\.05 seconds"):
            await service.encode(None, files[:4], 500, caller=Caller("a"), deadline=0.05)
        with pytest.raises(DeadlineExceeded):
            await service.certify(None, files[0], Asked(n=50_000), caller=Caller("a"), deadline=0.3)
        (model,) = service.models.open
        while model.scheduler.waiting_certificates:
            await asyncio.sleep(0.01)

    serving(work)
