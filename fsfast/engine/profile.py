"""What decides the bits of a feature beside the engine: the execution profile, and the name of the fixed function."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

from fsfast.kernels.types import KERNEL_VERSION


@dataclass(frozen=True)
class Profile:
    """Everything besides the engine that decides the bits of a feature.

    Attributes:
        backend, backend_version: what runs the graphs.
        precision: which variant of the stages.
        micro_batch: M, rows per run of a graph.
        device: device class; on a CPU the architecture and its vector extensions.
        stages: the stages in use, in their order.
        kernels: version of the kernels' bits.
        graph_threads: threads inside one run of a graph; libraries choose the order of sums by it.
    """

    backend: str
    backend_version: str
    precision: str
    micro_batch: int
    device: str
    stages: tuple[str, ...]
    kernels: int = KERNEL_VERSION
    graph_threads: int = 1

    def record(self) -> dict[str, Any]:
        """Return the fields by name; a single thread inside a run goes without saying, as in older records."""
        fields = asdict(self)
        if self.graph_threads == 1:
            del fields["graph_threads"]
        return fields

    def function_id(self, engine_digest: str) -> str:
        """Return the name of the fixed function f: sha256 over the engine's digest and this profile, hex."""
        fields = "".join(f"{key}={value}\n" for key, value in sorted(self.record().items()))
        return sha256(f"engine={engine_digest}\n{fields}".encode()).hexdigest()


@dataclass(frozen=True)
class Work:
    """What is to run, whoever runs it: these fields of a Profile.

    Attributes:
        precision, stages, micro_batch, graph_threads: as in Profile.
    """

    precision: str
    stages: tuple[str, ...]
    micro_batch: int = 1
    graph_threads: int = 1

    def profile(self, backend: str, version: str, device: str) -> Profile:
        """Return the profile of a back end of some version on a class of devices."""
        return Profile(
            backend,
            version,
            self.precision,
            self.micro_batch,
            device,
            self.stages,
            graph_threads=self.graph_threads,
        )
