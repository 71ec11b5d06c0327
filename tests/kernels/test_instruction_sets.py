"""Every instruction set gives the same bits, and its loops are vectors: by the compiler's own report."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fsfast.errors import BackendUnavailable
from fsfast.kernels import FeatureSums, cpu, resize_tables
from fsfast.kernels.casts import from_float32
from tests.kernels.features import make_anchor, make_features, make_rows

ROOT = Path(__file__).parents[2]
DTYPES = ["float32", "float16", "bfloat16"]
SETS = range(len(cpu.INSTRUCTION_SETS))
MEAN, STD = np.array([0.48, 0.46, 0.41]), np.array([0.27, 0.26, 0.28])


def bits(array: np.ndarray) -> np.ndarray:
    return array.view(np.dtype(f"u{array.itemsize}"))


def with_every_set(monkeypatch: pytest.MonkeyPatch, call) -> list[np.ndarray]:
    results = []
    for place in SETS:
        monkeypatch.setattr(cpu, "_SET", place)
        results.append(call())
    return results


def all_equal(results: list[np.ndarray]) -> None:
    for result in results[1:]:
        # The sign and payload of a NaN that meets another are not promised.
        same = (bits(result) == bits(results[0])) | _nan(result) & _nan(results[0])
        assert same.all()


def _nan(array: np.ndarray) -> np.ndarray:
    return np.isnan(array) if array.dtype.kind == "f" else (array & 0x7FFF) > 0x7F80


@pytest.mark.parametrize(
    ("source", "target", "why"),
    [
        ((64, 50), (56, 44), "down, widths that fill no vector"),
        ((17, 40), (33, 61), "up, one row more than two tiles"),
        ((35, 33), (35, 33), "no change"),
        ((3, 2), (1, 3), "fewer rows and columns than one vector"),
    ],
)
@pytest.mark.parametrize("given", DTYPES)
@pytest.mark.parametrize("wanted", DTYPES)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_denoise_resize_normalise(monkeypatch, source, target, why, given, wanted, layout):
    rng = np.random.default_rng(0)
    x_t, eps_hat = (rng.standard_normal((2, 3, *source), dtype=np.float32) for _ in range(2))
    # What the conversions and the clamp treat apart.
    eps_hat.reshape(-1)[:8] = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, 65519.0, 3e38]
    x_t, eps_hat = from_float32(x_t, given), from_float32(eps_hat, given)
    tables = resize_tables(source, target)

    def call() -> np.ndarray:
        return cpu.denoise_resize_normalise(
            x_t, eps_hat, (1.03, 0.25), tables, MEAN, STD, dtype=wanted, layout=layout
        )

    all_equal(with_every_set(monkeypatch, call))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [1, 15, 16, 63, 1000])
def test_cosine_mean(monkeypatch, dtype, dim):
    features, anchor = make_features(5, 3, dim, dtype), make_anchor(2, 3, dim)
    rows = make_rows([0, 1, -1, 1, 0])

    def call() -> np.ndarray:
        sums = FeatureSums.zeros(2, 3, dim, raw=True)
        scores = cpu.cosine_mean(features, rows, sums, anchor=anchor, per_token=True)
        return np.concatenate([a.ravel() for a in (sums.unit, sums.norm, sums.raw, scores)])

    all_equal(with_every_set(monkeypatch, call))


def test_an_instruction_set_can_be_named():
    code = "from fsfast.kernels import cpu; print(cpu.instruction_set())"
    for name in cpu.INSTRUCTION_SETS:
        environment = os.environ | {"FSFAST_INSTRUCTION_SET": name}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.stdout.strip() == name


def test_an_unknown_instruction_set_is_refused(monkeypatch):
    monkeypatch.setenv("FSFAST_INSTRUCTION_SET", "avx9")
    wanted = f"wanted one that this processor .*{cpu.INSTRUCTION_SETS[0]}.*got 'avx9'"
    with pytest.raises(BackendUnavailable, match=wanted):
        cpu._chosen()


# File of csrc/loops → the loops that the compiler itself must make vectors of, by the line's text.
AUTOMATIC = {
    "conversions.inc": ("to[i] = load(from[i]);", "packed[i] = store<T>(from[i]);"),
    "resize.inc": ("const float clean = a * x[i] - b * e[i];", "row[x] = (row[x] - mean) * inverse_std;"),
    "tokens.inc": ("sum[i] += token[i] * scale;",),
    "noisy_run.inc": ("bucket[i] = bucket_of(high[i], fraction_bits);",),
}
BYTES = {"sse2": 16, "avx2": 32, "avx512": 64}


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> str:
    """What GCC says of every loop, all instruction sets in one translation unit."""
    compiler = shutil.which("g++")
    if compiler is None or platform.machine() != "x86_64" or sys.platform != "linux":
        pytest.skip(
            "no g++ on x86-64, which compiles every instruction set and says what became of its loops"
        )
    version = subprocess.run([compiler, "-dumpversion"], capture_output=True, text=True).stdout
    if int(version.split(".")[0]) < 12 or "clang" in version:
        pytest.skip("GCC 12 or later compiles all instruction sets")
    from setup import EXACT, FLAGS

    command = [
        compiler,
        *FLAGS,
        *EXACT,
        "-std=c++17",
        "-fPIC",
        "-I",
        "csrc",
        "-fopt-info-vec-optimized",
        "-c",
    ]
    output = tmp_path_factory.mktemp("loops") / "loops.o"
    done = subprocess.run(
        [*command, "tests/kernels/loops.cpp", "-o", str(output)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("name", BYTES)
def test_loops_are_vectors(report, name):
    for file, texts in AUTOMATIC.items():
        source = (ROOT / "csrc/loops" / file).read_text().splitlines()
        for text in texts:
            (body,) = (number for number, line in enumerate(source) if text in line)
            # The loop's head stands on the same line or on the one before.
            head = body if source[body].lstrip().startswith("for ") else body - 1
            place = rf"loops/{re.escape(file)}:{head + 1}:\d+"
            said = f"{place}: optimized: loop vectorized using {BYTES[name]} byte vectors"
            assert re.search(said, report), f"{file}:{head + 1}: {text} is not vectors of {BYTES[name]} bytes"
