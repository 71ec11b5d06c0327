"""Many clients that ask for features: each as soon as it is answered, or all at a rate that nothing slows down."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx
import numpy as np
from PIL import Image

from fsfast.client.tensors import HEADER_LENGTH, pack, unpack

GOOD, BAD_IMAGE, REFUSED, UNREACHED = "good", "bad image", "429", "unreached"
_BAD = b"this is no image"


@dataclass
class Tally:
    """What became of requests.

    Attributes:
        outcomes: how often each came: GOOD, BAD_IMAGE, REFUSED, UNREACHED, or another status.
        seconds: of every request that was answered with features.
        wrong: answers that were not those for their image: other features than the first time, or features of none.
        wall: seconds of all.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    wrong: int = 0
    wall: float = 0.0

    @property
    def goodput(self) -> float:
        """Requests per second that were answered with features."""
        return self.outcomes[GOOD] / self.wall

    def percentile(self, share: float) -> float:
        """Return a percentile of the seconds of good answers, nan where there are none."""
        return float(np.percentile(self.seconds, share)) if self.seconds else float("nan")


def pictures(count: int, size: int) -> list[bytes]:
    """Return so many JPEG files of `size`² pixels."""
    noise, files = np.random.default_rng(0), []
    for _ in range(count):
        coarse = Image.fromarray(noise.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        file = io.BytesIO()
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(file, "JPEG")
        files.append(file.getvalue())
    return files


@dataclass
class Traffic:
    """Requests for the features of one picture each.

    Args:
        url: of the server.
        model: its model.
        files: pictures, asked for in turn.
        bad_every: one request in so many brings no picture; None: all are good.
    """

    url: str
    model: str
    files: Sequence[bytes]
    bad_every: int | None = None

    def __post_init__(self) -> None:
        self._features: dict[int, bytes] = {}

    async def by_clients(self, clients: int, requests: int, tally: Tally | None = None) -> Tally:
        """Let each client send its next request when the last one is answered, `requests` in all.

        Args:
            clients: that ask at the same time.
            requests: in all.
            tally: to be filled, for one who watches; None: a new one.
        """
        tally, numbers = Tally() if tally is None else tally, iter(range(requests))
        start = time.perf_counter()

        async def one() -> None:
            async with self._connection(1) as http:
                for number in numbers:
                    await self._ask(http, number, tally)

        await asyncio.gather(*(one() for _ in range(clients)))
        tally.wall = time.perf_counter() - start
        return tally

    async def by_rate(self, rate: float, seconds: float) -> Tally:
        """Send `rate` requests a second, whatever becomes of those before."""
        tally, tasks = Tally(), []
        async with self._connection(None) as http:
            start = time.perf_counter()
            for number in range(int(rate * seconds)):
                await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))
                tasks.append(asyncio.create_task(self._ask(http, number, tally)))
            await asyncio.gather(*tasks)
            tally.wall = time.perf_counter() - start
        return tally

    def _connection(self, most: int | None) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=most, max_keepalive_connections=most)
        return httpx.AsyncClient(base_url=self.url, timeout=60, limits=limits)

    async def _ask(self, http: httpx.AsyncClient, number: int, tally: Tally) -> None:
        bad = self.bad_every is not None and number % self.bad_every == 0
        length, body = pack([_BAD if bad else self.files[number % len(self.files)]], ("features",), {})
        start = time.perf_counter()
        try:
            answer = await http.post(
                f"/v2/models/{self.model}/infer", content=body, headers={HEADER_LENGTH: str(length)}
            )
        except httpx.TransportError:
            tally.outcomes[UNREACHED] += 1
            return
        outcome, features = _outcome(answer)
        tally.outcomes[outcome] += 1
        if outcome == GOOD:
            tally.seconds.append(time.perf_counter() - start)
            tally.wrong += bad or features != self._features.setdefault(number % len(self.files), features)
        tally.wrong += outcome == BAD_IMAGE and not bad


def _outcome(answer: httpx.Response) -> tuple[str, bytes]:
    """Return what became of a request for one image, and its features."""
    if answer.status_code == 200:
        said, tensors = unpack(answer.content, int(answer.headers[HEADER_LENGTH]))
        (error,) = json.loads(said["errors"])
        if error is None:
            return GOOD, tensors["features"].tobytes()
        return BAD_IMAGE if error["class"] == "ImageError" else error["class"], b""
    if answer.status_code == 400 and answer.json()["type"] == "ImageError":
        return BAD_IMAGE, b""
    return str(answer.status_code), b""
