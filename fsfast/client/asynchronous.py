"""AsyncClient: `Client` for asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import numpy as np
from httpx_sse import aconnect_sse
from tenacity import AsyncRetrying

from fsfast.client.answers import check_status, cut_short
from fsfast.client.calls import Call, Calls, only_model
from fsfast.client.connection import Connected, reaching
from fsfast.client.images import encoded_image
from fsfast.client.served import ServedModel
from fsfast.errors import FsfastError
from fsfast.images.grid import as_list
from fsfast.runtime.features import SmoothedFeatures, joined
from fsfast.runtime.many import OnError, Outcome, check_many, judged, outcomes_of, whole
from fsfast.runtime.progress import Progress, count_of, progress_bar
from fsfast.runtime.seeds import check_seeds

if TYPE_CHECKING:
    from fsfast.certificates.certificate import Certificate
    from fsfast.certificates.replay import Verification

T = TypeVar("T")


class AsyncClient(Connected[httpx.AsyncClient]):
    """`Client` for asyncio: the same arguments, results and errors, with methods that are awaited.

    Use it as an asynchronous context manager, or await `close`.
    """

    _kind = httpx.AsyncClient

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def describe(self) -> ServedModel:
        """Return what the server says of the model, as `Client.describe`."""
        calls = await self._named()
        return await self._answer(calls.describe())

    async def encode(
        self,
        images: Any,
        n0: int | None = None,
        *,
        seeds: Sequence[int] | np.ndarray | None = None,
        progress: Progress = None,
    ) -> SmoothedFeatures:
        """Return the smoothed features of one or more images, as `Client.encode`."""
        items, single = as_list(images)
        given = None if seeds is None else check_seeds(seeds, len(items))
        found = self.encode_iter(items, n0, seeds=given, on_error="return", progress=progress)
        return joined(whole([outcome async for outcome in found], single))

    __call__ = encode

    def encode_iter(
        self,
        images: Iterable[Any],
        n0: int | None = None,
        *,
        seeds: Iterable[int] | None = None,
        on_error: OnError = "raise",
        progress: Progress = None,
    ) -> AsyncIterator[Outcome[SmoothedFeatures]]:
        """Yield the smoothed features of any number of images, as `Client.encode_iter`."""
        check_many(images, on_error)
        return self._encode_each(images, n0, seeds, on_error, progress)

    async def _encode_each(
        self,
        images: Iterable[Any],
        n0: int | None,
        seeds: Iterable[int] | None,
        on_error: OnError,
        progress: Progress,
    ) -> AsyncIterator[Outcome[SmoothedFeatures]]:
        calls = await self._named()
        with progress_bar(progress, count_of(images), "encode") as advance:
            for group, call in calls.encode(images, n0, None if seeds is None else iter(seeds)):
                found = group if call is None else await self._answer(call)
                for outcome in judged(iter(found), on_error):
                    yield outcome
                advance(len(group))

    async def certify(
        self,
        images: Any,
        n: int | None = None,
        alpha: float = 1e-3,
        *,
        epsilon: float | None = None,
        cosine: float | None = None,
        n_max: int | None = None,
        n0: int | None = None,
        seeds: Sequence[int] | np.ndarray | None = None,
        progress: Progress = None,
    ) -> Certificate | list[Certificate]:
        """Certify the direction of an image's smoothed features, as `Client.certify`; cancelling stops the server."""
        items, single = as_list(images)
        files = whole(outcomes_of(items, encoded_image), single)
        given = None if seeds is None else check_seeds(seeds, len(files))
        settings = {"n": n, "alpha": alpha, "epsilon": epsilon, "cosine": cosine, "n_max": n_max, "n0": n0}
        calls = await self._named()
        with progress_bar(progress, len(files), "certify") as advance:
            found = [await self._answer(call) for call in calls.certify(files, given, settings, advance)]
        return found[0] if single else found

    async def verify(self, certificate: Certificate, image: Any) -> Verification:
        """Replay a certificate's noise and scores on the server and compare, as `Client.verify`."""
        calls = await self._named()
        return await self._answer(calls.verify(certificate, encoded_image(image)))

    async def _named(self) -> Calls:
        if self._calls is None:
            model = await self._answer(only_model()) if self._model is None else self._model
            self._calls = Calls(model, self._function_id)
        return self._calls

    async def _answer(self, call: Call[T]) -> T:
        with reaching(self.url):
            try:
                return await AsyncRetrying(**self._persistence)(self._ask, call)
            except FsfastError as error:
                return call.instead(error)

    async def _ask(self, call: Call[T]) -> T:
        if call.on_progress is None:
            response = await self._http.request(
                call.method, call.path, content=call.body, headers=call.headers
            )
            check_status(response.status_code, response.headers, response.content)
            return call.read(response.headers, response.content)
        async with aconnect_sse(
            self._http, call.method, call.path, content=call.body, headers=call.headers
        ) as source:
            response = source.response
            if response.is_error:
                check_status(response.status_code, response.headers, await response.aread())
            async for event in source.aiter_sse():
                if call.ends(event.event, event.data):
                    return call.read(response.headers, event.data.encode())
        raise cut_short()
