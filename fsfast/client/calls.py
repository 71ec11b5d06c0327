"""What a client asks of a server, and how it reads the answers; nothing here sends anything."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import quote

from fsfast.client.answers import check_status, features_of, none_of, reading
from fsfast.client.images import Encoded, encoded_image
from fsfast.client.served import ServedModel, served_model
from fsfast.client.tensors import HEADER_LENGTH, pack, unpack
from fsfast.errors import FsfastError, ImageError, ReplicasDiffer, ServerError
from fsfast.runtime.features import SmoothedFeatures
from fsfast.runtime.many import Outcome, groups, outcomes_of, seeds_of
from fsfast.strict_json import parse_json

if TYPE_CHECKING:
    from fsfast.certificates.certificate import Certificate
    from fsfast.certificates.replay import Verification

# Images of one request at most.
GROUP = 16

T = TypeVar("T")
Headers = Mapping[str, str]


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request, and what its answer means.

    Attributes:
        path: below the server's address.
        read: makes the result of the headers and the body of an answer, or of the last event of a stream.
        body: None: there is none, and the method is GET; else it is POST.
        headers: beside those that all requests have.
        failed: makes the result where the server refuses all images of the call; None: that error is raised.
        on_progress: is told what every event before the last says; None: the answer is no stream of events.
    """

    path: str
    read: Callable[[Headers, bytes], T]
    body: bytes | None = None
    headers: Headers | None = None
    failed: Callable[[ImageError | ServerError], T] | None = None
    on_progress: Callable[[dict[str, Any]], Any] | None = None

    @property
    def method(self) -> str:
        """GET or POST."""
        return "GET" if self.body is None else "POST"

    def instead(self, error: FsfastError) -> T:
        """Return the result where an error is about the call's images, and raise the error otherwise."""
        refused = isinstance(error, ServerError) and error.kind == "NotCertified"
        if self.failed is None or not (refused or isinstance(error, ImageError)):
            raise error
        assert isinstance(error, (ImageError, ServerError))
        return self.failed(error)

    def ends(self, event: str, data: str) -> bool:
        """Take an event of a stream, and return whether it is the last, which `read` reads.

        Raises:
            Exception: the event is an error of the server's.
        """
        if event == "error":
            with reading():
                status = int(parse_json(data)["status"])
            check_status(status, {}, data.encode())
        if event != "progress":
            return True
        assert self.on_progress is not None, "the answer is a stream"
        with reading():
            self.on_progress(parse_json(data))
        return False


