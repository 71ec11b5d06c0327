"""SmoothedEncoder: smoothed features and certificates from an engine on disk."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, overload

import numpy as np

from fsfast.engine.classes import load_classes
from fsfast.engine.engine import engine_reference
from fsfast.errors import BackendUnavailable, CertificateError, EngineError
from fsfast.images.grid import Grid, GridImage, to_grid
from fsfast.runtime.features import SmoothedFeatures
from fsfast.runtime.function import Function, stack
from fsfast.runtime.many import OnError, Outcome, check_many, judged
from fsfast.runtime.opening import open_engine
from fsfast.runtime.options import Options, check_secret
from fsfast.runtime.pipeline import Pipeline, Sample, encoder_closed
from fsfast.runtime.progress import Progress, count_of, counting_samples, progress_bar
from fsfast.runtime.sampling import MAX_SAMPLES, check_samples
from fsfast.runtime.seeds import Seeds, seed_from_system
from fsfast.runtime.serving import GROUP, encode, encode_each

if TYPE_CHECKING:
    # Certification needs SciPy, a GPU torch; who only encodes on a CPU imports neither.
    import torch
    from PIL.Image import Image
    from torch import Tensor

    from fsfast.bounds import MeanMethod
    from fsfast.certificates.anchors import AnchorKind
    from fsfast.certificates.certificate import Certificate
    from fsfast.certificates.replay import Verification
    from fsfast.runtime.gpu.tensors import SmoothedTensors


class _Tensor(Protocol):
    """A tensor, to type checkers: its own class would be any object where torch is missing."""

    @property
    def is_cuda(self) -> bool:
        """Whether it lies on a GPU."""


class SmoothedEncoder:
    """Serves the smoothed features of an engine, and certificates about them.

    May be used from several threads at once; use it as a context manager, or call `close`.

    Args:
        engine: directory of an engine, the name of a built-in one ("demo"), or one on the Hugging Face Hub:
            hf://owner/name[@revision][#digest].
        device: "auto" or "cpu"; "cuda" or "cuda:1" for a GPU (docs/gpu.md: other defaults, back ends and precisions);
            or a torch.device.
        backend: "onnxruntime", "openvino", or "auto": the faster one by a short measurement, which is made once per
            machine. On a GPU "torch", "torch-compile", "tensorrt", "tensorrt_rtx", "onnxruntime", or "auto":
            torch; where the encoder came as an ONNX graph the first of onnxruntime, tensorrt_rtx and tensorrt that is
            installed.
            Part of the function's identity; `choice` says which was taken, and why.
        precision: one of the engine's precisions (float32, bfloat16, int8, …); None: its first. Part of the
            function's identity.
        threads: in all; None: the processors that this process may use. Never changes a bit of the result.
        micro_batch: M, rows per run of a graph; part of the function's identity. None: 1 on a CPU; on a GPU the
            engine's n0 rounded up to a power of two, in 4…16. A call that leaves half of them idle says so.
        graph_threads: threads inside one run of a graph; part of the function's identity. None: 1, so that all
            threads work on different samples; more shorten the time of a single sample.
        stages: the stages to use, "encoder" among them; None: all that the engine has. Part of the
            function's identity.
        secret: at least 16 bytes (or a string of 16 characters) unknown to clients. Seeds are then derived
            from it and the image, so that asking again gives no new draw; None: seeds from the system.

    Raises:
        EngineError: the engine cannot be trusted or used.
        BackendUnavailable: the device or back end cannot be used on this machine.
        ValueError, TypeError: another argument is off.
    """

    def __init__(
        self,
        engine: str | os.PathLike[str] = "demo",
        *,
        device: str | torch.device = "auto",
        backend: str = "auto",
        precision: str | None = None,
        threads: int | None = None,
        micro_batch: int | None = None,
        graph_threads: int | None = None,
        stages: Sequence[str] | None = None,
        secret: bytes | str | None = None,
    ):
        secret = check_secret(secret)
        stages = None if stages is None else tuple(stages)
        options = Options(str(device), backend, precision, threads, micro_batch, graph_threads, stages)
        opened = open_engine(engine, options)
        self._opened_as = (engine_reference(engine, opened.engine.digest), options, secret is not None)
        self.threads = opened.threads
        self.manifest = opened.engine.manifest
        self.engine_path = opened.engine.path
        self.engine_digest = opened.engine.digest
        self.choice = opened.choice
        self.profile = opened.function.profile
        self.function_id = opened.function.function_id
        self.classes = load_classes(opened.engine)
        self._seeds = Seeds(secret, self.engine_digest, self.sigma)
        self._function = opened.function

    def __repr__(self) -> str:
        height, width = self.grid.size
        facts = f"σ = {self.sigma:g}, n0 = {self.n0}, {height}×{width} → {self.tokens}×{self.dim}"
        where = "closed" if self.closed else f"{self.precision}, {self.backend} on {self.device}"
        return f"SmoothedEncoder({str(self.engine_path)!r}, {facts}, {where})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as "open this engine again with these options"; raises TypeError where there is a secret."""
        engine, options, _ = self._opened_as
        if self.has_secret:
            raise TypeError(
                "an encoder with a secret does not pickle, since the secret would travel with it; open it where it "
                "is needed: fsfast.SmoothedEncoder(…, secret=…)"
            )
        return _reopened, (engine, self.engine_digest, asdict(options))

    def __enter__(self) -> SmoothedEncoder:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the threads, and give a GPU's memory back; the encoder cannot be used afterwards."""
        self._function.pipeline.close()

    @property
    def engine_reference(self) -> str:
        """What opens the same engine elsewhere: a built-in name, a pinned one on the Hub, or a whole path."""
        engine, _, _ = self._opened_as
        return engine

    @property
    def has_secret(self) -> bool:
        """Whether seeds derive from a secret."""
        _, _, has_secret = self._opened_as
        return has_secret

    @property
    def sigma(self) -> float:
        """Noise level in [0,1] pixel units; fixed by the engine."""
        return self.manifest.sigma

    @property
    def n0(self) -> int:
        """Samples per image where `encode` is not told otherwise; fixed by the engine."""
        return self.manifest.n0

    @property
    def tokens(self) -> int:
        """L, tokens per image; 1 where features are pooled."""
        return self.manifest.tokens

    @property
    def dim(self) -> int:
        """D, the length of a token."""
        return self.manifest.dim

    @property
    def grid(self) -> Grid:
        """The size on which images are smoothed, and how others are fitted to it."""
        return self.manifest.grid

    @property
    def precision(self) -> str:
        """The precision of the networks."""
        return self.profile.precision

    @property
    def backend(self) -> str:
        """What runs the networks; `choice` says why."""
        return self.profile.backend

    @property
    def device(self) -> str:
        """Where they run: "cpu", "cuda:0", …"""
        return self._function.pipeline.device

    @property
    def closed(self) -> bool:
        """Whether `close` was called; features and certificates outlive it, calls raise FsfastError."""
        return self._function.pipeline.closed

    @property
    def function(self) -> Function:
        """What is computed: for a host that brings the rows of many callers together itself."""
        return self._function

    @property
    def seeds(self) -> Seeds:
        """Where seeds come from that the caller does not give; for such a host."""
        return self._seeds

    def sharing(self, pipeline: Pipeline) -> SmoothedEncoder:
        """Return this encoder with another pipeline of the same function: one through which such a host runs it."""
        # `copy` would open the engine again, as unpickling does.
        other = object.__new__(type(self))
        other.__dict__ |= self.__dict__
        other._function = replace(self._function, pipeline=pipeline)
        return other

    def _check_open(self) -> None:
        if self.closed:
            raise encoder_closed()

    def _warn_of_idle_rows(self, images: int, n0: int) -> None:
        """Warn where so many images leave half of a micro-batch idle whose size was asked for."""
        _, options, _ = self._opened_as
        rows, m = images * n0, options.micro_batch
        if m is not None and 2 * rows <= m:
            few = f"{images} image{'' if images == 1 else 's'} × n0 = {n0}"
            warnings.warn(
                f"micro_batch = {m} with {few} leaves {m - rows} of {m} rows idle, and they cost what others do; open "
                f"the encoder with a micro_batch of at most {rows}, or encode more images at once",
                stacklevel=3,
            )

    @property
    def times_steps(self) -> bool:
        """Whether `encode` can say how long each step takes: not on a GPU, where they overlap."""
        return self._function.pipeline.times_steps

    def prepare(self, images: Any) -> GridImage | list[GridImage]:
        """Return images as the encoder sees them: what `encode`, `certify` and `verify` do to their input first.

        Args:
            images: as in `encode`.

        Returns:
            A GridImage, or a list of them for a list or batch of images: pixels [H, W, 3] uint8 on the grid, a name
            for files, and a source record of what came and what was done. All methods take them in place of images.

        Raises:
            ImageError, TypeError: an input is not an image that can be put on the grid.
        """
        self._check_open()
        items, single = to_grid(images, self.grid)
        return items[0] if single else items

    @overload
    def encode(
        self,
        images: _Tensor,
        n0: int | None = None,
        *,
        seeds: Sequence[int] | np.ndarray | None = None,
        raw_mean: bool = False,
        progress: Progress = None,
        seconds: dict[str, float] | None = None,
    ) -> SmoothedFeatures | SmoothedTensors: ...

    @overload
    def encode(
        self,
        images: Any,
        n0: int | None = None,
        *,
        seeds: Sequence[int] | np.ndarray | None = None,
        raw_mean: bool = False,
        progress: Progress = None,
        seconds: dict[str, float] | None = None,
    ) -> SmoothedFeatures: ...

    def encode(
        self,
        images: Any,
        n0: int | None = None,
        *,
        seeds: Sequence[int] | np.ndarray | None = None,
        raw_mean: bool = False,
        progress: Progress = None,
        seconds: dict[str, float] | None = None,
    ) -> SmoothedFeatures | SmoothedTensors:
        """Return the smoothed features of one or more images.

        Args:
            images: a path, the bytes of an image file or a file open for reading them, a PIL image, uint8 [H, W, 3]
                or [B, H, W, 3], floats in [0,1] on the 1/255 grid, or a list of these, of any sizes. A uint8 tensor on
                the encoder's GPU and grid stays there: this is then `encode_tensors`. Other tensors are copied to the
                host.
            n0: samples per image; None: the engine's default.
            seeds: one 64-bit seed per image, to replay an earlier result; None: fresh ones.
            raw_mean: also return the mean of the raw features (no certificate speaks about it).
            progress: show a progress bar; None: on a terminal or in a notebook, when it takes long. A function is
                called instead, with the number of images done since, in fractions, too.
            seconds: a dictionary to which the seconds spent in each step are added, where `times_steps`.

        Returns:
            SmoothedFeatures (SmoothedTensors for a tensor that stays on the GPU) for B images, in their order. The same
            seeds give the same bits, alone or in a batch, with any number of threads.

        Raises:
            ImageError: an input is not an image that can be put on the grid.
            ValueError: n0 or seeds are off.
        """
        self._check_open()
        if seconds is None and self._function.takes(images):
            batch = images if images.ndim == 4 else images[None]
            return self.encode_tensors(batch, n0, seeds=seeds, raw_mean=raw_mean)
        # 1. Grid
        items, _ = to_grid(images, self.manifest.grid)
        n0 = self.manifest.n0 if n0 is None else check_samples(n0, "n0")
        # 2. Rows: their seeds
        drawn = self._seeds.serving(items, seeds)
        self._warn_of_idle_rows(len(items), n0)
        return encode(self._function, items, drawn, n0, raw_mean=raw_mean, progress=progress, seconds=seconds)

    __call__ = encode

    def encode_iter(
        self,
        images: Iterable[Any],
        n0: int | None = None,
        *,
        seeds: Iterable[int] | None = None,
        raw_mean: bool = False,
        on_error: OnError = "raise",
        progress: Progress = None,
    ) -> Iterator[Outcome[SmoothedFeatures]]:
        """Yield the smoothed features of any number of images, one after the other, in constant memory.

        Args:
            images: any iterable, a generator too, of what `encode` takes for one image; up to 16 are read ahead, since
                images share micro-batches. A batch [B, H, W, 3] counts as B images.
            n0, raw_mean, progress: as in `encode`.
            seeds: an iterable with a seed for every image, those that fail included; None: fresh ones.
            on_error: what becomes of an image that cannot be put on the grid. "raise": its error, after the results of
                the images before it; "skip": it is left out; "return": its outcome has the error. Others are not
                touched by it.

        Returns:
            An iterator of one Outcome per image, in their order: position, name, and as result the SmoothedFeatures of
            this image alone, bit for bit those of `encode`.

        Raises:
            ImageError, TypeError: with "raise", while iterating: an image cannot be put on the grid.
            TypeError: a single image instead of an iterable.
            ValueError: n0 or on_error are off; while iterating: fewer seeds than images.
        """
        self._check_open()
        check_many(images, on_error)
        n0 = self.manifest.n0 if n0 is None else check_samples(n0, "n0")
        self._warn_of_idle_rows(count_of(images) or GROUP, n0)
        given = None if seeds is None else iter(seeds)
        each = encode_each(
            self._function, self._seeds, images, n0, given, raw_mean=raw_mean, progress=progress
        )
        return judged(each, on_error)

    def encode_tensors(
        self,
        images: Tensor,
        n0: int | None = None,
        *,
        seeds: Sequence[int] | np.ndarray | None = None,
        raw_mean: bool = False,
    ) -> SmoothedTensors:
        """Return the smoothed features of images that are on the encoder's GPU already, without a copy to the host.

        The host does not wait: the result is ordered after the work of the caller's current stream, and before what
        the caller launches next. Only a secret, which makes seeds from pixels, reads the images back.

        Args:
            images: [B, H, W, 3] uint8 on the GPU and on the engine's grid.
            n0, seeds, raw_mean: as in `encode`.

        Returns:
            SmoothedTensors: the features of `encode`, bit for bit, on the GPU; `.numpy()` copies them.

        Raises:
            BackendUnavailable: the encoder does not run on a GPU.
            ImageError: another dtype, shape or device.
            ValueError: n0 or seeds are off.
        """
        self._check_open()
        if not self._function.keeps_tensors:
            raise BackendUnavailable("encode_tensors needs an encoder on a GPU; open it with device='cuda'")
        from fsfast.runtime.gpu.function import GpuFunction
        from fsfast.runtime.gpu.tensors import encode_tensors

        assert isinstance(self._function, GpuFunction)
        out = encode_tensors(self._function, self._seeds, images, n0, seeds, raw_mean=raw_mean)
        self._warn_of_idle_rows(len(out), out.n0)
        return out

    def clean(self, images: Any) -> np.ndarray:
        """Return the vanilla encoder's features of the images on the grid, [B, L, D] or [B, D] float32.

        No noise, no purifier, no mapper, and no guarantee.
        """
        self._check_open()
        items, _ = to_grid(images, self.manifest.grid)
        tokens = self._function.pipeline.clean(stack(items))
        return tokens[:, 0] if self.manifest.pooled else tokens

    def sample(self, image: Any, seed: int | None = None, index: int = 0) -> Sample:
        """Return one noisy sample of an image, and what the purifier makes of it: something to look at.

        Args:
            image: one image, as in `encode`.
            seed: what `encode` was given or reported for this image; None: as `encode` chooses it.
            index: which of the serving samples, counted from 0.

        Returns:
            A Sample; sample i < n0 is among those that `encode` averages under this seed.

        Raises:
            ImageError: the input is not an image that can be put on the grid.
            ValueError: more than one image, or seed or index are off.
        """
        self._check_open()
        items, single = to_grid(image, self.manifest.grid)
        if not single:
            raise ValueError(f"wanted one image to sample, got {len(items)}")
        if (
            isinstance(index, bool)
            or not isinstance(index, (int, np.integer))
            or not 0 <= index < MAX_SAMPLES
        ):
            raise ValueError(f"wanted the index of a sample, 0 to 2³² − 1, got {index!r}")
        ((chosen, _),) = self._seeds.serving(items, None if seed is None else [seed])
        return self._function.pipeline.sample(items[0].pixels, chosen, int(index))

    @overload
    def certify(
        self,
        images: str | os.PathLike[str] | Image,
        n: int | None = None,
        alpha: float = 1e-3,
        *,
        epsilon: float | None = None,
        cosine: float | None = None,
        n_max: int | None = None,
        anchor: AnchorKind = "served",
        method: MeanMethod = "mixture",
        per_token: bool = False,
        n0: int | None = None,
        seeds: Sequence[int] | np.ndarray | None = None,
        served: SmoothedFeatures | None = None,
        progress: Progress = None,
    ) -> Certificate: ...

    @overload
    def certify(
        self,
        images: list[Any] | tuple[Any, ...],
        n: int | None = None,
        alpha: float = 1e-3,
        *,
        epsilon: float | None = None,
        cosine: float | None = None,
        n_max: int | None = None,
        anchor: AnchorKind = "served",
        method: MeanMethod = "mixture",
        per_token: bool = False,
        n0: int | None = None,
        seeds: Sequence[int] | np.ndarray | None = None,
        served: SmoothedFeatures | None = None,
        progress: Progress = None,
    ) -> list[Certificate]: ...

    @overload
    def certify(
        self,
        images: Any,
        n: int | None = None,
        alpha: float = 1e-3,
        *,
        epsilon: float | None = None,
        cosine: float | None = None,
        n_max: int | None = None,
        anchor: AnchorKind = "served",
        method: MeanMethod = "mixture",
        per_token: bool = False,
        n0: int | None = None,
        seeds: Sequence[int] | np.ndarray | None = None,
        served: SmoothedFeatures | None = None,
        progress: Progress = None,
    ) -> Certificate | list[Certificate]: ...

    def certify(
        self,
        images: Any,
        n: int | None = None,
        alpha: float = 1e-3,
        *,
        epsilon: float | None = None,
        cosine: float | None = None,
        n_max: int | None = None,
        anchor: AnchorKind = "served",
        method: MeanMethod = "mixture",
        per_token: bool = False,
        n0: int | None = None,
        seeds: Sequence[int] | np.ndarray | None = None,
        served: SmoothedFeatures | None = None,
        progress: Progress = None,
    ) -> Certificate | list[Certificate]:
        """Certify the direction of an image's smoothed features.

        Args:
            images: as in `encode`.
            n: certification samples per image; None: 1000. Not with `epsilon`.
            alpha: probability that a certificate is wrong, per image, in (0, 1).
            epsilon, cosine: stop sampling an image as soon as this cosine (None: 0.5) is certified at this ℓ2
                radius ([0,1] units), or plainly out of reach. Sampling that may stop costs some tightness.
            n_max: with `epsilon`, samples per image at most; None: 10,000.
            anchor: "served": the direction of n0 serving samples; "clean": the vanilla encoder's features.
            method: confidence bound of the mean score: "mixture", "product" or "hoeffding" (not with `epsilon`).
            per_token: also certify every token on its own, with half of alpha for all of them together.
            n0: serving samples; None: the engine's default.
            seeds: one 64-bit seed per image, for the anchor's noise and (other streams) the certification's;
                None: fresh ones, or under a secret the ones of `encode` and ones that depend on all settings.
            served: what `encode` returned for the same images: certify the directions handed out there.
            progress: as in `encode`.

        Returns:
            A Certificate, or a list of them for a list or batch of images.

        Raises:
            ImageError: an input is not an image that can be put on the grid.
            CertificateError: `served` belongs to other images or another function.
            ValueError: another argument is off.

        Warns:
            UserWarning: before sampling, where no scores of so many samples could certify anything, or the target.
        """
        from fsfast.certificates.certification import plan_of
        from fsfast.certificates.issuing import Request, issue

        self._check_open()
        items, single = to_grid(images, self.manifest.grid)
        plan = plan_of(n, alpha, method, epsilon, cosine, n_max, per_token)
        n0 = None if n0 is None else check_samples(n0, "n0")
        request = Request(plan, anchor, n0, seeds, served)
        if shortfall := plan.shortfall(self.sigma, self._function.total_variation):
            warnings.warn(shortfall, stacklevel=2)
        with (
            progress_bar(progress, len(items), "certify") as advance,
            counting_samples(advance, len(items), plan.n) as drawn,
        ):
            certificates = issue(self._function, self._seeds, items, request, drawn)
        return certificates[0] if single else certificates

    def certify_iter(
        self,
        images: Iterable[Any],
        n: int | None = None,
        alpha: float = 1e-3,
        *,
        epsilon: float | None = None,
        cosine: float | None = None,
        n_max: int | None = None,
        anchor: AnchorKind = "served",
        method: MeanMethod = "mixture",
        per_token: bool = False,
        n0: int | None = None,
        seeds: Iterable[int] | None = None,
        served: Mapping[str, SmoothedFeatures] | None = None,
        on_error: OnError = "raise",
        progress: Progress = None,
    ) -> Iterator[Outcome[Certificate]]:
        """Yield certificates of any number of images, one after the other, in constant memory.

        Args:
            images, seeds, on_error: as in `encode_iter`; nothing is read ahead.
            n, alpha, epsilon, cosine, n_max, anchor, method, per_token, n0: as in `certify`.
            served: features of single images by their `grid_sha256`, as
                `fsfast.FeatureFolder(…).by_pixels`: certify the directions handed out there. An image that is missing
                there fails.
            progress: as in `encode`.

        Returns:
            An iterator of one Outcome per image, in their order; its result is the Certificate of `certify`.

        Raises:
            ImageError, CertificateError, TypeError, ValueError: as `encode_iter` and `certify`.
        """
        from fsfast.certificates.certification import plan_of
        from fsfast.certificates.issuing import Request, issue_each

        self._check_open()
        check_many(images, on_error)
        plan = plan_of(n, alpha, method, epsilon, cosine, n_max, per_token)
        if shortfall := plan.shortfall(self.sigma, self._function.total_variation):
            warnings.warn(shortfall, stacklevel=2)
        request = Request(plan, anchor, None if n0 is None else check_samples(n0, "n0"))
        given = None if seeds is None else iter(seeds)
        each = issue_each(self._function, self._seeds, images, request, given, served, progress)
        return judged(each, on_error)

    def verify(self, certificate: Certificate, image: Any) -> Verification:
        """Replay a certificate's noise and scores on this encoder and compare.

        Args:
            certificate: from `certify` or `fsfast.load_certificate`.
            image: the image that it speaks about.

        Returns:
            A Verification: "same", "different" (and what), or "cannot be checked bit for bit here" when this
            encoder computes another function (back end, version, precision, processor), with the deviation.
            A replay proves the computation, not that the seed was drawn fairly; that it shows, too, where the
            certificate names the secret of this encoder by its key id.

        Raises:
            CertificateError: the certificate belongs to another engine.
            ValueError: more than one image.
        """
        from fsfast.certificates.replay import replay

        return replay(self._function, certificate, self._image_of(certificate, image), self._seeds)

    def certify_anew(self, certificate: Certificate, image: Any, *, progress: Progress = None) -> Certificate:
        """Certify the direction of a certificate again, with noise from the system.

        A replay proves the computation; this also shows that the stated seed was no lucky one.
        `fsfast.certificates.replay.contradictions` compares the two.

        Args:
            certificate, image: as in `verify`.
            progress: as in `encode`.

        Raises:
            CertificateError, ValueError: as `verify`; or the image is not the certified one.
        """
        from fsfast.certificates.replay import certify_anew

        item = self._certified_image(certificate, image)
        most = certificate.stopping.n_max if certificate.stopping else certificate.n
        with (
            progress_bar(progress, 1, "certify") as advance,
            counting_samples(advance, 1, most) as drawn,
        ):
            return certify_anew(self._function, certificate, item, seed_from_system(), drawn)

    def restore_direction(self, certificate: Certificate, image: Any) -> Certificate:
        """Return a certificate from a file with its direction, which files leave out: `predict` needs it.

        The anchor's samples are drawn again from its seed, n0 of them; the certificate's are not.

        Args:
            certificate, image: as in `verify`.

        Raises:
            CertificateError, ValueError: as `certify_anew`; or this encoder computes another function, or the anchor
                does not come from its seed.
        """
        from fsfast.certificates.replay import restore_direction

        return restore_direction(self._function, certificate, self._certified_image(certificate, image))

    def _certified_image(self, certificate: Certificate, image: Any) -> GridImage:
        item = self._image_of(certificate, image)
        if item.grid_sha256 != certificate.grid_sha256:
            raise CertificateError("the image is not the certified one: its pixels on the grid differ")
        return item

    def _image_of(self, certificate: Certificate, image: Any) -> GridImage:
        from fsfast.certificates.certificate import Certificate as Record

        self._check_open()
        if not isinstance(certificate, Record):
            raise TypeError(
                f"wanted a Certificate, got {type(certificate).__name__}; fsfast.load_certificate reads a file"
            )
        items, single = to_grid(image, self.manifest.grid, certificate.resize)
        if not single:
            raise ValueError(f"wanted one image to verify, got {len(items)}")
        if certificate.engine_digest != self.engine_digest:
            raise CertificateError(
                f"the certificate belongs to the engine {certificate.engine!r} with digest "
                f"{certificate.engine_digest[:16]}…, this one has {self.engine_digest[:16]}…; open that engine"
            )
        return items[0]


def _reopened(engine: str, digest: str, options: dict[str, Any]) -> SmoothedEncoder:
    """Open an engine again, in another process or on another machine; raises EngineError where it is another one."""
    encoder = SmoothedEncoder(engine, **options)
    if encoder.engine_digest != digest:
        encoder.close()
        raise EngineError(
            f"{engine} is another engine than the pickled encoder's: wanted digest {digest[:16]}…, got "
            f"{encoder.engine_digest[:16]}…; copy that engine here"
        )
    return encoder
