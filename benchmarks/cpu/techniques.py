"""Ways to compute smoothed features on a CPU, each in a process of its own: research code, runtimes by hand, fsfast.

`python -m benchmarks.cpu.techniques NAME ENGINE FEATURES` loads the technique and answers on standard output. For every
line with a number of samples it computes the features of one image once, writes them to the file FEATURES, and prints
a line of JSON: the seconds, and the most memory that the process held so far.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.cpu.by_hand import SEED, by_hand
from fsfast.engine.engine import Engine, load_engine

# Number of samples → features of one image, [L, D]. Every call draws the same noise; a loop draws what a batch draws.
Call = Callable[[int], np.ndarray]
OPTIONS = {"M=": "micro_batch", "T=": "graph_threads"}


def picture(engine: Engine) -> np.ndarray:
    """Return the picture that all techniques get, [H, W, 3] uint8 on the engine's grid."""
    grid = engine.manifest.grid
    y, x = np.mgrid[0 : grid.height, 0 : grid.width] / max(grid.size)
    channels = [np.sin(9 * x + 3 * y), np.cos(7 * y * x + 1), 2.0 * ((4 * x + 3 * y) % 1 > 0.5) - 1]
    return np.round(127.5 + 100 * np.stack(channels, axis=-1)).astype(np.uint8)


def torch_technique(engine: Engine, how: str) -> Call:
    """Return the research code: `torch.randn`, the networks as torch modules, the mean of normalised tokens.

    Args:
        engine: whose networks and σ.
        how: words of "loop" or "batched"; "medium" for torch's faster float32 products; "bf16"; "compiled".
    """
    import torch
    import torch.nn.functional as F

    from fsfast.models.torch_function import TorchFunction

    words = how.split(", ")
    dtype = torch.bfloat16 if "bf16" in words else torch.float32
    torch.set_float32_matmul_precision("medium" if "medium" in words else "highest")
    function: Any = TorchFunction(engine).to(dtype)
    if "compiled" in words:
        # Anew for every number of samples, which gives the fastest code.
        function = torch.compile(function, dynamic=False)
    image = torch.from_numpy(picture(engine)).permute(2, 0, 1).float()
    sigma = 255.0 * engine.manifest.sigma

    @torch.inference_mode()
    def call(n0: int) -> np.ndarray:
        torch.manual_seed(SEED)
        chunk = 1 if "loop" in words else n0
        total = 0.0
        for _ in range(n0 // chunk):
            noisy = image + sigma * torch.randn(chunk, *image.shape)
            total = total + function(noisy.to(dtype)).float().sum(0)
        return F.normalize(total, dim=-1).numpy()  # type: ignore[arg-type]

    return call


def fsfast_technique(
    engine: Engine, backend: str, precision: str, more: dict[str, int], certify: bool = False
) -> Call:
    """Return fsfast: encode one image, or certify it with as many samples; `more` are options of the encoder."""
    import fsfast

    encoder = fsfast.SmoothedEncoder(engine.path, backend=backend, precision=precision, **more)
    image = picture(engine)
    if certify:

        def call(n0: int) -> np.ndarray:
            return encoder.certify(image, n0, seeds=[SEED], progress=False).direction

    else:

        def call(n0: int) -> np.ndarray:
            return encoder.encode(image, n0, seeds=[SEED], progress=False).unit.reshape(
                -1, engine.manifest.dim
            )

    return call


def open_technique(name: str, engine: Engine) -> Call:
    """Return a technique by its name: "torch: HOW", "BACKEND by hand: PRECISION", "fsfast: BACKEND, PRECISION"
    with ", M=2" for another micro-batch or ", T=2" for two threads inside a graph, and "certify: …" likewise.

    Raises:
        ValueError: there is none of this name.
    """
    family, _, how = name.partition(": ")
    if family == "torch":
        return torch_technique(engine, how)
    if family.endswith(" by hand"):
        return by_hand(engine, picture(engine), family.removesuffix(" by hand"), how)
    if family in ("fsfast", "certify"):
        backend, precision, *rest = how.split(", ")
        more = {OPTIONS[option[:2]]: int(option[2:]) for option in rest}
        return fsfast_technique(engine, backend, precision, more, family == "certify")
    raise ValueError(f"wanted torch, BACKEND by hand, fsfast or certify before the colon, got {name!r}")


def peak_memory_mb() -> float:
    """Return the most memory that this process held, MB of 10⁶ bytes; getrusage's would count the parent's."""
    with open("/proc/self/status", encoding="utf-8") as handle:
        (line,) = (line for line in handle if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6


def main(argv: list[str]) -> None:
    """Serve one technique to the benchmark that started this process."""
    name, path, target = argv
    call = open_technique(name, load_engine(path))
    for line in sys.stdin:
        start = time.perf_counter()
        features = call(int(line))
        seconds = time.perf_counter() - start
        np.save(target, features)
        print(json.dumps({"seconds": seconds, "memory_mb": peak_memory_mb()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
