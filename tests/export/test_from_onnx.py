"""fsfast export onnx, fsfast export torch: engines of encoders that are none of ours."""

from __future__ import annotations

import json
import re

import numpy as np
import onnx
import pytest
import torch
from onnxruntime import InferenceSession
from safetensors.numpy import load_file
from safetensors.torch import save_file

import fsfast
from export.__main__ import main
from export.outside_network import OutsideEncoder
from fsfast.engine.engine import load_engine
from fsfast.errors import EngineError
from fsfast.models import UNET_TINY, SmoothnessMapper, UNet
from fsfast.models.folded import load_folded
from tests.export.onnx_files import convolutions, model, node, saved, weights

COLOURS = ["--mean", "0.5,0.45,0.4", "--std", "0.25,0.26,0.27"]
SIDE = 16
FREE = ("batch", 3, SIDE, SIDE)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """An engine of two convolutions, whose weights lie beside the graph."""
    folder = tmp_path_factory.mktemp("onnx")
    file = saved(
        convolutions(FREE),
        folder / "tower.onnx",
        save_as_external_data=True,
        location="tower.data",
        size_threshold=0,
    )
    assert main(["onnx", str(file), "--out", str(folder / "engine"), *COLOURS, "--licence", "MIT"]) == 0
    return folder / "engine"


@pytest.fixture
def picture():
    return np.random.default_rng(3).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_features_are_the_files_own(engine, picture, backend):
    """Clean pixels through the file itself: normalised, the map's places as tokens."""
    if backend == "openvino":
        pytest.importorskip("openvino")
    mean, std = ([float(x) for x in text.split(",")] for text in COLOURS[1::2])
    pixels = ((picture / 255 - mean) / std).astype(np.float32).transpose(2, 0, 1)[None]
    (wanted,) = InferenceSession(str(engine.parent / "tower.onnx")).run(None, {"x": pixels})
    tokens = wanted.reshape(5, -1).T
    with fsfast.SmoothedEncoder(engine, backend=backend) as encoder:
        assert (encoder.tokens, encoder.dim) == tokens.shape
        got = encoder.clean(picture)
    np.testing.assert_allclose(got[0], tokens, rtol=1e-4, atol=1e-4)


def test_a_certificate_goes_round(engine, picture, tmp_path):
    with fsfast.SmoothedEncoder(engine) as encoder:
        out = encoder.encode(picture)
        certificate = encoder.certify(picture, n=60, served=out)
        certificate.save(tmp_path / "certificate.json")
        assert encoder.verify(fsfast.load_certificate(tmp_path / "certificate.json"), picture)


def test_what_the_engine_says_of_itself(engine):
    loaded = load_engine(engine)
    record = loaded.manifest.record
    assert (loaded.manifest.name, loaded.manifest.output) == ("tower", "tokens")
    assert record["architecture"] == {"encoder": {"type": "onnx"}}
    (origin,) = record["provenance"]
    assert origin["licence"] == "MIT"
    assert origin["source"].startswith("ONNX: tower.onnx (sha256 ")
    assert "tower.data (sha256 " in origin["source"]
    assert [row["batch"] for row in loaded.manifest.stages["encoder"]["float32"].parity] == [1, 3, 4]
    card = (engine / "model-card.md").read_text(encoding="utf-8")
    assert "worst deviation from the original" in card
    assert "| encoder | 198 | M×3×16×16 | M×64×5 |" in card
    assert set(load_file(engine / "weights.float32.safetensors")) == {
        "encoder.w0",
        "encoder.b0",
        "encoder.w1",
    }


@pytest.mark.parametrize(
    ("library", "line"),
    [
        ("openvino", r"\| OpenVINO \S+ \| 4 \| \d\.\de-\d\d \| 1\.0000\d* \|"),
        ("tensorrt_rtx_bindings", r"\| tensorrt_rtx \S+ \| \| its parser takes the graph \|"),
    ],
)
def test_other_back_ends_stand_in_the_card(engine, library, line):
    pytest.importorskip(library)
    assert re.search(line, (engine / "model-card.md").read_text(encoding="utf-8"))


