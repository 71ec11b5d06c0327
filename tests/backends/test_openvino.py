"""OpenVINO: the same features as ONNX Runtime, bits that depend on nothing else, precisions never left to chance."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
from onnx import helper

import fsfast
from fsfast.backends.base import stage_shapes
from fsfast.backends.cpu import load_backend
from fsfast.engine.engine import load_engine
from fsfast.engine.profile import Work
from fsfast.errors import BackendUnavailable, EngineError
from tests.backends.mappers import replace_mapper
from tests.forging import as_bfloat16, replace_file, rewrite

pytest.importorskip("openvino", reason="the back end openvino needs the package openvino")
from fsfast.backends import openvino

STAGES = ("purifier", "encoder", "mapper")
MAPPER = Work("float32", ("mapper",))
SEED = 7


@pytest.fixture(scope="module")
def encoder():
    with fsfast.SmoothedEncoder("demo", backend="openvino", threads=2) as opened:
        yield opened


def test_graphs_agree_with_onnx_runtime(demo_path):
    engine = load_engine(demo_path)
    work = Work("float32", STAGES, 2)
    ours, theirs = (load_backend(name).open(engine, work, threads=1) for name in ("openvino", "onnxruntime"))
    for stage in STAGES:
        shape, out = stage_shapes(engine.manifest, stage)
        x = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
        got, wanted = (np.full((2, *out), np.nan, np.float32) for _ in range(2))
        ours[stage].run(x, got)
        theirs[stage].run(x, wanted)
        np.testing.assert_allclose(got, wanted, atol=2e-5 * np.abs(wanted).max())


def test_features_agree_and_the_function_is_another(encoder, picture):
    with fsfast.SmoothedEncoder("demo", backend="onnxruntime") as other:
        wanted = other.encode(picture, seeds=[SEED])
    got = encoder.encode(picture, seeds=[SEED])
    np.testing.assert_allclose(got.unit, wanted.unit, atol=2e-5)
    assert got.function_id != wanted.function_id
    assert encoder.profile.backend == "openvino"
    assert encoder.profile.backend_version[:2] == "20"


def test_bits_do_not_depend_on_threads_batches_or_neighbours(encoder, pictures):
    """Three threads on fewer processors, too."""
    seeds = [1, 2, 3]
    together = encoder.encode(pictures, 5, seeds=seeds)
    for threads in (1, 3):
        with fsfast.SmoothedEncoder("demo", backend="openvino", threads=threads) as other:
            assert other.function_id == encoder.function_id
            for i, picture in enumerate(pictures):
                alone = other.encode(picture, 5, seeds=[seeds[i]])
                np.testing.assert_array_equal(alone.features[0], together.features[i])


def test_rows_of_a_micro_batch_do_not_affect_each_other(pictures):
    with fsfast.SmoothedEncoder("demo", backend="openvino", micro_batch=3, threads=2) as encoder:
        together = encoder.encode(pictures, 4, seeds=[1, 2, 3])
        for i, picture in enumerate(pictures):
            alone = encoder.encode(picture, 4, seeds=[i + 1])
            np.testing.assert_array_equal(alone.features[0], together.features[i])


def test_many_callers_share_an_encoder(encoder, picture):
    wanted = encoder.encode(picture, 3, seeds=[SEED]).features
    found: list[np.ndarray] = []

    def serve():
        found.extend(encoder.encode(picture, 3, seeds=[SEED]).features for _ in range(3))

    callers = [threading.Thread(target=serve) for _ in range(5)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=120)
    assert len(found) == 15
    assert all(np.array_equal(features, wanted) for features in found)


def test_a_certificate_is_replayed_by_the_back_end_that_made_it(encoder, picture, tmp_path, capsys):
    from PIL import Image

    from fsfast.cli import main

    Image.fromarray(picture).save(tmp_path / "p.png")
    certificate = encoder.certify(tmp_path / "p.png", 20, seeds=[SEED])
    assert encoder.verify(certificate, tmp_path / "p.png").verdict == "same"
    certificate.save(tmp_path / "c.json")
    files = [str(tmp_path / "c.json"), str(tmp_path / "p.png")]
    # Although FSFAST_BACKEND says onnxruntime: the certificate says more.
    assert main(["verify", *files]) == 0
    assert capsys.readouterr().out.strip() == "same"
    assert main(["verify", *files, "--backend", "onnxruntime"]) == 1
    assert "openvino there, onnxruntime here" in capsys.readouterr().out


def test_a_fork_is_refused_and_does_not_hang(photograph):
    """OpenVINO's threads are gone in the child; the parent goes on."""
    code = (
        "import fsfast, os\n"
        "e = fsfast.SmoothedEncoder('demo', backend='openvino', threads=2)\n"
        f"image = {str(photograph)!r}\n"
        "e.encode(image)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    try: e.encode(image)\n"
        "    except fsfast.FsfastError as error: os._exit(7 if 'after forking' in str(error) else 1)\n"
        "    os._exit(2)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7\n"
        "e.encode(image)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_a_processor_without_bfloat16_says_so(engine, monkeypatch):
    """OpenVINO itself would compute in float32 without a word."""
    as_bfloat16(engine)
    monkeypatch.setattr(openvino.OpenVino, "arithmetics", lambda self: ("float32",))
    with pytest.raises(BackendUnavailable, match="computes in bfloat16; openvino computes in float32"):
        openvino.BACKEND.open(load_engine(engine), Work("bfloat16", STAGES), threads=1)


@pytest.mark.skipif("bfloat16" not in openvino.BACKEND.arithmetics(), reason="this processor has no bfloat16")
def test_bfloat16_is_less_exact_than_float32_and_repeats(engine, picture):
    as_bfloat16(engine)
    with fsfast.SmoothedEncoder(engine, backend="openvino", precision="bfloat16", threads=2) as reduced:
        one = reduced.encode(picture, 3, seeds=[SEED]).unit
        np.testing.assert_array_equal(reduced.encode(picture, 3, seeds=[SEED]).unit, one)
    with fsfast.SmoothedEncoder(engine, backend="openvino", threads=1) as exact:
        deviation = np.abs(exact.encode(picture, 3, seeds=[SEED]).unit - one).max()
    assert 1e-4 < deviation < 0.05


def test_a_graph_that_openvino_cannot_read(engine, monkeypatch):
    """Our own list of operators would refuse it before."""
    monkeypatch.setattr("fsfast.engine.engine.check_graph", lambda *_, **__: None)
    replace_mapper(engine, [helper.make_node("NoSuchOperator", ["tokens"], ["mapped"])])
    with pytest.raises(EngineError, match=r"mapper\.float32\.onnx: OpenVINO .*NoSuchOperator"):
        openvino.BACKEND.open(load_engine(engine), MAPPER, threads=1)


def test_a_graph_with_other_tensors_than_the_manifest_says(engine):
    rewrite(engine, lambda record: record["stages"]["mapper"]["float32"]["input"].update(name="other"))
    with pytest.raises(EngineError, match=r"wanted one tensor 'other' of shape \[M, 64, 128\], got"):
        openvino.BACKEND.open(load_engine(engine), MAPPER, threads=1)


def test_weights_that_changed_after_loading(engine):
    loaded = load_engine(engine)
    file = engine / "weights.float32.safetensors"
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(EngineError, match="altered"):
        openvino.BACKEND.open(loaded, MAPPER, threads=1)


def test_weights_that_end_too_early(engine):
    """Every hash agrees, but the graph points beyond the end of the file."""
    replace_file(engine, "weights.float32.safetensors", b"short")
    with pytest.raises(EngineError, match="it ends too early"):
        openvino.BACKEND.open(load_engine(engine), MAPPER, threads=1)
