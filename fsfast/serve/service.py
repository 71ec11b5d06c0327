"""What every protocol calls: encode, certify and verify on the served engines, within limits and deadlines."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, TypeVar

import numpy as np

from fsfast.certificates.certificate import Certificate
from fsfast.certificates.certification import Plan, plan_of
from fsfast.certificates.prediction import Prediction
from fsfast.certificates.reading import parse_certificate
from fsfast.certificates.replay import Verification
from fsfast.encoder import SmoothedEncoder
from fsfast.errors import FsfastError
from fsfast.images.grid import GridImage, to_grid_image
from fsfast.runtime.features import SmoothedFeatures
from fsfast.runtime.function import Function, Served
from fsfast.runtime.pipeline import Sample
from fsfast.runtime.progress import Progress
from fsfast.runtime.sampling import check_samples
from fsfast.runtime.seeds import SeedOrigin, check_seeds, seed_from_system
from fsfast.runtime.serving import GROUP, handed_out
from fsfast.serve.audit import AuditLog, entry
from fsfast.serve.cache import Cache, Key
from fsfast.serve.errors import DeadlineExceeded, NotCertified, QueueFull, RequestError, Stopping
from fsfast.serve.keys import Caller
from fsfast.serve.limits import Limits
from fsfast.serve.metrics import Metrics
from fsfast.serve.models import Model, Models
from fsfast.serve.policy import Policy, is_met, reason_of
from fsfast.serve.sharing import SharedPipeline, Watch
from fsfast.serve.timeouts import timeout

T = TypeVar("T")
# Threads that decode images; more would take the processors from the engine.
_DECODERS = min(4, os.cpu_count() or 1)
# Groups of one request's images that are decoded, or wait for it.
_AHEAD = 2
# Threads that hold images against a policy; they mostly wait for the engine.
_DECIDERS = 8


@dataclass(frozen=True, eq=False)
class Item:
    """What became of one image of a request.

    Attributes:
        features: of it alone; None where it failed.
        error: why it failed, or None.
        image: on the grid; None where it failed.
        certified: whether the model's policy is met; None without a policy.
    """

    features: SmoothedFeatures | None
    error: FsfastError | TypeError | None = None
    image: GridImage | None = None
    certified: bool | None = None


@dataclass(frozen=True, eq=False)
class Answer:
    """What became of the images of a request.

    Attributes:
        model: that answered.
        items: one per image, in their order.
        n0: samples per image.
    """

    model: Model
    items: tuple[Item, ...]
    n0: int

    def stacked(self, name: str) -> np.ndarray:
        """Return "features" or "unit" of all images, [B, L, D] or [B, D] float32; NaN where an image failed."""
        shape = self.shape
        return np.stack(
            [
                np.full(shape, np.nan, np.float32)
                if item.features is None
                else getattr(item.features, name)[0]
                for item in self.items
            ]
        )

    @property
    def key_id(self) -> str | None:
        """Of the secret that gave the images their seeds; None where clients or the system did."""
        origins = {item.features.seed_origins[0] for item in self.items if item.features is not None}
        return self.model.encoder.seeds.key_id if "secret" in origins else None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image's features: (L, D), or (D,) where they are pooled."""
        manifest = self.model.encoder.manifest
        return (manifest.dim,) if manifest.pooled else (manifest.tokens, manifest.dim)


@dataclass(frozen=True, eq=False)
class Asked:
    """What is asked of a certificate; fields as the arguments of `SmoothedEncoder.certify`, None where left open."""

    n: int | None = None
    alpha: float | None = None
    epsilon: float | None = None
    cosine: float | None = None
    n_max: int | None = None
    n0: int | None = None
    seed: int | None = None
    classes: bool = False

    @property
    def plan(self) -> Plan:
        """What it comes to; raises ValueError where it contradicts itself."""
        return plan_of(self.n, self._alpha, "mixture", self.epsilon, self.cosine, self.n_max, per_token=False)

    @property
    def _alpha(self) -> float:
        return 1e-3 if self.alpha is None else self.alpha

    def of(self, encoder: SmoothedEncoder, image: object, progress: Progress) -> Certificate:
        """Return the certificate; errors as `SmoothedEncoder.certify`."""
        certificate = encoder.certify(
            image,
            self.n,
            self._alpha,
            epsilon=self.epsilon,
            cosine=self.cosine,
            n_max=self.n_max,
            n0=self.n0,
            seeds=None if self.seed is None else [self.seed],
            progress=progress,
        )
        assert isinstance(certificate, Certificate)
        return certificate


