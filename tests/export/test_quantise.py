"""fsfast export quantise: variants with measured tolerances, whose certificates verify; refusals in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import fsfast
from export.calibration import Samples
from export.quantise import main
from export.variants import Measured, backends_for
from fsfast.engine.engine import load_engine
from fsfast.engine.onnx_arrays import stored_arrays
from fsfast.errors import BackendUnavailable, EngineError
from fsfast.machine import sums_8_bit_products_exactly

PAIRS = [
    ("onnxruntime", "int8"),
    ("openvino", "bfloat16"),
    ("openvino", "int8"),
    ("openvino", "int8+bfloat16"),
]


def runs(backend: str, precision: str) -> bool:
    return backend in backends_for(precision)


@pytest.mark.parametrize(("backend", "precision"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_certificates_of_reduced_precisions_verify(reduced_path, photograph, backend, precision):
    if not runs(backend, precision):
        pytest.skip(f"{backend} cannot run {precision} here")
    options = {"backend": backend, "precision": precision}
    with fsfast.SmoothedEncoder(reduced_path, threads=2, **options) as encoder:
        certificate = encoder.certify(photograph, 40, seeds=[3])
        served = encoder.encode(photograph, seeds=[3])
    with fsfast.SmoothedEncoder(reduced_path, threads=1, **options) as again:
        # Another number of threads, the same function.
        assert again.verify(certificate, photograph).verdict == "same"
        np.testing.assert_array_equal(again.encode(photograph, seeds=[3]).unit, served.unit)
    with fsfast.SmoothedEncoder(reduced_path, backend="onnxruntime", precision="float32") as exact:
        assert exact.function_id != certificate.function_id
        assert exact.verify(certificate, photograph).verdict == "cannot be checked bit for bit here"
        cosine = (exact.encode(photograph, seeds=[3]).unit * served.unit).sum(-1).mean()
    assert 0.999 < cosine < 1.0 - 1e-7
    assert certificate.radius(0.5) > 0


def test_a_stage_that_8_bits_change_too_much_keeps_its_float32_graph(reduced_path):
    manifest = load_engine(reduced_path).manifest
    assert manifest.precisions[:2] == ("float32", "bfloat16") if runs("openvino", "bfloat16") else True
    assert manifest.stages["purifier"]["int8"].file == "purifier.float32.onnx"
    assert manifest.stages["purifier"]["int8"].weights == "weights.float32.safetensors"
    assert manifest.stages["encoder"]["int8"].file == "encoder.int8.onnx"
    assert 0.99 < manifest.record["quantisation"]["float32_instead"]["purifier"]["cosine_in_int8"] < 0.999
    card = (reduced_path / "model-card.md").read_text()
    assert "## Reduced precisions" in card
    assert "| purifier | int8 | purifier.float32.onnx |" in card


def test_tolerances_are_measured(reduced_path):
    for variants in load_engine(reduced_path).manifest.stages.values():
        for precision, variant in variants.items():
            (parity, *_) = variant.parity
            assert parity["max_abs"] > 0
            assert parity["cosine"] > 0.999
            assert variant.tolerance < 0.2, precision
            assert variant.arithmetic == ("bfloat16" if "bfloat16" in precision else "float32")


def test_stored_integers_are_the_rounded_weights(reduced_path):
    """Within half a step of the float32 weight, for every weight of the encoder that is a matrix."""
    engine = load_engine(reduced_path)
    floats, ints = (load_file(reduced_path / f"weights.{p}.safetensors") for p in ("float32", "int8"))
    found = [name for name in ints if name.startswith("encoder.") and name.endswith("weight.int8")]
    # Two of the stem, four of each of four blocks.
    assert len(found) == 18
    for name in found:
        weight = floats[name.removesuffix(".int8")]
        scale = ints[name.removesuffix(".int8") + ".scale"].reshape(-1, *[1] * (weight.ndim - 1))
        assert np.abs(ints[name]).max() == (127 if sums_8_bit_products_exactly() else 64)
        assert np.abs(weight - ints[name] * scale).max() <= 0.5001 * scale.max()
    graph = engine.graph("encoder", "int8")
    stored = stored_arrays(graph, engine.buffer("weights.int8.safetensors"))
    assert {"int8", "int32", "float32"} == {value.dtype.name for value in stored.values()}


def test_samples_are_what_the_stages_see(demo_path):
    """Calibration goes through the purifier: the encoder's inputs are those of the runtime."""
    engine = load_engine(demo_path)
    with fsfast.SmoothedEncoder("demo", backend="onnxruntime") as encoder:
        pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        pipeline = encoder._function.pipeline
        samples = Samples(engine, [pixels], 2, seed=5)
        eps = [np.empty_like(x) for x in samples.inputs]
        for x, out in zip(samples.inputs, eps, strict=True):
            pipeline._graphs["purifier"].run(x, out)
        noisy = samples.inputs[1].copy()
        samples.passed_on("purifier", eps)
        context = pipeline._new_context()
        pipeline._chain.pixels(noisy, eps[1], context.pixels)
    np.testing.assert_array_equal(samples.inputs[1], context.pixels)
    assert not np.array_equal(samples.inputs[0], samples.inputs[1])


