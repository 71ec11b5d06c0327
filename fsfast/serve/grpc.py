"""The Open Inference Protocol over gRPC: `open_inference.proto`, answered as over HTTP."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc.aio import ServicerContext

from fsfast.errors import brief
from fsfast.serve import oip
from fsfast.serve.errors import RequestError, status_of
from fsfast.serve.exchange import text_of
from fsfast.serve.keys import Caller, Keys, presented
from fsfast.serve.logs import REQUEST_ID
from fsfast.serve.service import Service

logger = logging.getLogger("fsfast.serve")
access = logging.getLogger("fsfast.serve.access")

SERVICE = "inference.GRPCInferenceService"
# Of HTTP, as google.rpc.Code maps them; those that are missing are the client's fault.
_CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    422: grpc.StatusCode.FAILED_PRECONDITION,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
# Beside the images: names, shapes and parameters.
_FRAME = 1 << 16


@cache
def message(name: str) -> type[Message]:
    """Return the class of a message of the protocol.

    From a pool of its own: other packages bring the same names, and the common pool refuses them twice.
    """
    return GetMessageClass(_pool().FindMessageTypeByName(f"inference.{name}"))


@cache
def _pool() -> DescriptorPool:
    pool = DescriptorPool()
    content = resources.files("fsfast.serve").joinpath("open_inference.binpb").read_bytes()
    for file in FileDescriptorSet.FromString(content).file:
        pool.Add(file)
    return pool


def make_server(service: Service, keys: Keys, address: str, tls: Mapping[str, str | None]) -> grpc.aio.Server:
    """Return a server of the protocol; to be made and run on the event loop of the service.

    Args:
        service: the engines.
        keys: who may ask; a key comes as the metadata `authorization: Bearer KEY` or `x-api-key`.
        address: host:port to listen on.
        tls: paths by uvicorn's names of them: ssl_certfile, ssl_keyfile, ssl_ca_certs.

    Raises:
        OSError: the address is taken, or a file cannot be read.
    """
    server = grpc.aio.server(
        options=(
            ("grpc.max_receive_message_length", service.limits.max_body + _FRAME),
            ("grpc.max_send_message_length", -1),
            # Another process must not take a share of the port's connections.
            ("grpc.so_reuseport", 0),
        )
    )
    methods = Methods(service, keys)
    handlers = {
        method: grpc.unary_unary_rpc_method_handler(
            partial(methods.answer, method, getattr(methods, name)),
            response_serializer=message(f"{method}Response").SerializeToString,
        )
        for method, name in METHODS.items()
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    try:
        if tls.get("ssl_certfile"):
            server.add_secure_port(address, _credentials(tls))
        else:
            server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"wanted a free address for gRPC, {address} cannot be used: {brief(error)}") from error
    return server


def _credentials(tls: Mapping[str, str | None]) -> grpc.ServerCredentials:
    certificate, authorities = _content(tls["ssl_certfile"]), _content(tls.get("ssl_ca_certs"))
    # A certificate's file may hold its key, too.
    pair = (_content(tls.get("ssl_keyfile")) or certificate, certificate)
    return grpc.ssl_server_credentials([pair], authorities, require_client_auth=authorities is not None)


def _content(path: str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()


METHODS = {
    "ServerLive": "server_live",
    "ServerReady": "server_ready",
    "ModelReady": "model_ready",
    "ServerMetadata": "server_metadata",
    "ModelMetadata": "model_metadata",
    "ModelInfer": "model_infer",
}


class Methods:
    """What the protocol's methods answer."""

    def __init__(self, service: Service, keys: Keys) -> None:
        self._service = service
        self._keys = keys

    async def answer(
        self,
        method: str,
        work: Callable[[Any, ServicerContext, dict[str, Any]], Awaitable[Message]],
        content: bytes,
        context: ServicerContext,
    ) -> Message:
        """Answer a call, count it and write it into the log.

        Args:
            method: its name.
            work: makes the answer of the request, which is not read before: what is none is refused as others are.
            content: of the request.
            context: of the call.
        """
        start, code = time.perf_counter(), grpc.StatusCode.CANCELLED
        about: dict[str, Any] = {"request_id": uuid.uuid4().hex, "method": method}
        REQUEST_ID.set(about["request_id"])
        try:
            found = await work(_read(method, content), context, about)
            code = grpc.StatusCode.OK
            return found
        except Exception as error:
            code = _CODES.get(status_of(error), grpc.StatusCode.INVALID_ARGUMENT)
            context.set_trailing_metadata(self._told(error, about))
            # It raises, which ends the call.
            return await context.abort(code, text_of(error, about["request_id"]))
        finally:
            metrics, seconds = self._service.metrics, time.perf_counter() - start
            metrics.requests.labels("grpc", method, code.name).inc()
            metrics.seconds.labels("grpc", method).observe(seconds)
            access.info(
                "request", extra={"facts": about | {"status": code.name, "seconds": round(seconds, 6)}}
            )

    async def server_live(self, request: Any, context: ServicerContext, about: dict[str, Any]) -> Message:
        """Say whether the engines' threads are there."""
        return message("ServerLiveResponse")(live=self._service.live)

    async def server_ready(self, request: Any, context: ServicerContext, about: dict[str, Any]) -> Message:
        """Say whether requests are taken."""
        return message("ServerReadyResponse")(ready=self._service.ready)

    async def model_ready(self, request: Any, context: ServicerContext, about: dict[str, Any]) -> Message:
        """Say whether a model is open."""
        oip.check_version(request.version or oip.VERSION)
        ready = self._service.ready and self._service.models.ready(request.name)
        return message("ModelReadyResponse")(ready=ready)

    async def server_metadata(self, request: Any, context: ServicerContext, about: dict[str, Any]) -> Message:
        """Return the server's name, version and extensions."""
        return message("ServerMetadataResponse")(**oip.SERVER)

    async def model_metadata(self, request: Any, context: ServicerContext, about: dict[str, Any]) -> Message:
        """Return a model's tensors, and the function that it computes."""
        self._caller(context, about)
        oip.check_version(request.version or oip.VERSION)
        async with self._service.models.use(request.name) as model:
            said = oip.metadata(model)
        properties = {name: json.dumps(value) for name, value in said.pop("parameters").items()}
        return message("ModelMetadataResponse")(**said, properties=properties)

    async def model_infer(self, request: Any, context: ServicerContext, about: dict[str, Any]) -> Message:
        """Return the smoothed features of images."""
        caller = self._caller(context, about)
        oip.check_version(request.model_version or oip.VERSION)
        images = _images(request)
        parameters = _values(request.parameters)
        asked = oip.wanted(parameters, len(images))
        about |= {"model": request.model_name, "images": len(images)}
        answer = await self._service.encode(
            request.model_name,
            images,
            asked.n0,
            asked.seeds,
            caller=caller,
            deadline=asked.deadline or context.time_remaining(),
        )
        oip.raise_if_all_failed(answer)
        response = message("ModelInferResponse")(
            model_name=answer.model.name, model_version=oip.VERSION, id=request.id
        )
        for name, value in oip.told(answer).items():
            _put(response.parameters[name], value)
        for name, wanted in [(each.name, _values(each.parameters)) for each in request.outputs] or [
            ("features", {})
        ]:
            datatype = str(wanted.get("datatype", "FP32"))
            tensor = oip.tensor_of(answer, name, asked.tokens, datatype)
            response.outputs.add(name=name, datatype=datatype, shape=tensor.shape)
            response.raw_output_contents.append(tensor.tobytes())
        return response

    def _caller(self, context: ServicerContext, about: dict[str, Any]) -> Caller:
        metadata = {
            key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)
        }
        # ipv4:127.0.0.1:52134, ipv6:[::1]:52134, unix:
        address = context.peer().partition(":")[2].rpartition(":")[0]
        caller = self._keys.caller(presented(metadata), address)
        about["caller"] = caller.name
        return caller

    def _told(self, error: Exception, about: dict[str, Any]) -> tuple[tuple[str, str], ...]:
        """Count an error and note it for the log; return what clients are told beside its code and text."""
        self._service.metrics.failed(error)
        about["error"] = type(error).__name__
        trailer = {"error-type": type(error).__name__, "request-id": about["request_id"]}
        if (seconds := getattr(error, "retry_after", None)) is not None:
            trailer["retry-after"] = str(seconds)
        return tuple(trailer.items())