@dataclass(frozen=True, eq=False)
class Certified:
    """A certificate, and the class that it speaks of where that was asked for."""

    certificate: Certificate
    prediction: Prediction | None
    function_id: str


@dataclass(eq=False)
class Service:
    """The engines of a server behind limits.

    Attributes:
        models: by name.
        limits: of requests.
        metrics: that count them.
        cache: of features; None: all are computed.
        audit: is told of every certificate before its client; None: nothing is.
        stopping: whether it takes no more, though it still answers what it has.
    """

    models: Models
    limits: Limits = field(default_factory=Limits)
    metrics: Metrics = field(default_factory=Metrics)
    cache: Cache | None = None
    audit: AuditLog | None = None
    stopping: bool = False
    _started: bool = False
    _certifying: int = 0

    def __post_init__(self) -> None:
        self._decoders = ThreadPoolExecutor(_DECODERS, thread_name_prefix="fsfast decode")
        self._deciders = ThreadPoolExecutor(_DECIDERS, thread_name_prefix="fsfast policy")
        self._auditor = ThreadPoolExecutor(1, thread_name_prefix="fsfast audit")
        self._certifiers = ThreadPoolExecutor(
            self.limits.max_certificates, thread_name_prefix="fsfast certify"
        )
        self.metrics.watch(self.models)

    @property
    def live(self) -> bool:
        """Whether the engines' threads are there."""
        return self.models.alive

    @property
    def ready(self) -> bool:
        """Whether it takes requests: after self-tests and warm-up, until it stops."""
        return self._started and not self.stopping and self.live

    async def start(self) -> None:
        """Open the engines, once; errors as `SmoothedEncoder`."""
        if not self._started:
            await self.models.open_all()
            self._started = True

    async def close(self) -> None:
        """Close the engines; whoever waits is told so."""
        self.stopping = True
        await self.models.close()
        for pool in (self._decoders, self._deciders, self._certifiers):
            pool.shutdown(wait=False, cancel_futures=True)
        self._auditor.shutdown()
        if self.audit is not None:
            self.audit.close()
        if self.cache is not None:
            self.cache.close()

    async def encode(
        self,
        model: str | None,
        images: Sequence[bytes | np.ndarray | FsfastError],
        n0: int | None = None,
        seeds: Sequence[int] | None = None,
        *,
        caller: Caller,
        deadline: float | None = None,
    ) -> Answer:
        """Return the smoothed features of images; one that is none hurts only itself.

        Args:
            model: its name; None: the first.
            images: image files as bytes, [H, W, 3] uint8, or the error of one that could not be had.
            n0: samples per image; None: the engine's.
            seeds: one per image, where the caller may choose them; None: the server does.
            caller: who asks; callers take turns.
            deadline: seconds; no longer than the server's.

        Raises:
            FsfastError, ValueError: the request as a whole is refused.
        """
        self._check_started()
        self.limits.check_images(len(images))
        if seeds is not None:
            caller.require("seeds")
            seeds = check_seeds(seeds, len(images))
        async with self.models.use(model) as used:
            samples = used.encoder.n0 if n0 is None else check_samples(n0, "n0")
            self.limits.check_n0(samples)
            work = self._encode(used, images, samples, seeds, caller)
            return await _within(work, deadline, self.limits.deadline)

    async def certify(
        self,
        model: str | None,
        image: bytes | np.ndarray,
        asked: Asked,
        *,
        caller: Caller,
        watch: Callable[[Model], Watch] | None = None,
        deadline: float | None = None,
    ) -> Certified:
        """Return a certificate of one image.

        Args:
            model, image, caller, deadline: as in `encode`.
            asked: of the certificate.
            watch: makes of the model what is told of the scores so far, on the engine's thread.

        Raises:
            FsfastError, ValueError: it is refused, or cannot be written into the audit log.
        """
        self.check(asked, caller)
        async with self.models.use(model) as used:
            if asked.classes and used.encoder.classes is None:
                raise RequestError(f"the engine of {used.name!r} has no classes; leave out 'classes'")
            watching = None if watch is None else watch(used)
            work = self._in_background(
                used, caller, lambda encoder, progress: _certified(encoder, image, asked, progress), watching
            )
            try:
                found = await _within(work, deadline, self.limits.certificate_deadline)
            except BaseException:
                if watching is not None:
                    # What was told on the way is held to the same alpha.
                    self.metrics.spent(used, asked.plan.alpha)
                raise
            await self._issued(used, found.certificate, "certificate", caller)
        self.metrics.certificates.labels(used.name, found.function_id).inc()
        return found

    async def verify(
        self,
        model: str | None,
        image: bytes | np.ndarray,
        record: Any,
        *,
        caller: Caller,
        deadline: float | None = None,
    ) -> Verification:
        """Replay a certificate, and return what the replay found.

        Args:
            model, image, caller, deadline: as in `encode`.
            record: the certificate's JSON document.

        Raises:
            CertificateError: it is none, was altered, or belongs to another engine.
        """
        self._check_started()
        async with self.models.use(model) as used:
            work = self._in_background(
                used, caller, lambda encoder, _: encoder.verify(parse_certificate(record), image)
            )
            return await _within(work, deadline, self.limits.certificate_deadline)

    def check(self, asked: Asked, caller: Caller) -> None:
        """Refuse a certificate that contradicts itself or the limits, before any work; errors as `certify`."""
        self._check_started()
        if asked.seed is not None:
            caller.require("seeds")
            check_seeds([asked.seed], 1)
        self.limits.check_n(asked.plan.n)
        self.limits.check_n0(1 if asked.n0 is None else check_samples(asked.n0, "n0"))

    def _check_started(self) -> None:
        if not self._started:
            raise Stopping("the server is not ready yet: its engines are being opened; ask again later")

    async def sample(
        self, model: str | None, image: bytes | np.ndarray, *, caller: Caller
    ) -> tuple[GridImage, Sample]:
        """Return an image on the grid, and one noisy sample of it, whose noise serves nothing else.

        Args:
            model, image, caller: as in `encode`.

        Raises:
            FsfastError: the request is refused.
        """
        self._check_started()
        async with self.models.use(model) as used:
            used.scheduler.admit(1)
            try:
                return await _in(self._decoders, _sampled, used.encoder, image)
            finally:
                used.scheduler.release(1)

    async def _encode(
        self, model: Model, images: Sequence[Any], n0: int, seeds: Sequence[int] | None, caller: Caller
    ) -> Answer:
        """Encode images in groups, so that the first are computed while others are decoded."""
        room = _Room(len(images) * (n0 + (model.policy.rows if model.policy else 0)))
        model.scheduler.admit(room.rows)
        # No request has more before others in the decoders' queue.
        decoding = asyncio.Semaphore(_AHEAD)

        def group(start: int) -> Coroutine[Any, Any, list[Item]]:
            here = slice(start, start + GROUP)
            given = None if seeds is None else seeds[here]
            return self._group(model, images[here], n0, given, caller, room, decoding)

        try:
            if len(images) <= GROUP:
                items = await group(0)
            else:
                starts = range(0, len(images), GROUP)
                parts = await _all([asyncio.ensure_future(group(start)) for start in starts])
                items = list(chain.from_iterable(parts))
        finally:
            model.scheduler.release(room.rows)
        errors = [item.error for item in items if item.error is not None]
        self.metrics.encoded(model, len(items), errors)
        return Answer(model, tuple(items), n0)

    async def _group(
        self,
        model: Model,
        images: Sequence[Any],
        n0: int,
        seeds: Sequence[int] | None,
        caller: Caller,
        room: _Room,
        decoding: asyncio.Semaphore,
    ) -> list[Item]:
        encoder, policy = model.encoder, model.policy
        async with decoding:
            prepared = await _in(self._decoders, _prepared, encoder, images, seeds)
        good = [each for each in prepared if isinstance(each, _Prepared)]
        # Seeds that clients chose are theirs alone.
        known = await self._known(model, good, n0) if seeds is None else [None] * len(good)
        new = [each for each, part in zip(good, known, strict=True) if part is None]
        futures = model.scheduler.serve(
            [each.image for each in new], [each.drawn[0] for each in new], n0, caller.name
        )
        # The scheduler takes these back itself, as each of them ends.
        room.rows -= n0 * len(new)
        computed = await _all([asyncio.wrap_future(future) for future in futures])
        if seeds is None:
            await self._keep(model, new, n0, computed)
        fresh = iter(computed)
        parts = (next(fresh) if part is None else part for part in known)
        items = [
            Item(each.with_features(encoder.function, n0, next(parts)), image=each.image)
            if isinstance(each, _Prepared)
            else Item(None, each)
            for each in prepared
        ]
        if policy is None:
            return items
        return await _all(
            [asyncio.ensure_future(self._judged(model, policy, item, caller)) for item in items]
        )

    async def _known(self, model: Model, images: Sequence[_Prepared], n0: int) -> list[Served | None]:
        """Return what the cache has of each image."""
        if self.cache is None:
            return [None] * len(images)
        cache, keys = self.cache, [each.key(model, n0) for each in images]
        found = await _in(self._decoders, lambda: list(map(cache.get, keys)))
        hits = sum(part is not None for part in found)
        self.metrics.looked_up(model, hits, len(found) - hits)
        return found

    async def _keep(
        self, model: Model, images: Sequence[_Prepared], n0: int, parts: Sequence[Served]
    ) -> None:
        """Put new features into the cache."""
        if self.cache is not None:
            cache, keys = self.cache, [each.key(model, n0) for each in images]
            await _in(self._decoders, lambda: list(map(cache.put, keys, parts)))

    async def _judged(self, model: Model, policy: Policy, item: Item, caller: Caller) -> Item:
        """Hold an image's features against the model's rule."""
        if item.features is None:
            return item
        pipeline = SharedPipeline(model.encoder.function.pipeline, model.scheduler, caller.name)
        encoder = _through(pipeline, model)
        certificate = await _cancelling(
            pipeline, _in(self._deciders, policy.decide, encoder, item.image, item.features)
        )
        # Also where it abstains: which images are certified depends on the noise.
        await self._issued(model, certificate, "policy", caller)
        self.metrics.judged(model, certificate)
        met = is_met(certificate)
        if policy.action == "refuse" and not met:
            refusal = NotCertified(
                f"wanted an image with a certified cosine of {policy.min_cosine:g} at ε = {policy.epsilon:g}, the "
                f"sampling ended {reason_of(certificate)!r} after {certificate.n} samples"
            )
            return Item(None, refusal, certified=False)
        return replace(item, certified=met)

    async def _issued(self, model: Model, certificate: Certificate, purpose: str, caller: Caller) -> None:
        """Note a certificate before anybody is told of it; raises AuditFailed."""
        self.metrics.spent(model, certificate.alpha)
        if self.audit is not None:
            record = await asyncio.to_thread(
                entry, certificate, purpose=purpose, model=model.name, caller=caller.name
            )
            await _in(self._auditor, self.audit.append, record)

    async def _in_background(
        self,
        model: Model,
        caller: Caller,
        work: Callable[[SmoothedEncoder, Progress], T],
        watch: Watch | None = None,
    ) -> T:
        """Run what yields to serving on a thread of its own."""
        most = 3 * self.limits.max_certificates
        if self._certifying >= most:
            raise QueueFull(f"{most} certificates are being made or wait; ask again later", 10.0)
        pipeline = SharedPipeline(model.encoder.function.pipeline, model.scheduler, caller.name, watch)
        encoder = _through(pipeline, model)
        progress = pipeline.check if model.encoder.function.keeps_tensors else False
        self._certifying += 1
        try:
            return await _cancelling(pipeline, _in(self._certifiers, work, encoder, progress))
        finally:
            self._certifying -= 1


