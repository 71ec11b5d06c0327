"""What a server counts, in Prometheus' format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from fsfast._version import __version__
from fsfast.certificates.certificate import Certificate
from fsfast.serve.errors import AuditFailed
from fsfast.serve.models import Model, Models
from fsfast.serve.policy import reason_of

_MODEL = ("model", "function_id")
_INFO = ("engine_digest", "key_id", "version")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """Counters of one server, in a registry of its own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "fsfast_requests",
            "Requests that were answered.",
            ("protocol", "route", "status"),
            registry=registry,
        )
        self.seconds = Histogram(
            "fsfast_request_seconds",
            "From a request's first byte to its answer.",
            ("protocol", "route"),
            buckets=_SECONDS,
            registry=registry,
        )
        self.errors = Counter(
            "fsfast_errors", "Requests and images that failed, by class.", ("kind",), registry=registry
        )
        # An increase from nothing is none: the first would alarm nobody.
        self.errors.labels(AuditFailed.__name__)
        self.images = Counter("fsfast_images", "Images that were served.", _MODEL, registry=registry)
        self.certificates = Counter(
            "fsfast_certificates", "Certificates that were issued.", _MODEL, registry=registry
        )
        self.error_budget = Counter(
            "fsfast_error_budget",
            "Sum of alpha over certificates and judged images: bounds the probability that any of them is wrong.",
            _MODEL,
            registry=registry,
        )
        self.cache = Counter(
            "fsfast_cache",
            "Images that were asked for, by whether the cache had them.",
            (*_MODEL, "found"),
            registry=registry,
        )
        self.policy = Counter(
            "fsfast_policy",
            "Images that a policy judged: reached, out of reach, n_max (abstained).",
            (*_MODEL, "reason"),
            registry=registry,
        )

    def watch(self, models: Models) -> None:
        """Also tell what the engines of a server have done."""
        self.registry.register(_Engines(models))

    def encoded(self, model: Model, images: int, errors: Sequence[Exception]) -> None:
        """Count the images of a request, and the errors of those that failed."""
        for error in errors:
            self.failed(error)
        self.images.labels(*_labels(model)).inc(images - len(errors))

    def looked_up(self, model: Model, found: int, missing: int) -> None:
        """Count what the cache had, and what it had not."""
        for word, count in (("hit", found), ("miss", missing)):
            self.cache.labels(*_labels(model), word).inc(count)

    def judged(self, model: Model, certificate: Certificate) -> None:
        """Count what a policy found."""
        self.policy.labels(*_labels(model), reason_of(certificate)).inc()

    def spent(self, model: Model, alpha: float) -> None:
        """Count the probability with which something may be wrong that somebody is told."""
        self.error_budget.labels(*_labels(model)).inc(alpha)

    def failed(self, error: BaseException) -> None:
        """Count an error."""
        self.errors.labels(type(error).__name__).inc()

    def text(self) -> bytes:
        """Return all of it, as `content_type` says."""
        return generate_latest(self.registry)


class _Engines:
    """What the engines have done, asked of them when somebody looks."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def describe(self) -> Iterable[Metric]:
        """Nothing is known before."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield a family for each number."""
        models = self._models.open
        alive = GaugeMetricFamily(
            "fsfast_engine_alive", "Whether the engine's thread is there.", labels=_MODEL
        )
        memory = GaugeMetricFamily(
            "fsfast_engine_memory_bytes", "By which the process grew at its opening.", labels=_MODEL
        )
        info = GaugeMetricFamily(
            "fsfast_engine_info", "1, and which engine this is.", labels=(*_MODEL, *_INFO)
        )
        waiting = GaugeMetricFamily(
            "fsfast_waiting_rows", "Rows that were admitted and are not done.", labels=_MODEL
        )
        most = GaugeMetricFamily("fsfast_waiting_rows_limit", "Of them at most.", labels=_MODEL)
        works = GaugeMetricFamily(
            "fsfast_waiting_certifications", "Rounds of samples that wait.", labels=_MODEL
        )
        fill = GaugeMetricFamily(
            "fsfast_batch_fill_ratio", "Of micro-batches, the share that is rows.", labels=_MODEL
        )
        rows = CounterMetricFamily("fsfast_rows", "Rows that were computed.", labels=(*_MODEL, "purpose"))
        batches = CounterMetricFamily("fsfast_micro_batches", "Micro-batches of serving.", labels=_MODEL)
        stages = CounterMetricFamily("fsfast_stage_seconds", "Of all threads.", labels=(*_MODEL, "stage"))
        for model in models:
            labels, counts = _labels(model), model.scheduler.counts
            size = counts.micro_batches * model.encoder.profile.micro_batch
            alive.add_metric(labels, float(model.scheduler.alive))
            encoder = model.encoder
            told = (encoder.engine_digest, encoder.seeds.key_id or "", __version__)
            info.add_metric([*labels, *told], 1.0)
            most.add_metric(labels, model.scheduler.max_rows)
            memory.add_metric(labels, model.memory)
            waiting.add_metric(labels, model.scheduler.waiting_rows)
            works.add_metric(labels, model.scheduler.waiting_certificates)
            fill.add_metric(labels, counts.rows / size if size else 0.0)
            rows.add_metric([*labels, "serving"], counts.rows)
            rows.add_metric([*labels, "certification"], counts.certified_rows)
            batches.add_metric(labels, counts.micro_batches)
            for stage, seconds in list(counts.seconds.items()):
                stages.add_metric([*labels, stage], seconds)
        yield from (alive, info, memory, waiting, most, works, fill, rows, batches, stages)


def _labels(model: Model) -> list[str]:
    return [model.name, model.encoder.function_id]