def test_torch_has_no_network_of_it(engine):
    with pytest.raises(EngineError, match=r"came as an ONNX graph.*choose backend='onnxruntime'") as caught:
        load_folded(load_engine(engine))
    assert "\n" not in str(caught.value)


def test_purifier_and_mapper_join_it(tmp_path, monkeypatch):
    """The grid becomes the purifier's; how they are exported is the same as with recipes."""
    for name, module in (("purifier", UNet(UNET_TINY)), ("mapper", SmoothnessMapper(64, 1))):
        save_file(module.state_dict(), tmp_path / f"{name}.safetensors")
    content = model([node("Conv", "x w", "y", strides=[4, 4])], {"w": weights(64, 3, 4, 4)}, FREE)
    words = ["onnx", str(saved(content, tmp_path / "x.onnx")), "--out", str(tmp_path / "e"), *COLOURS]
    words += [f"--{name}={tmp_path / name}.safetensors" for name in ("purifier", "mapper")]
    built = []
    monkeypatch.setattr("export.outside_source.build_engine", lambda *a, **k: built.append((a, k)))
    assert main(words) == 0
    ((recipe, _), options) = built[0]
    assert recipe.stages == ("purifier", "encoder", "mapper")
    assert (recipe.grid.size, recipe.outside.size) == ((256, 256), (SIDE, SIDE))
    kinds = {stage: type(options["source"].load(stage)) for stage in recipe.stages}
    assert kinds == {"purifier": UNet, "encoder": OutsideEncoder, "mapper": SmoothnessMapper}


def test_a_mapper_of_other_channels(tmp_path, capsys):
    save_file(SmoothnessMapper(64, 1).state_dict(), tmp_path / "m.safetensors")
    words = [
        "onnx",
        str(saved(convolutions(FREE), tmp_path / "x.onnx")),
        "--out",
        str(tmp_path / "e"),
        *COLOURS,
    ]
    assert main([*words, "--mapper", str(tmp_path / "m.safetensors")]) == 2
    assert (
        "wanted a mapper for the 5 channels of x's tokens output, got one for 64" in capsys.readouterr().err
    )


def test_an_encoder_that_computes_something_else_is_not_written(tmp_path, capsys, monkeypatch):
    file = saved(convolutions(FREE), tmp_path / "x.onnx")
    monkeypatch.setattr(
        "export.from_onnx._session", lambda *_: lambda x: np.ones((len(x), 5, 8, 8), np.float32)
    )
    assert main(["onnx", str(file), "--out", str(tmp_path / "e"), *COLOURS]) == 2
    assert (
        "the exported encoder computes something else than the original at batch 1" in capsys.readouterr().err
    )
    assert not (tmp_path / "e").exists()


def two_outputs():
    return model([node("Identity", "x", "y"), node("Relu", "x", "z")], {}, FREE, outputs=["y", "z"])


def free_size():
    return model([node("Relu", "x", "y")], {}, ("batch", 3, "height", "width"))


def nhwc():
    return model([node("Relu", "x", "y")], {}, (1, SIDE, SIDE, 3))


@pytest.mark.parametrize(
    ("content", "words", "says"),
    [
        (two_outputs(), [], "wanted one output of the graph, which has 'y', 'z'; choose with --output NAME"),
        (two_outputs(), ["--output", "w"], "wanted the output 'w' of the graph, which has 'y', 'z'"),
        (two_outputs(), ["--input", "w"], "wanted the input 'w' of the graph, which has 'x'"),
        (free_size(), [], "takes pictures of any size; choose one with --size H,W"),
        (convolutions(FREE), ["--size", "8,8"], "takes pictures of 16×16, got --size 8,8"),
        (nhwc(), [], "wanted the input 'x' to take pictures [M, 3, H, W], got ['M', 16, 16, 3]"),
        (
            convolutions(FREE),
            ["--layout", "tokens"],
            "for the layout tokens, got ['M', 5, 8, 8]; choose --layout",
        ),
        (convolutions(FREE), ["--sigma", "9"], "wanted sigma in (0, 4]"),
        (convolutions(FREE), ["--name", "a b"], "wanted name as at most 64 letters"),
        (convolutions(FREE), ["--mapper", "3"], "wants the mapper's weights"),
    ],
)
def test_one_line_says_what_is_missing(content, words, says, tmp_path, capsys):
    file = saved(content, tmp_path / "x.onnx")
    assert main(["onnx", str(file), "--out", str(tmp_path / "e"), *COLOURS, *words]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    "words", [["--mean", "1,2"], ["--std", "0,1,1"], ["--size", "0,4"], ["--mean", "nan,0,0"]]
)
def test_numbers_that_are_none(words, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["onnx", "x.onnx", "--out", str(tmp_path), *COLOURS, *words])
    assert "wanted " in capsys.readouterr().err