@dataclass(eq=False)
class _Room:
    """Rows that a request was let in with, and that nobody took yet."""

    rows: int


@dataclass(frozen=True, eq=False)
class _Prepared:
    """An image on the grid, and its seed with its origin."""

    image: GridImage
    drawn: tuple[int, SeedOrigin]

    def key(self, model: Model, n0: int) -> Key:
        return Key(model.encoder.function_id, self.image.grid_sha256, n0, self.drawn[0])

    def with_features(self, function: Function, n0: int, part: Served) -> SmoothedFeatures:
        return handed_out(function, [self.image], [self.drawn], n0, part)


def _prepared(
    encoder: SmoothedEncoder, images: Sequence[Any], seeds: Sequence[int] | None
) -> list[_Prepared | FsfastError | TypeError]:
    """Put every image on the grid and give it a seed, or say why it is none."""
    found: list[_Prepared | FsfastError | TypeError] = []
    for i, image in enumerate(images):
        if isinstance(image, FsfastError):
            found.append(image)
            continue
        try:
            on_grid = to_grid_image(image, encoder.grid)
        except (FsfastError, TypeError) as error:
            found.append(error)
        else:
            (drawn,) = encoder.seeds.serving([on_grid], None if seeds is None else [seeds[i]])
            # Hashed here, where nobody else waits for it.
            _ = on_grid.grid_sha256
            found.append(_Prepared(on_grid, drawn))
    return found


