"""One case: an input made from a seed, given to fsfast, and what became of it."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zlib
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import fsfast
from fsfast.backends.tensorrt.building import build_plan, stage_tensors
from fsfast.backends.tensorrt.library import find_library, new_log
from fsfast.certificates.reading import parse_certificate
from fsfast.engine.engine import MANIFEST, SEAL, load_engine
from fsfast.errors import EngineError, FsfastError
from fsfast.images.grid import to_grid_image
from fsfast.strict_json import parse_json
from tests.fuzz.mutations import changed_bytes, changed_leaf, changed_safetensors
from tests.written_before import FOLDER as DATA

# Refused: one of our errors, in one line. Harmless: taken, and nothing else follows from it than before.
OUTCOMES = ("refused", "harmless", "wrong", "crash", "hang", "slow")
# What no replay can find (docs/certificates.md), and what only another reading of the same scores changes.
# Bounds are stated at radii of the writer's choice, and never larger than they are: reading sees to that.
_FREE = (("image", "name"), ("image", "source"), ("versions",), ("certification", "seed_origin"), ("bounds",))


def _generator(kind: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(kind.encode()), seed])


def _copied(folder: Path) -> Path:
    return Path(shutil.copytree(DATA / "engine", folder / "engine"))


def _resealed(engine: Path, changes: dict[str, bytes]) -> None:
    """Put other content into an engine, with every hash right again."""
    record = json.loads((engine / MANIFEST).read_text())
    for name, content in changes.items():
        (engine / name).write_bytes(content)
        record["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    _sealed(engine, json.dumps(record).encode())


def _sealed(engine: Path, manifest: bytes) -> None:
    (engine / MANIFEST).write_bytes(manifest)
    (engine / SEAL).write_text(f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n")


def _file(engine: Path, rng: np.random.Generator, suffix: str = "") -> str:
    names = sorted(
        p.name for p in engine.iterdir() if p.name.endswith(suffix) and p.name not in (MANIFEST, SEAL)
    )
    return names[int(rng.integers(len(names)))]


def _serves(engine: Path) -> str:
    """Open an engine and encode twice: whatever it computes now must be a fixed function."""
    with fsfast.SmoothedEncoder(engine, backend="onnxruntime", threads=1) as encoder:
        image = np.full((*encoder.manifest.grid.size, 3), 90, np.uint8)
        one, two = (encoder.encode(image, 2, seeds=[5], progress=False).unit for _ in range(2))
    return "harmless" if one.tobytes() == two.tobytes() else "wrong"


def engine_bytes(rng: np.random.Generator, folder: Path) -> str:
    """A byte of any file, hashes as they were: never taken."""
    engine = _copied(folder)
    name = _file(engine, rng) if rng.integers(3) else str(rng.choice([MANIFEST, SEAL]))
    content = (engine / name).read_bytes()
    changed = changed_bytes(content, rng)
    (engine / name).write_bytes(changed)
    outcome = _serves(engine)
    return outcome if changed == content else "wrong"


def engine_resealed(rng: np.random.Generator, folder: Path) -> str:
    """A byte of any file, hashes made right."""
    engine = _copied(folder)
    name = _file(engine, rng)
    _resealed(engine, {name: changed_bytes((engine / name).read_bytes(), rng)})
    return _serves(engine)


def engine_graph(rng: np.random.Generator, folder: Path) -> str:
    """A graph with one to four changes of its bytes, hashes made right."""
    engine = _copied(folder)
    name = _file(engine, rng, ".onnx")
    content = (engine / name).read_bytes()
    for _ in range(int(rng.integers(1, 5))):
        content = changed_bytes(content, rng)
    _resealed(engine, {name: content})
    return _serves(engine)


def engine_graph_built(rng: np.random.Generator, folder: Path) -> str:
    """The same for a library that never meets ONNX Runtime: what our walk lets pass is parsed and built."""
    engine = _copied(folder)
    name = _file(engine, rng, ".onnx")
    content = changed_bytes((engine / name).read_bytes(), rng)
    _resealed(engine, {name: content})
    loaded = load_engine(engine)
    (stage, precision) = name.split(".")[:2]
    graph = loaded.graph(stage, precision)
    weights = loaded.read(loaded.manifest.stages[stage][precision].weights)
    library = find_library("tensorrt_rtx")
    tensors = stage_tensors(loaded.manifest, stage, precision)
    try:
        build_plan(library, new_log(library), graph, weights, tensors, 2)
    # As `build_apart` tells it.
    except ValueError as error:
        raise EngineError(str(error)) from None
    return "harmless"


def engine_manifest(rng: np.random.Generator, folder: Path) -> str:
    """A leaf of the manifest, sealed again."""
    engine = _copied(folder)
    changed, _ = changed_leaf(json.loads((engine / MANIFEST).read_text()), rng)
    _sealed(engine, changed)
    return _serves(engine)


def engine_weights(rng: np.random.Generator, folder: Path) -> str:
    """A header of safetensors, or the noise table, hashes made right."""
    engine = _copied(folder)
    name = _file(engine, rng, ".safetensors") if rng.integers(4) else "noise.npy"
    change = changed_safetensors if name.endswith(".safetensors") else changed_bytes
    _resealed(engine, {name: change((engine / name).read_bytes(), rng)})
    return _serves(engine)


@cache
def _encoder() -> fsfast.SmoothedEncoder:
    return fsfast.SmoothedEncoder(DATA / "engine", backend="onnxruntime", threads=1)


@cache
def _encoded(kind: str) -> bytes:
    y, x = np.mgrid[0:48, 0:64]
    pixels = np.stack([4 * x % 256, 5 * y % 256, (x + y) % 256], -1).astype(np.uint8)
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6
    options: dict[str, Any] = {"exif": exif} if kind in ("JPEG", "PNG", "WEBP", "TIFF") else {}
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _image(kind: str) -> Callable[[np.random.Generator, Path], str]:
    def case(rng: np.random.Generator, folder: Path) -> str:
        content = _encoded(kind)
        for _ in range(int(rng.integers(1, 4))):
            # Headers matter most.
            head = 1 << int(rng.integers(5, 12))
            content = changed_bytes(content[:head], rng) + content[head:]
        path = folder / "picture"
        path.write_bytes(content)
        grid = _encoder().manifest.grid
        pixels = to_grid_image(str(path), grid).pixels
        return "harmless" if pixels.shape == (*grid.size, 3) else "wrong"

    return case


@cache
def _certificate() -> dict[str, Any]:
    """A certificate of this machine, so that bits can be compared."""
    certificate = _encoder().certify(DATA / "image.png", 24, 0.05, n0=2, seeds=[7], progress=False)
    assert not isinstance(certificate, list)
    return dict(certificate.to_record())


def certificate_leaf(rng: np.random.Generator, folder: Path) -> str:
    """A leaf of a certificate: refused, or found by the replay, or one that no replay can find."""
    changed, path = changed_leaf(_certificate(), rng)
    return _verified(changed, path)


def certificate_bytes(rng: np.random.Generator, folder: Path) -> str:
    """A byte of a certificate."""
    return _verified(changed_bytes(json.dumps(_certificate()).encode(), rng), None)


def _verified(changed: bytes, path: tuple[Any, ...] | None) -> str:
    try:
        record = parse_json(changed)
    except ValueError as error:
        raise FsfastError(str(error)) from None
    certificate = parse_certificate(record)
    if record == _certificate():
        return "harmless"
    found = _encoder().verify(certificate, DATA / "image.png")
    if found.verdict != "same":
        return "refused"
    return "harmless" if _free(record, path) else "wrong"


def _free(record: dict[str, Any], path: tuple[Any, ...] | None) -> bool:
    """Whether all that differs from the certificate is what docs/certificates.md says that no replay can find."""
    stated = json.loads(json.dumps(_certificate()))
    changed = json.loads(json.dumps(record))
    for free in _FREE:
        for document in (stated, changed):
            inner = document
            for key in free[:-1]:
                inner = inner[key]
            inner[free[-1]] = None
    return _alike(stated, changed)


def _alike(one: Any, other: Any) -> bool:
    """Whether two documents are equal but for the rounding that stated constants may differ by."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-8
    return bool(one == other)


