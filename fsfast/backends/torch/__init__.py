"""torch on a GPU: the whole way of an image, from its grid to its features, on one device and one stream.

The other back ends run one network at a time on arrays; this one opens the whole function. The same code runs on the
CPU, kernels included, which is how it is tested without a GPU; nobody is served that way.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from typing import TYPE_CHECKING, cast

from fsfast.errors import BackendUnavailable

try:
    import torch
except ImportError as error:
    raise BackendUnavailable(
        f"device='cuda' needs torch built for CUDA ({error}); pip install torch triton"
    ) from None

from fsfast.backends import Graph, Profile
from fsfast.engine import Engine, load_engine
from fsfast.kernels.types import Dtype
from fsfast.options import choose_stages
from fsfast.sampling import check_samples
from fsfast.selftest import check_golden_once

if TYPE_CHECKING:
    from fsfast.backends.torch.function import DeviceFunction

PRECISIONS = ("float32", "bfloat16", "float16")
# "torch-compile" fuses the networks' elementwise work; opening takes minutes the first time.
BACKENDS = ("torch", "torch-compile")
MICRO_BATCH = 16
MAX_MICRO_BATCH = 1024


def problems() -> list[str]:
    """Return why device="cuda" cannot be used here, or nothing."""
    if torch.version.cuda is None:
        return [f"torch {torch.__version__} is built without CUDA; install a build for CUDA from pytorch.org"]
    if not torch.cuda.is_available():
        return ["torch finds no CUDA GPU; `nvidia-smi` shows what the driver sees"]
    try:
        installed("triton")
    except PackageNotFoundError:
        return ["Triton is not installed; pip install triton"]
    return []


def version() -> str:
    """Return everything that chooses kernels: torch, cuDNN and Triton."""
    parts = [str(torch.__version__)]
    if torch.backends.cudnn.is_available():
        parts.append(f"cudnn {torch.backends.cudnn.version()}")
    with contextlib.suppress(PackageNotFoundError):
        parts.append(f"triton {installed('triton')}")
    return ", ".join(parts)


def device_class(device: torch.device) -> str:
    """Return the class of devices that give the same bits."""
    if device.type == "cpu":
        from fsfast.backends import device_class as cpu_class

        return cpu_class()
    major, minor = torch.cuda.get_device_capability(device)
    return f"cuda+sm_{major}{minor}+{torch.cuda.get_device_name(device)}"


def cuda_device(name: str) -> torch.device:
    """Return the GPU that "cuda" or "cuda:1" names.

    Raises:
        BackendUnavailable: there is none, or it cannot be used.
        ValueError: the name is no GPU's.
    """
    if found := problems():
        raise BackendUnavailable(f"wanted device {name!r}: {'; '.join(found)}")
    index = name.removeprefix("cuda").removeprefix(":") or "0"
    count = torch.cuda.device_count()
    if name not in ("cuda", f"cuda:{index}") or not index.isdecimal():
        raise ValueError(f"wanted device 'cuda' or 'cuda:0', 'cuda:1', …, got {name!r}")
    if int(index) >= count:
        raise BackendUnavailable(f"wanted device {name!r}; torch finds cuda:0 to cuda:{count - 1}")
    return torch.device("cuda", int(index))


@dataclass(frozen=True)
class Options:
    """How to run an engine on a device.

    Attributes:
        backend: "auto", "torch" or "torch-compile".
        precision: of PRECISIONS; None: float32.
        micro_batch: M; None: 16.
        stages: as `SmoothedEncoder`.
    """

    backend: str = "auto"
    precision: str | None = None
    micro_batch: int | None = None
    stages: Sequence[str] | None = None

    def profile(self, engine: Engine, device: torch.device) -> Profile:
        """Check the options and return what they mean for an engine on a device.

        Raises:
            BackendUnavailable: another back end.
            ValueError: another precision, micro-batch or stage.
        """
        backend = BACKENDS[0] if self.backend == "auto" else self.backend
        if backend not in BACKENDS:
            raise BackendUnavailable(
                f"wanted a back end of {', '.join(BACKENDS)} for device='cuda', got {self.backend!r}"
            )
        precision = PRECISIONS[0] if self.precision is None else self.precision
        if precision not in PRECISIONS:
            raise ValueError(
                f"wanted a precision of {', '.join(PRECISIONS)} for device='cuda', got {precision!r}"
            )
        m = MICRO_BATCH if self.micro_batch is None else check_samples(self.micro_batch, "micro_batch")
        if m > MAX_MICRO_BATCH:
            raise ValueError(f"wanted a micro_batch in 1…{MAX_MICRO_BATCH}, got {m}")
        stages = choose_stages(engine.manifest, self.stages)
        return Profile(backend, version(), precision, m, device_class(device), stages)


def open_function(
    name_or_path: str | os.PathLike[str], device: torch.device, options: Options
) -> tuple[Engine, DeviceFunction]:
    """Verify an engine, put its networks on a device, test them, and capture them.

    Raises:
        EngineError: the engine cannot be trusted or used, or fails its self-test on this device.
        BackendUnavailable: the back end is unknown, or M rows do not fit into memory.
        ValueError: another option is off.
    """
    from fsfast.backends.torch.arithmetic import DTYPES, with_precision
    from fsfast.backends.torch.function import DeviceFunction
    from fsfast.backends.torch.networks import NetworkGraph, Networks
    from fsfast.backends.torch.pipeline import DevicePipeline

    engine = load_engine(name_or_path)
    profile = options.profile(engine, device)
    compiled = profile.backend == "torch-compile"
    precision = cast(Dtype, profile.precision)
    networks = Networks.load(engine, precision, profile.stages, device, compiled=compiled)
    dtype = DTYPES[precision]
    graphs: dict[str, Graph] = {
        stage: NetworkGraph(module, dtype, device) for stage, module in networks.modules.items()
    }
    check_golden_once(with_precision(engine, precision), graphs, profile, profile.function_id(engine.digest))
    pipeline = DevicePipeline(engine, networks, profile.micro_batch, device)
    return engine, DeviceFunction(engine.manifest, engine.digest, profile, pipeline)