def _read(method: str, content: bytes) -> Message:
    """Return the request of a method; raises RequestError."""
    try:
        return message(f"{method}Request").FromString(content)
    except DecodeError as error:
        raise RequestError(
            f"wanted a message of open_inference.proto, got {len(content)} other bytes"
        ) from error


def _images(request: Any) -> list[Any]:
    """Return the images of a request for features; raises RequestError."""
    names = [each.name for each in request.inputs]
    if names != ["image"]:
        raise RequestError(f"wanted one input with the name 'image', got {names}")
    (image,), raw = request.inputs, list(request.raw_input_contents)
    if len(raw) > 1 or (raw and image.HasField("contents")):
        raise RequestError(
            f"wanted the values of one tensor, once, got {len(raw)} raw ones and perhaps others"
        )
    if image.datatype == "BYTES":
        files = oip.split_bytes(raw[0]) if raw else list(image.contents.bytes_contents)
        return oip.images_of(image.shape, "BYTES", files)
    if image.datatype == "UINT8":
        return oip.images_of(image.shape, "UINT8", _levels(raw, image.contents.uint_contents))
    raise RequestError(f"wanted the datatype BYTES or UINT8, got {image.datatype!r}")


def _levels(raw: list[bytes], values: Any) -> np.ndarray:
    levels = np.frombuffer(raw[0], np.uint8) if raw else np.array(values, np.uint32)
    if levels.max(initial=0) > 255:
        raise RequestError(f"wanted levels 0 … 255, got {levels.max()}")
    return levels


def _values(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as Python has them."""
    return {
        name: getattr(each, kind)
        for name, each in parameters.items()
        if (kind := each.WhichOneof("parameter_choice"))
    }


def _put(parameter: Any, value: str | int | float | bool) -> None:
    """Set the value of a parameter of an answer."""
    kinds = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
    setattr(parameter, kinds[type(value)], value)
