"""The NEON path: built by a cross compiler, run by an emulator, the same bits as here (`make aarch64`)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from export.thresholds import gaussian_thresholds
from fsfast.kernels import FeatureSums, Rows, cpu, noise_tables, resize_tables
from fsfast.kernels.casts import from_float32

ROOT = Path(__file__).parents[2]
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
PLACES = {"float32": 0, "float16": 1, "bfloat16": 2}
MEAN, STD = np.array([0.48, 0.46, 0.41]), np.array([0.27, 0.26, 0.28])
AB = (1.03, 0.25)


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    """The kernels for 64-bit ARM, linked statically."""
    for tool, package in ((COMPILER, "g++-aarch64-linux-gnu"), (EMULATOR, "qemu-user")):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} (Debian's {package})")
    from setup import EXACT, FLAGS

    out = tmp_path_factory.mktemp("aarch64") / "kernels"
    command = [
        COMPILER,
        *FLAGS,
        *EXACT,
        "-std=c++17",
        "-static",
        "-I",
        "csrc",
        "tests/processors/kernels.cpp",
    ]
    done = subprocess.run([*command, "-o", str(out)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def run(program: Path, *arrays: object) -> bytes:
    """Return the bytes that the program writes for one case."""
    packed = [np.ascontiguousarray(array) for array in arrays]
    content = b"".join(array.nbytes.to_bytes(8, "little") + array.tobytes() for array in packed)
    done = subprocess.run([EMULATOR, str(program)], input=content, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def numbers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("sigma", [0.01, 0.25, 4.0])
def test_noisy_batch(program, dtype, layout, sigma):
    noise = noise_tables(gaussian_thresholds(sigma), 1 / STD / 255, -MEAN / STD, dtype)
    images = np.random.default_rng(0).integers(0, 256, (2, 65, 67, 3), dtype=np.uint8)
    rows = Rows(
        np.array([0, 1, -1], np.int32), np.array([2**63, 5, 6], np.uint64), np.arange(3, dtype=np.uint32)
    )
    wanted = cpu.noisy_batch(images, rows, 7, noise, layout=layout)
    parameters = numbers(noise.values.itemsize, 65, 67, 7, layout == "nhwc")
    tables = (noise.thresholds, noise.guide, noise.values, noise.lines)
    arrays = (images, rows.image, rows.seed, rows.sample, *tables)
    assert run(program, parameters, *arrays) == wanted.tobytes()


@pytest.mark.parametrize("given", PLACES)
@pytest.mark.parametrize("wanted", PLACES)
@pytest.mark.parametrize("target", [(44, 31), (60, 81), (50, 47)])
def test_denoise_resize_normalise(program, given, wanted, target):
    x_t, eps_hat = (
        from_float32(np.random.default_rng(i).standard_normal((2, 3, 50, 47), dtype=np.float32), given)
        for i in range(2)
    )
    tables = resize_tables((50, 47), target)
    right = cpu.denoise_resize_normalise(x_t, eps_hat, AB, tables, MEAN, STD, dtype=wanted)
    sizes = (tables.rows.weights.shape[1], tables.columns.weights.shape[1])
    parameters = numbers(0, 2, 50, 47, PLACES[given], *target, PLACES[wanted], *sizes)
    floats = np.array([*AB, *MEAN, *(1 / STD)]).astype(np.float32)
    axes = (tables.rows.start, tables.rows.weights, tables.columns.start, tables.columns.weights)
    assert run(program, parameters, floats, x_t, eps_hat, *axes) == right.tobytes()


@pytest.mark.parametrize("dtype", PLACES)
@pytest.mark.parametrize("dim", [5, 63, 768])
def test_cosine_mean(program, dtype, dim):
    rng = np.random.default_rng(0)
    features = from_float32(rng.standard_normal((6, 3, dim), dtype=np.float32), dtype)
    anchor = rng.standard_normal((2, 3, dim))
    sums = FeatureSums.zeros(2, 3, dim, raw=True)
    rows = Rows(np.arange(6, dtype=np.int32) % 2, np.zeros(6, np.uint64), np.arange(6, dtype=np.uint32))
    scores = cpu.cosine_mean(features, rows, sums, anchor=anchor, per_token=True)
    got = np.frombuffer(run(program, numbers(1, 6, 3, dim, PLACES[dtype], 2), features, anchor))
    right = np.concatenate([array.ravel() for array in (sums.unit, sums.norm, sums.raw)])
    np.testing.assert_array_equal(got[: len(right)], right)
    # The program writes inner products, of which scores are made in Python.
    dots = got[len(right) :].reshape(6, 3)
    np.testing.assert_array_equal(np.maximum((1 + dots) / 2 - (dim + 8) * 2.0**-52, 0), scores)