class Calls:
    """The calls about one model of a server.

    Args:
        model: its name there.
        function_id: what all answers must come from; None: what the first one comes from.
    """

    def __init__(self, model: str, function_id: str | None) -> None:
        self._model = model
        self._path = f"v2/models/{quote(model, safe='')}"
        # A dictionary, since its setdefault is one step also to other threads.
        self._expected = {} if function_id is None else {"function_id": function_id}

    def describe(self) -> Call[ServedModel]:
        """Return the call for what the server says of the model."""

        def read(headers: Headers, content: bytes) -> ServedModel:
            with reading():
                found = served_model(parse_json(content))
                self._check(found.function_id)
                return found

        return Call(self._path, read)

    def encode(
        self, images: Iterable[Any], n0: int | None, seeds: Iterator[int] | None
    ) -> Iterator[tuple[list[Outcome[Any]], Call[list[Outcome[SmoothedFeatures]]] | None]]:
        """Yield images in groups, each with the call for its features, or None where none of it is an image.

        Args:
            images: what the encoder takes, one after the other.
            n0: samples per image; None: the engine's.
            seeds: one for every image, or None.

        Raises:
            ValueError: fewer seeds than images.
        """
        for group in groups(outcomes_of(images, encoded_image), GROUP):
            chosen = None if seeds is None else seeds_of(group, seeds)
            good = any(outcome.error is None for outcome in group)
            yield group, self._encode(group, n0, chosen) if good else None

    def _encode(
        self, group: Sequence[Outcome[Encoded]], n0: int | None, seeds: Sequence[int] | None
    ) -> Call[list[Outcome[SmoothedFeatures]]]:
        images = [outcome.result.file for outcome in group if outcome.result is not None]
        parameters: dict[str, object] = {} if n0 is None else {"n0": n0}
        if seeds is not None:
            parameters["seed"] = ",".join(map(str, seeds))
        length, body = pack(images, ("features", "unit"), parameters)

        def read(headers: Headers, content: bytes) -> list[Outcome[SmoothedFeatures]]:
            with reading():
                said, tensors = unpack(content, int(headers[HEADER_LENGTH]))
                self._check(said["function_id"])
                return features_of(group, said, tensors)

        own = {HEADER_LENGTH: str(length), "Content-Type": "application/octet-stream"}
        return Call(f"{self._path}/infer", read, body, own, partial(none_of, group))

    def certify(
        self,
        images: Sequence[Encoded],
        seeds: Sequence[int] | None,
        settings: Mapping[str, object],
        advance: Callable[[float], Any],
    ) -> Iterator[Call[Certificate]]:
        """Yield the call for the certificate of every image.

        Args:
            images: as they are sent.
            seeds: one for every image, or None.
            settings: n, alpha and so on; those that are None are left to the server.
            advance: is told how many images more are done, in fractions, too.
        """
        given = {name: value for name, value in settings.items() if value is not None}
        for position, image in enumerate(images):
            own = given if seeds is None else given | {"seed": seeds[position]}
            yield self._certify(image, own, advance)

    def _certify(
        self, image: Encoded, settings: Mapping[str, object], advance: Callable[[float], Any]
    ) -> Call[Certificate]:
        from fsfast.certificates.reading import parse_certificate

        done = 0.0

        def on_progress(said: dict[str, Any]) -> None:
            nonlocal done
            share = min(said["samples"] / said["of"], 1.0)
            # Asked again, a server starts again.
            if share > done:
                advance(share - done)
                done = share

        def read(headers: Headers, content: bytes) -> Certificate:
            with reading():
                certificate = parse_certificate(
                    parse_json(content)["certificate"], "the server's certificate"
                )
            self._check(certificate.function_id)
            advance(1.0 - done)
            return certificate

        return self._post("v1/certificates", image, {**settings, "stream": True}, read, on_progress)

    def verify(self, certificate: Certificate, image: Encoded) -> Call[Verification]:
        """Return the call for a replay of a certificate on the server."""
        from fsfast.certificates.replay import Verification

        def read(headers: Headers, content: bytes) -> Verification:
            with reading():
                said = parse_json(content)
                details, notes = tuple(said["details"]), tuple(said["notes"])
                return Verification(said["verdict"], details, said["deviation"], notes)

        return self._post("v1/verifications", image, {"certificate": certificate.to_record()}, read)

    def _post(
        self,
        path: str,
        image: Encoded,
        given: Mapping[str, object],
        read: Callable[[Headers, bytes], T],
        on_progress: Callable[[dict[str, Any]], Any] | None = None,
    ) -> Call[T]:
        record = {"model": self._model, "image": base64.b64encode(image.file).decode(), **given}
        own = {"Content-Type": "application/json"}
        return Call(path, read, json.dumps(record).encode(), own, on_progress=on_progress)

    def _check(self, function_id: str) -> None:
        expected = self._expected.setdefault("function_id", function_id)
        if function_id != expected:
            raise ReplicasDiffer(
                f"wanted answers of one function, {expected}, got one of {function_id}; give all replicas the same "
                "engine, options and versions, or open a new client after the engine was changed"
            )


def only_model() -> Call[str]:
    """Return the call for the name of a server's only model; its reading raises ValueError where there are more."""

    def read(headers: Headers, content: bytes) -> str:
        with reading():
            names = [model["id"] for model in parse_json(content)["data"]]
        if len(names) != 1:
            raise ValueError(
                f"wanted the name of a model, model=…, since the server has {', '.join(names) or 'none'}"
            )
        return str(names[0])

    return Call("v1/models", read)