def test_budgets_hold_before_anything_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FSFAST_MAX_ROW_GIGAPRODUCTS", "1e-6")
    monkeypatch.setattr("export.from_onnx._open", None)
    assert main(["onnx", str(saved(convolutions(FREE), tmp_path / "x.onnx")), "--out", "e", *COLOURS]) == 2
    assert "set FSFAST_MAX_ROW_GIGAPRODUCTS=" in capsys.readouterr().err


MODULE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.qkv = nn.Linear(8, 24)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).mT
        q, k, v = self.qkv(tokens).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).mean(1)


def wrong():
    raise RuntimeError("no such weights")


number = int
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_networks.py").write_text(MODULE, encoding="utf-8")
    return "own_networks"


def test_a_module_of_ones_own(own_module, tmp_path, capsys):
    words = ["torch", f"{own_module}:Net", "--out", "e", *COLOURS, "--size", f"{SIDE},{SIDE}"]
    assert main(words) == 0, capsys.readouterr().err
    engine = load_engine(tmp_path / "e")
    assert (engine.manifest.name, engine.manifest.output, engine.manifest.dim) == ("Net", "pooled", 8)
    assert f"{own_module}:Net" in engine.manifest.record["provenance"][0]["source"]
    from own_networks import Net

    golden = load_file(tmp_path / "e" / "golden.safetensors")
    with torch.inference_mode():
        wanted = Net().eval()(torch.from_numpy(golden["encoder.input"])).numpy()
    np.testing.assert_allclose(golden["encoder.output"][:, 0], wanted, atol=1e-5)
    # Serving knows the graph alone.
    (tmp_path / "own_networks.py").unlink()
    with fsfast.SmoothedEncoder("e") as encoder:
        assert encoder.encode(np.zeros((SIDE, SIDE, 3), np.uint8)).features.shape[-1] == 8


@pytest.mark.parametrize(
    ("factory", "words", "says"),
    [
        (
            "own_networks",
            ["--size", "8,8"],
            "wanted MODULE:FACTORY such as networks:encoder, got 'own_networks'",
        ),
        ("own_networks:absent", ["--size", "8,8"], "own_networks:absent: AttributeError"),
        ("absent_networks:make", ["--size", "8,8"], "absent_networks:make: ModuleNotFoundError"),
        ("own_networks:wrong", ["--size", "8,8"], "own_networks:wrong: RuntimeError: no such weights"),
        ("own_networks:number", ["--size", "8,8"], "to return a torch.nn.Module, got int"),
        ("own_networks:Net", [], "wanted --size H,W"),
    ],
)
def test_what_is_no_module(own_module, factory, words, says, capsys):
    assert main(["torch", factory, "--out", "e", *COLOURS, *words]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_the_graph_of_a_fixed_batch_is_free(tmp_path):
    """What was exported for one picture serves micro-batches."""
    file = saved(convolutions((1, 3, SIDE, SIDE)), tmp_path / "x.onnx")
    assert main(["onnx", str(file), "--out", str(tmp_path / "e"), *COLOURS]) == 0
    record = json.loads((tmp_path / "e" / "engine.json").read_text(encoding="utf-8"))
    assert record["stages"]["encoder"]["float32"]["batch"] == [1, 1024]
    graph = onnx.load(tmp_path / "e" / "encoder.float32.onnx", load_external_data=False).graph
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "M"
