"""Client: a server's smoothed features and certificates, with the methods of the encoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import numpy as np
from httpx_sse import connect_sse
from tenacity import Retrying

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


class Client(Connected[httpx.Client]):
    """Asks a server for smoothed features and certificates; features are bit for bit those of its engine.

    May be used from several threads at once; use it as a context manager, or call `close`.

    Args:
        url: of the server, as "http://localhost:8000".
        model: the name of its model; None: its only one.
        key: an API key, where the server wants one.
        function_id: what all answers must come from; None: what the first one comes from.
        retries: how often a call is repeated, with growing pauses, where the server cannot be reached or has too much
            to do.
        timeout: seconds without a byte from the server after which a call fails.
        **options: of httpx.Client, as `verify` for TLS.

    Raises:
        ValueError: another argument is off.
    """

    _kind = httpx.Client

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def describe(self) -> ServedModel:
        """Return what the server says of the model.

        Raises:
            ServerError: the server cannot be reached, or refuses.
        """
        return self._answer(self._named().describe())

    def encode(
        self,
        images: Any,
        n0: int | None = None,
        *,
        seeds: Sequence[int] | np.ndarray | None = None,
        progress: Progress = None,
    ) -> SmoothedFeatures:
        """Return the smoothed features of one or more images.

        Args:
            images, progress: as in `SmoothedEncoder.encode`. Files travel as they are, pixels as PNG.
            n0: samples per image; None: the engine's default.
            seeds: one 64-bit seed per image, to replay an earlier result, where the server allows that; None: the
                server's.

        Returns:
            SmoothedFeatures for B images, in their order.

        Raises:
            ImageError, TypeError: an input is not an image that can be put on the grid.
            ServerError: the server cannot be reached, or refuses.
            ReplicasDiffer: the answer comes from another function than those before it.
            ValueError: n0 or seeds are off.
        """
        items, single = as_list(images)
        given = None if seeds is None else check_seeds(seeds, len(items))
        found = self.encode_iter(items, n0, seeds=given, on_error="return", progress=progress)
        return joined(whole(found, single))

    __call__ = encode

    def encode_iter(
        self,
        images: Iterable[Any],
        n0: int | None = None,
        *,
        seeds: Iterable[int] | None = None,
        on_error: OnError = "raise",
        progress: Progress = None,
    ) -> Iterator[Outcome[SmoothedFeatures]]:
        """Yield the smoothed features of any number of images, one after the other, in constant memory.

        Args:
            images, seeds, on_error, progress: as in `SmoothedEncoder.encode_iter`; up to 16 images are one request.
            n0: as in `encode`.

        Returns:
            An iterator of one Outcome per image, in their order.

        Raises:
            ImageError, TypeError: with "raise", while iterating: an image cannot be put on the grid.
            ServerError, ReplicasDiffer, ValueError: while iterating, as in `encode`.
        """
        check_many(images, on_error)
        return judged(self._encode_each(images, n0, seeds, progress), on_error)

    def _encode_each(
        self, images: Iterable[Any], n0: int | None, seeds: Iterable[int] | None, progress: Progress
    ) -> Iterator[Outcome[SmoothedFeatures]]:
        with progress_bar(progress, count_of(images), "encode") as advance:
            for group, call in self._named().encode(images, n0, None if seeds is None else iter(seeds)):
                yield from group if call is None else self._answer(call)
                advance(len(group))

    def certify(
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
        """Certify the direction of an image's smoothed features; whoever leaves early stops the server's sampling.

        Args:
            images, n, alpha, epsilon, cosine, n_max, n0, progress: as in `SmoothedEncoder.certify`.
            seeds: as in `encode`.

        Returns:
            A Certificate, or a list of them for a list or batch of images.

        Raises:
            ImageError, TypeError: an input is not an image that can be put on the grid.
            ServerError, ReplicasDiffer: as in `encode`.
            ValueError: another argument is off.
        """
        items, single = as_list(images)
        files = whole(outcomes_of(items, encoded_image), single)
        given = None if seeds is None else check_seeds(seeds, len(files))
        settings = {"n": n, "alpha": alpha, "epsilon": epsilon, "cosine": cosine, "n_max": n_max, "n0": n0}
        with progress_bar(progress, len(files), "certify") as advance:
            found = [self._answer(call) for call in self._named().certify(files, given, settings, advance)]
        return found[0] if single else found

    def verify(self, certificate: Certificate, image: Any) -> Verification:
        """Replay a certificate's noise and scores on the server and compare.

        Args:
            certificate, image: as in `SmoothedEncoder.verify`.

        Returns:
            A Verification.

        Raises:
            CertificateError: the certificate belongs to another engine.
            ImageError, TypeError, ServerError: as in `encode`.
        """
        return self._answer(self._named().verify(certificate, encoded_image(image)))

    def _named(self) -> Calls:
        if self._calls is None:
            model = self._answer(only_model()) if self._model is None else self._model
            self._calls = Calls(model, self._function_id)
        return self._calls

    def _answer(self, call: Call[T]) -> T:
        with reaching(self.url):
            try:
                return Retrying(**self._persistence)(self._ask, call)
            except FsfastError as error:
                return call.instead(error)

    def _ask(self, call: Call[T]) -> T:
        if call.on_progress is None:
            response = self._http.request(call.method, call.path, content=call.body, headers=call.headers)
            check_status(response.status_code, response.headers, response.content)
            return call.read(response.headers, response.content)
        with connect_sse(
            self._http, call.method, call.path, content=call.body, headers=call.headers
        ) as source:
            response = source.response
            if response.is_error:
                check_status(response.status_code, response.headers, response.read())
            for event in source.iter_sse():
                if call.ends(event.event, event.data):
                    return call.read(response.headers, event.data.encode())
        raise cut_short()