def _sampled(encoder: SmoothedEncoder, image: Any) -> tuple[GridImage, Sample]:
    on_grid = to_grid_image(image, encoder.grid)
    return on_grid, encoder.sample(on_grid, seed_from_system())


def _certified(encoder: SmoothedEncoder, image: object, asked: Asked, progress: Progress) -> Certified:
    certificate = asked.of(encoder, image, progress)
    classes = encoder.classes if asked.classes else None
    prediction = None if classes is None else certificate.predict(classes)
    return Certified(certificate, prediction, encoder.function_id)


def _through(pipeline: SharedPipeline, model: Model) -> SmoothedEncoder:
    """Return the encoder for certification; a GPU's own pipeline lets many threads in, row by row."""
    encoder = model.encoder
    return encoder if encoder.function.keeps_tensors else encoder.sharing(pipeline)


async def _in(pool: ThreadPoolExecutor, work: Callable[..., T], *arguments: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(pool, work, *arguments)


async def _cancelling(pipeline: SharedPipeline, work: Awaitable[T]) -> T:
    """Wait for work on a thread; where nobody waits any more, let it end there, too."""
    try:
        return await work
    except asyncio.CancelledError:
        pipeline.cancel()
        raise


async def _all(futures: Sequence[asyncio.Future[T]]) -> list[T]:
    """Wait for all; the first error, or a cancellation, cancels the others."""
    try:
        return await asyncio.gather(*futures)
    finally:
        for future in futures:
            future.cancel()


async def _within(work: Awaitable[T], deadline: float | None, most: float) -> T:
    """Wait until the deadline; raises DeadlineExceeded."""
    seconds = most if deadline is None else min(deadline, most)
    try:
        async with timeout(seconds):
            return await work
    except asyncio.TimeoutError:
        raise DeadlineExceeded(
            f"the answer was not ready within {seconds:g} seconds; ask again later"
        ) from None