@pytest.mark.parametrize(
    ("deviation", "tolerance"), [(0.0, 1e-4), (0.01, 0.02), (0.0123, 0.025), (0.9, 1.0)], ids=str
)
def test_a_tolerance_is_twice_the_deviation_in_two_digits(deviation, tolerance):
    assert Measured(deviation, 1.0, 1.0, ("onnxruntime",)).tolerance == tolerance


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["magic", "--images", "pictures"], "does not exist"),
        (["demo", "--images", "nowhere"], "wanted a folder of pictures"),
        (["demo", "--images", "pictures", "--samples", "1"], "at least 4 samples"),
        (["demo", "--images", "pictures", "--accept", "1.5"], "cosine in"),
        (
            ["demo", "--images", "pictures", "--accept", "0.999999999", "--stages", "encoder"],
            "no stage keeps",
        ),
        (["demo", "--images", "broken"], "broken.png"),
        (["reduced", "--images", "pictures"], "already"),
    ],
    ids=["engine", "images", "samples", "accept", "refused", "broken", "again"],
)
def test_bad_use(tmp_path, monkeypatch, capsys, reduced_path, picture, arguments, says):
    for folder in ("pictures", "broken"):
        (tmp_path / folder).mkdir()
    Image.fromarray(picture).save(tmp_path / "pictures" / "a.png")
    (tmp_path / "broken" / "broken.png").write_bytes(b"no picture")
    monkeypatch.chdir(tmp_path)
    engine, *rest = arguments
    engine = str(reduced_path) if engine == "reduced" else engine
    few = [] if "--samples" in rest else ["--samples", "4"]
    assert main([engine, *rest, *few, "--precisions", "int8", "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken", "pictures"]


def test_an_engine_without_a_purifier_and_no_bfloat16(pooled_path, tmp_path, picture, capsys):
    (tmp_path / "pictures").mkdir()
    Image.fromarray(picture).save(tmp_path / "pictures" / "a.png")
    arguments = [str(pooled_path), "--images", str(tmp_path / "pictures"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--samples", "4", "--precisions", "int8"]) == 0
    assert "-bit weights" in capsys.readouterr().out
    manifest = load_engine(tmp_path / "out").manifest
    assert manifest.precisions == ("float32", "int8")
    assert json.loads((tmp_path / "out" / "engine.json").read_text())["quantisation"]["images"] == 1
    with pytest.raises(ValueError, match=r"float32, int8\), got 'bfloat16'"):
        fsfast.SmoothedEncoder(tmp_path / "out", precision="bfloat16")
    assert main([*arguments, "--precisions", "int8"]) == 2
    assert "--force" in capsys.readouterr().err


def test_onnx_runtime_refuses_bfloat16(reduced_path):
    if not runs("openvino", "bfloat16"):
        pytest.skip("no back end here can measure bfloat16")
    with pytest.raises(BackendUnavailable, match="onnxruntime computes in float32"):
        fsfast.SmoothedEncoder(reduced_path, backend="onnxruntime", precision="bfloat16")


def test_another_graph_under_a_precision_fails_the_self_test(reduced_path, tmp_path):
    """The self-test knows how far int8 may lie from float32: a graph with other scales is found."""
    import shutil

    import onnx

    from tests.forging import replace_file

    path = shutil.copytree(reduced_path, tmp_path / "forged")
    model = onnx.load(path / "encoder.int8.onnx", load_external_data=False)
    scales = [t for t in model.graph.initializer if t.name.endswith(".scale") and not t.dims]
    for tensor in scales:
        value = onnx.numpy_helper.to_array(tensor) * np.float32(1.5)
        tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    replace_file(path, "encoder.int8.onnx", model.SerializeToString())
    with pytest.raises(EngineError, match=r"self-test failed: encoder \(int8\) deviates"):
        fsfast.SmoothedEncoder(path, backend="onnxruntime", precision="int8", stages=("encoder",))