KINDS: dict[str, Callable[[np.random.Generator, Path], str]] = {
    "engine, bytes": engine_bytes,
    "engine, bytes, hashes made right": engine_resealed,
    "engine, graph, hashes made right": engine_graph,
    **(
        {"engine, graph, built by TensorRT-RTX": engine_graph_built}
        if find_spec("tensorrt_rtx_bindings")
        else {}
    ),
    "engine, manifest, sealed again": engine_manifest,
    "engine, weights and noise, hashes made right": engine_weights,
    **{f"image, {kind}": _image(kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")},
    "certificate, leaf": certificate_leaf,
    "certificate, bytes": certificate_bytes,
}


def run_case(kind: str, seed: int, folder: Path) -> tuple[str, str]:
    """Return what became of a case, and what was said.

    Args:
        kind: of KINDS.
        seed: of the case.
        folder: empty, for its files.
    """
    try:
        return KINDS[kind](_generator(kind, seed), folder), ""
    except FsfastError as error:
        text = str(error)
        plain = text.isprintable() and len(text) < 2000
        return ("refused", text[:200]) if plain else ("wrong", f"not one plain line: {text[:200]!r}")
    except MemoryError as error:
        return "crash", f"MemoryError: {error}"
    # Anything else is a traceback in somebody's server.
    except Exception as error:
        return "crash", f"{type(error).__name__}: {error}"[:300]
