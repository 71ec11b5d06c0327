"""What most processors are: AVX2 without VNNI, AVX-512 and BF16; SSE2 alone. Hidden from libraries, at full speed."""

from __future__ import annotations

import json

import numpy as np
import pytest

import fsfast
from fsfast import machine
from fsfast.kernels import cpu
from tests.processors.masking import run_masked

ABOUT = """
import json
from fsfast import machine
from fsfast.kernels import cpu
exact = machine.sums_8_bit_products_exactly()
print(json.dumps([machine.vectors(), machine.device_class(), exact, cpu.instruction_set()]))
"""
MASKS = {
    "sse2": ["sse2", "cpu+x86_64", False, "sse2"],
    "avx2": ["avx2", "cpu+x86_64+avx+avx2+fma+f16c", False, "avx2"],
    "avx2-vnni": ["avx2-vnni", "cpu+x86_64+avx+avx2+fma+f16c+avx_vnni", True, "avx2"],
}


@pytest.mark.parametrize("mask", MASKS)
def test_the_processor_is_asked_and_the_kernels_follow(mask):
    wanted = list(MASKS[mask])
    if mask == "avx2-vnni" and "avx_vnni" not in machine.extensions():
        pytest.skip("this processor has no AVX_VNNI")
    if wanted[3] not in cpu.INSTRUCTION_SETS:
        pytest.skip(f"no kernels for {wanted[3]} here")
    assert json.loads(run_masked(mask, ["-c", ABOUT])) == wanted


ENCODE = """
import json, sys
import numpy as np
import fsfast
from fsfast.errors import BackendUnavailable
engine, image, out = sys.argv[1:]
with fsfast.SmoothedEncoder(engine, precision="int8", threads=1) as encoder:
    assert encoder.profile.backend == "onnxruntime"
    np.save(out, encoder.encode(image, seeds=[3]).unit)
try:
    fsfast.SmoothedEncoder(engine, precision="int8", backend="openvino")
except BackendUnavailable as error:
    print(error)
"""


def test_an_engine_with_8_bit_weights_computes_the_same_numbers_without_vnni(
    eight_bit_path, photograph, tmp_path
):
    """ONNX Runtime's sums are integers: only its floating-point parts may round otherwise. OpenVINO says why not."""
    out = tmp_path / "unit.npy"
    arguments = ["-c", ENCODE, str(eight_bit_path), str(photograph), str(out)]
    refusal = run_masked("avx2", arguments, FSFAST_CACHE=str(tmp_path / "cache"))
    for words in ("no VNNI", "backend='onnxruntime'", machine.processor()):
        assert words in refusal
    with fsfast.SmoothedEncoder(eight_bit_path, precision="int8", backend="onnxruntime") as encoder:
        here = encoder.encode(photograph, seeds=[3]).unit
    there = np.load(out)
    cosine = (here * there).sum(-1) / np.linalg.norm(here, axis=-1) / np.linalg.norm(there, axis=-1)
    # float32 parts round otherwise, and then a few activations to the next of 255 levels; saturating pairs give .9989.
    assert cosine.min() > 0.9999


def test_the_tests_of_8_bit_products_pass_without_vnni():
    """They are the ones that failed on processors without it."""
    files = ["tests/export/test_qdq.py", "tests/export/test_equalise.py"]
    output = run_masked("avx2", ["-m", "pytest", "-q", "-p", "no:cacheprovider", *files])
    assert " passed" in output
    assert "skipped" not in output
