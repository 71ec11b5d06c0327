"""Ways to compute smoothed features on a CPU, each in a process of its own: research code, runtimes by hand, fsfast.

`python -m benchmarks.techniques NAME ENGINE N0 FEATURES` loads the technique, writes the features of one image to the
file FEATURES, and then answers on standard output: a line of JSON when it is ready, the seconds of one image for each
line "run", and its peak memory at the end of the input.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from fsfast.engine import Engine, load_engine

# Features of one image [L, D] from noisy samples; the samples are drawn inside.
Call = Callable[[], np.ndarray]


def picture(engine: Engine) -> np.ndarray:
    """Return the picture that all techniques get, [H, W, 3] uint8 on the engine's grid."""
    grid = engine.manifest.grid
    y, x = np.mgrid[0 : grid.height, 0 : grid.width] / max(grid.height, grid.width)
    channels = [np.sin(9 * x + 3 * y), np.cos(7 * y * x + 1), 2.0 * ((4 * x + 3 * y) % 1 > 0.5) - 1]
    return np.round(127.5 + 100 * np.stack(channels, axis=-1)).astype(np.uint8)


def torch_technique(engine: Engine, n0: int, how: str) -> Call:
    """Return the research code: `torch.randn`, the networks as torch modules, the mean of normalised tokens.

    Args:
        engine: whose networks and σ.
        n0: samples.
        how: words of "loop" or "batched"; "medium" for torch's faster float32 products; "bf16"; "compiled".
    """
    import torch
    import torch.nn.functional as F

    from fsfast.models.function import TorchFunction

    words = how.split(", ")
    dtype = torch.bfloat16 if "bf16" in words else torch.float32
    torch.set_float32_matmul_precision("medium" if "medium" in words else "highest")
    function: Any = TorchFunction(engine).to(dtype)
    if "compiled" in words:
        function = torch.compile(function)
    image = torch.from_numpy(picture(engine)).permute(2, 0, 1).float()
    chunk = 1 if "loop" in words else n0
    sigma = 255.0 * engine.manifest.sigma

    @torch.inference_mode()
    def call() -> np.ndarray:
        total = 0.0
        for _ in range(n0 // chunk):
            noisy = image + sigma * torch.randn(chunk, *image.shape)
            total = total + function(noisy.to(dtype)).float().sum(0)
        return F.normalize(total, dim=-1).numpy()  # type: ignore[arg-type]

    def seeded() -> np.ndarray:
        # Every torch technique is checked on the same noise: a loop draws what a batch draws.
        torch.manual_seed(0)
        return call()

    seeded.run = call  # type: ignore[attr-defined]
    return seeded


def by_hand(engine: Engine, n0: int, backend: str, precision: str) -> Call:
    """Return a runtime called by hand on an encoder without purifier and mapper: one batch of n0, all threads inside.

    Args:
        engine: its graph and σ.
        n0: samples.
        backend: "onnxruntime" or "openvino".
        precision: which of the engine's variants.
    """
    variant = engine.manifest.stages["encoder"][precision]
    path = str(engine.path / variant.file)
    if backend == "openvino":
        import openvino

        hint = {"float32": "f32", "bfloat16": "bf16"}[variant.arithmetic]
        model = openvino.Core().read_model(path)
        model.reshape([n0, *list(model.inputs[0].partial_shape)[1:]])
        compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint})

        def encode(x: np.ndarray) -> np.ndarray:
            return compiled(x)[0]
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

        def encode(x: np.ndarray) -> np.ndarray:
            return session.run(None, {variant.input: x})[0]

    manifest = engine.manifest
    image = picture(engine).transpose(2, 0, 1).astype(np.float32) / 255
    mean, std = (np.array(v, np.float32).reshape(3, 1, 1) for v in (manifest.mean, manifest.std))
    random = np.random.default_rng(0)

    def call() -> np.ndarray:
        noise = random.standard_normal((n0, *image.shape), np.float32)
        tokens = encode((image + np.float32(manifest.sigma) * noise - mean) / std)
        total = (tokens / np.linalg.norm(tokens, axis=-1, keepdims=True)).sum(0)
        return total / np.linalg.norm(total, axis=-1, keepdims=True)

    return call


def fsfast_technique(
    engine: Engine, n0: int, backend: str, precision: str, micro_batch: int = 1, certify: bool = False
) -> Call:
    """Return fsfast: encode one image, or certify it with n0 samples."""
    import fsfast

    encoder = fsfast.SmoothedEncoder(
        engine.path, backend=backend, precision=precision, micro_batch=micro_batch
    )
    image = picture(engine)
    if certify:

        def call() -> np.ndarray:
            return encoder.certify(image, n0, seeds=[0], progress=False).direction

    else:

        def call() -> np.ndarray:
            return encoder.encode(image, n0, seeds=[0], progress=False).unit.reshape(-1, engine.manifest.dim)

    return call


def open_technique(name: str, engine: Engine, n0: int) -> Call:
    """Return a technique by its name: "torch: HOW", "BACKEND by hand: PRECISION", "fsfast: BACKEND, PRECISION"
    with ", M=2" for another micro-batch, and "certify: …" likewise.

    Raises:
        ValueError: there is none of this name.
    """
    family, _, how = name.partition(": ")
    if family == "torch":
        return torch_technique(engine, n0, how)
    if family.endswith(" by hand"):
        return by_hand(engine, n0, family.removesuffix(" by hand"), how)
    if family in ("fsfast", "certify"):
        backend, precision, *rest = how.split(", ")
        micro_batch = int(rest[0].removeprefix("M=")) if rest else 1
        return fsfast_technique(engine, n0, backend, precision, micro_batch, family == "certify")
    raise ValueError(f"wanted torch, BACKEND by hand, fsfast or certify before the colon, got {name!r}")


def peak_memory_mb() -> float:
    """Return the most memory that this process held, MB of 10⁶ bytes; getrusage's would count the parent's."""
    with open("/proc/self/status", encoding="utf-8") as handle:
        (line,) = (line for line in handle if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6


def main(argv: list[str]) -> None:
    """Serve one technique to the benchmark that started this process."""
    name, path, n0, features = argv
    start = time.perf_counter()
    call = open_technique(name, load_engine(path), int(n0))
    np.save(features, call())
    print(json.dumps({"load_s": time.perf_counter() - start}), flush=True)
    run = getattr(call, "run", call)
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        print(time.perf_counter() - start, flush=True)
    print(peak_memory_mb(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
