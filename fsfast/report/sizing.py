"""How many machines a load takes: from what was measured on one of them, and from how many samples a radius needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fsfast.certificates.certification import Plan, plan_of
from fsfast.certificates.evidence import PILOT
from fsfast.certificates.reach import MAX_SCORES, Reach
from fsfast.engine.engine import Engine
from fsfast.kernels import noise_total_variation

Source = Literal["measured", "extrapolated", "computed"]


@dataclass(frozen=True)
class Measurement:
    """What `fsfast bench --json` measured on one machine.

    Attributes:
        engine, engine_digest: which; the digest is None in files of older versions.
        device, backend, precision, threads: how it was run.
        latency: n0 → milliseconds of one image, the median and the 80th percentile.
        rates: n0 → noisy samples per second.
        certification: samples per second, None where it was not measured.
        memory_mb: of the process, None in files of older versions.
    """

    engine: str
    engine_digest: str | None
    device: str
    backend: str
    precision: str
    threads: int
    latency: Mapping[int, tuple[float, float]]
    rates: Mapping[int, float]
    certification: float | None
    memory_mb: float | None

    @classmethod
    def of(cls, record: Any) -> Measurement:
        """Read what `fsfast bench --json` printed; raises ValueError where it is something else."""
        try:
            rows, profile = record["latency"], record["profile"]
            found = cls(
                engine=str(record["engine"]),
                engine_digest=record.get("engine_digest"),
                device=str(profile["device"]),
                backend=str(profile["backend"]),
                precision=str(profile["precision"]),
                threads=int(record["threads"]),
                latency={
                    int(row["n0"]): (_positive(row["p50_ms"]), _positive(row["p80_ms"])) for row in rows
                },
                rates={int(row["n0"]): _positive(row["samples_per_s"]) for row in rows},
                certification=_positive_or_none(record.get("certification_samples_per_s")),
                memory_mb=_positive_or_none(record.get("memory_mb")),
            )
            if not rows or found.threads < 1 or min(found.rates) < 1:
                raise ValueError("nothing was measured")
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise ValueError(
                f"wanted what `fsfast bench --json` prints, got something else: {error!r}"
            ) from None
        return found

    @property
    def full(self) -> int:
        """The n0 at which most samples per second were computed: all threads had rows."""
        return max(self.rates, key=lambda n0: self.rates[n0])


def _positive(value: Any) -> float:
    if not 0.0 < float(value) < math.inf:
        raise ValueError(f"wanted a positive number, got {value!r}")
    return float(value)


def _positive_or_none(value: Any) -> float | None:
    return None if value is None else _positive(value)


@dataclass(frozen=True)
class Demand:
    """What is to be served.

    Attributes:
        images_per_s: on average, while it is busiest.
        n0: samples per image.
        target: of certificates, a plan that may stop; None: nothing is certified.
        samples: of one certificate, where they are known; None: the fewest that could do.
        share: of the images that are certified.
        utilisation: of the processors, at most.

    Raises:
        ValueError: a number is off.
    """

    images_per_s: float
    n0: int
    target: Plan | None = None
    samples: int | None = None
    share: float = 1.0
    utilisation: float = 0.7

    def __post_init__(self) -> None:
        if not 0.0 < self.images_per_s < math.inf:
            raise ValueError(f"wanted --images-per-second > 0, got {self.images_per_s:g}")
        for name in ("share", "utilisation"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ValueError(f"wanted --{name} in (0, 1], got {getattr(self, name):g}")


def target_of(epsilon: float, cosine: float | None, alpha: float, samples: int | None) -> Plan:
    """Return the plan of certificates that stop at a radius; errors as `plan_of`."""
    most = MAX_SCORES if samples is None else samples
    return plan_of(None, alpha, "mixture", epsilon, cosine, most, per_token=False)


@dataclass(frozen=True)
class Estimate:
    """A number of a plan.

    Attributes:
        name: what it is.
        value: of it.
        unit: of the value.
        source: whether it was measured, follows from what was measured elsewhere, or from mathematics alone.
        why: in a few words.
    """

    name: str
    value: float
    unit: str
    source: Source
    why: str


def plan(engine: Engine, measured: Measurement, demand: Demand) -> list[Estimate]:
    """Return what a load takes of machines like the measured one.

    Raises:
        ValueError: the measurement is another engine's, or no certificate reaches the radius.
    """
    _check_engine(engine, measured)
    found = [_capacity(measured, demand.n0)]
    serving = demand.images_per_s / found[0].value
    certifying = 0.0
    if demand.target is not None:
        samples = _samples(engine, demand)
        rate = _certification_rate(measured)
        certificate = Estimate(
            "a certificate, idle machine",
            (PILOT + samples.value) / rate.value,
            "s",
            "extrapolated",
            f"{PILOT} + {samples.value:,} samples",
        )
        certifying = demand.images_per_s * demand.share * certificate.value
        found += [samples, rate, certificate]
    load = serving + certifying
    machines = math.ceil(load / demand.utilisation)
    found += [
        Estimate("load", load, "machines", "extrapolated", _shares(serving, certifying)),
        Estimate("machines", machines, "", "extrapolated", f"each busy for {load / machines:.0%}"),
        Estimate("processors", machines * measured.threads, "", "extrapolated", f"{measured.threads} each"),
        *_latency(measured, demand, serving / machines),
        _memory(engine, measured),
    ]
    return found


def _check_engine(engine: Engine, measured: Measurement) -> None:
    name, digest = engine.manifest.name, engine.digest
    if measured.engine != name or measured.engine_digest not in (None, digest):
        other = "" if measured.engine_digest is None else f" with digest {measured.engine_digest[:16]}…"
        raise ValueError(
            f"the measurement is of the engine {measured.engine!r}{other}, wanted {name!r} with {digest[:16]}…; run "
            "`fsfast bench --json` with this engine"
        )


def _capacity(measured: Measurement, n0: int) -> Estimate:
    # Rows of different images share micro-batches, so that threads are full under load whatever n0 is.
    full = measured.full
    source: Source = "measured" if n0 == full else "extrapolated"
    return Estimate(
        f"capacity at n0 = {n0}",
        measured.rates[full] / n0,
        "images/s",
        source,
        f"{measured.rates[full]:.1f} samples/s at n0 = {full}",
    )


def _samples(engine: Engine, demand: Demand) -> Estimate:
    assert demand.target is not None
    assert demand.target.target is not None
    manifest = engine.manifest
    total_variation = noise_total_variation(manifest.sigma, 3 * manifest.grid.height * manifest.grid.width)
    if shortfall := demand.target.shortfall(manifest.sigma, total_variation):
        raise ValueError(shortfall)
    if demand.samples is not None:
        return Estimate("samples per certificate", demand.samples, "", "computed", "as given")
    reach = Reach(demand.target.n, demand.target.alpha, True, manifest.sigma, total_variation)
    fewest = reach.samples(*demand.target.target)
    assert fewest is not None
    return Estimate(
        "samples per certificate", fewest, "", "computed", "at least: if every score were 1; see --samples"
    )


def _certification_rate(measured: Measurement) -> Estimate:
    if measured.certification is not None:
        return Estimate("certification", measured.certification, "samples/s", "measured", "one image")
    rate = measured.rates[measured.full]
    return Estimate("certification", rate, "samples/s", "extrapolated", "as fast as serving")


def _shares(serving: float, certifying: float) -> str:
    return f"serving {serving:.2f}, certifying {certifying:.2f}"


def _latency(measured: Measurement, demand: Demand, busy: float) -> list[Estimate]:
    """Return the times of one image; certification yields to serving and does not count among them."""
    n0 = demand.n0
    if n0 in measured.latency:
        found = [
            Estimate(f"latency, {name}, idle machine", ms, "ms", "measured", f"n0 = {n0}")
            for name, ms in zip(("median", "p80"), measured.latency[n0], strict=True)
        ]
    else:
        near = min(measured.latency, key=lambda known: abs(known - n0))
        ms = measured.latency[near][0] * n0 / near
        why = f"n0 / {near} times that of n0 = {near}"
        found = [Estimate("latency, median, idle machine", ms, "ms", "extrapolated", why)]
    seconds = n0 / measured.rates[measured.full]
    wait = busy * seconds / (2.0 * (1.0 - busy)) if busy < 1.0 else math.inf
    why = f"mean, random arrivals, serving {busy:.0%} of the time (M/D/1)"
    return [*found, Estimate("wait in the queue", 1e3 * wait, "ms", "extrapolated", why)]


def _memory(engine: Engine, measured: Measurement) -> Estimate:
    if measured.memory_mb is not None:
        return Estimate("memory per machine", measured.memory_mb, "MB", "measured", "the benchmark's process")
    size = sum(entry.bytes for entry in engine.manifest.files.values()) / 1e6
    return Estimate("memory per machine", size, "MB", "extrapolated", "at least: the engine's files")
