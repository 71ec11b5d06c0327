"""EfficientNet-Lite: what it computes, its checkpoints, and engines of it."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from export.__main__ import main as export
from export.build import build_engine
from export.engine_recipe import find_recipe
from export.networks import check_networks
from export.options import Options, customise
from export.published import Published
from export.recipe import load_recipe
from export.suggestion import suggest
from fsfast import SmoothedEncoder
from fsfast.engine.classes import load_classes
from fsfast.engine.engine import load_engine
from fsfast.errors import CheckpointError, EngineError
from fsfast.files import file_sha256
from fsfast.images.grid import Grid
from fsfast.models import (
    EFFICIENTNET_LITE0,
    EfficientNet,
    EfficientNetConfig,
    EfficientNetFeatures,
    inspect_checkpoint,
    load_efficientnet,
)
from fsfast.models.efficientnet import _convolution, _same
from fsfast.models.folded import load_folded
from fsfast.models.torch_function import TorchFunction
from tests.forging import rewrite
from tests.models.efficientnets import SMALL, weights
from train.__main__ import main as train

RECIPE = "efficientnet-lite0"


def loaded(config=SMALL):
    module = EfficientNet(config)
    module.load_state_dict(weights(config))
    return module.eval()


def pixels(batch, config=SMALL):
    size = config.image_size
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A file with a classifier of 1,000 classes."""
    path = tmp_path_factory.mktemp("efficientnet") / "small.pth"
    torch.save(weights(classes=1000), path)
    return path


def recipe_of(checkpoint, **changes):
    """The recipe for a small member."""
    recipe = load_recipe(RECIPE)
    small = {"encoder_config": SMALL.to_record(), "encoder_type": "efficientnet", "grid": Grid(32, 32)}
    return replace(recipe, **small, files={"encoder": checkpoint}, **changes)


@pytest.fixture(scope="module")
def engine(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("engines") / "efficientnet"
    build_engine(recipe_of(checkpoint), path, report=lambda line: None)
    return path


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [8, 10])
def test_padding_is_tensorflows_same(kernel, stride, side):
    if stride > kernel:
        return
    convolution = _convolution(2, 3, kernel, stride, 1, False)
    x = torch.randn(1, 2, side, side, generator=torch.Generator().manual_seed(2))
    total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
    before = total // 2
    padded = F.pad(x, (before, total - before, before, total - before))
    want = F.conv2d(padded, convolution.weight, stride=stride)
    torch.testing.assert_close(convolution(_same(x, convolution)), want)


def test_folded_batch_norms_change_nothing():
    module = loaded()
    for output, tokens in (("tokens", 16), ("pooled", 1)):
        want, folded = module(pixels(3), output), module.features(output)
        assert want.shape == (3, tokens, 64) == (3, *SMALL.feature_shape(output))
        assert want.std() > 0.1
        torch.testing.assert_close(folded(pixels(3)), want, rtol=0, atol=1e-5)
        assert not any("_bn" in name for name in folded.state_dict())
    torch.testing.assert_close(module(pixels(3), "pooled")[:, 0], module(pixels(3)).mean(1))
    # What was folded is a copy, and training goes on.
    assert EfficientNet(SMALL).features("pooled").training is False
    trained = EfficientNet(SMALL).train()
    trained.features("pooled")
    assert trained.training


def test_its_sizes_are_those_of_imagenets():
    assert EFFICIENTNET_LITE0.feature_shape("tokens") == (49, 1280)
    assert EFFICIENTNET_LITE0.feature_shape("pooled") == (1, 1280)
    assert EfficientNetConfig.from_record(json.loads(json.dumps(SMALL.to_record()))) == SMALL


def test_sizes_and_outputs_that_are_none_are_refused():
    for wrong in ({"image_size": 30}, {"stages": ()}, {"stages": ((1, 4, 1, 1, 8),)}, {"width": 0}):
        with pytest.raises(ValueError, match="wanted"):
            replace(SMALL, **wrong)
    with pytest.raises(ValueError, match="'penultimate' and 'merged' are a ViT's"):
        EfficientNetFeatures(SMALL, "penultimate")
    with pytest.raises(ValueError, match=r"wanted pixels \[M, 3, 32, 32\], got \[1, 3, 16, 16\]"):
        loaded()(torch.zeros(1, 3, 16, 16))


def test_a_checkpoint_loads_whole(checkpoint, tmp_path):
    found = load_efficientnet(checkpoint, SMALL)
    torch.testing.assert_close(found.module(pixels(1)), loaded()(pixels(1)), rtol=0, atol=0)
    stored = weights(classes=1000)
    assert all(
        torch.equal(*pair)
        for pair in zip(found.classifier, (stored["_fc.weight"], stored["_fc.bias"]), strict=True)
    )
    assert [file.sha256 for file in found.files] == [file_sha256(checkpoint)]
    # Without a classifier, and without the counts of batches.
    bare = {name: tensor for name, tensor in weights().items() if "num_batches" not in name}
    save_file(bare, tmp_path / "bare.safetensors")
    assert load_efficientnet(tmp_path / "bare.safetensors", SMALL).classifier is None


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda w: w.pop("_conv_head.weight"), "missing: _conv_head.weight"),
        (lambda w: w.pop("_fc.bias"), "missing: _fc.bias"),
        (
            lambda w: w.update({"_blocks.0._se_reduce.weight": torch.zeros(1)}),
            "unexpected: _blocks.0._se_red",
        ),
        (lambda w: w.update({"_bn1.weight": torch.zeros(3)}), r"_bn1.weight \(wanted 64, got 3\)"),
        (lambda w: w.update({"_bn1.weight": torch.full((64,), math.nan)}), "not finite|finite"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(change, complaint, tmp_path):
    stored = weights(classes=5)
    change(stored)
    save_file(stored, tmp_path / "wrong.safetensors")
    with pytest.raises(CheckpointError, match=complaint):
        load_efficientnet(tmp_path / "wrong.safetensors", SMALL)


def test_inspect_names_it_and_the_command(tmp_path, checkpoint):
    whole = {name: torch.zeros((), dtype=like.dtype).expand(like.shape) for name, like in _shapes().items()}
    torch.save(whole, tmp_path / "lite0.pth")
    found = inspect_checkpoint(tmp_path / "lite0.pth")
    assert (found.kind, found.family, found.problem) == ("convolutional encoder", "EfficientNet-Lite0", None)
    assert found.dtypes == ("float32",)
    assert found.outputs == {"pooled": (1, 1280), "tokens": (49, 1280)}
    recipe = load_recipe(RECIPE)
    assert (found.preparation["mean"].value, found.preparation["std"].value) == (recipe.mean, recipe.std)
    assert (found.preparation["fit"].value, found.preparation["filter"].value) == (
        recipe.grid.fit,
        recipe.grid.filter,
    )
    path = tmp_path / "lite0.pth"
    assert (
        suggest(found).command == f"fsfast export {RECIPE} --encoder {path} --out engines/efficientnet-lite0"
    )
    # Another member of the family.
    assert "of another shape" in inspect_checkpoint(checkpoint).problem


def _shapes():
    with torch.device("meta"):
        return EfficientNet(EFFICIENTNET_LITE0).state_dict()


def test_an_engine_is_rebuilt_in_torch_and_attacked(engine, picture):
    manifest = load_engine(engine).manifest
    assert manifest.record["architecture"]["encoder"]["type"] == "efficientnet"
    assert (manifest.tokens, manifest.dim) == (1, 64)
    module = load_folded(load_engine(engine))["encoder"]
    torch.testing.assert_close(module(pixels(2)), loaded()(pixels(2), "pooled"), rtol=0, atol=1e-5)
    function = TorchFunction(load_engine(engine))
    levels = torch.from_numpy(picture).permute(2, 0, 1)[None].float().requires_grad_()
    (gradient,) = torch.autograd.grad(function(levels).sum(), levels)
    assert (gradient != 0).float().mean() > 0.9
    with SmoothedEncoder(engine) as encoder:
        assert torch.cosine_similarity(
            torch.from_numpy(encoder.clean(picture)), function(levels)[:, 0].detach(), dim=-1
        ).item() == pytest.approx(1, abs=1e-6)
        certificate = encoder.certify(picture, n=60)
        assert encoder.verify(certificate, picture)


def test_more_blocks_than_weights_are_not_built(engine, tmp_path):
    shutil.copytree(engine, tmp_path / "engine")
    stages = [[10**9, 3, 1, 1, 8]]
    rewrite(
        tmp_path / "engine",
        lambda record: record["architecture"]["encoder"]["config"].update(stages=stages),
    )
    with pytest.raises(EngineError, match="1000000000 blocks"):
        load_folded(load_engine(tmp_path / "engine"))


def test_the_checkpoints_classifier_becomes_the_engines_classes(engine, checkpoint):
    head = load_classes(load_engine(engine))
    assert head.kind == "linear"
    assert (len(head.names), head.names[0], head.names[282]) == (1000, "tench", "tiger cat")
    np.testing.assert_array_equal(head.features, weights(classes=1000)["_fc.weight"].numpy())
    encoder, classes = load_engine(engine).manifest.record["provenance"]
    assert "without its biases of" in classes["source"]
    # It is not the file that the recipe's licence is about.
    assert encoder["licence"] == classes["licence"] == "not stated (fsfast export --licence says it)"


def test_the_pinned_file_has_the_recipes_licence(checkpoint, tmp_path):
    recipe = recipe_of(checkpoint, sha256=file_sha256(checkpoint))
    build_engine(recipe, tmp_path / "engine", report=lambda line: None)
    entries = load_engine(tmp_path / "engine").manifest.record["provenance"]
    assert {entry["licence"] for entry in entries} == {"Apache-2.0 (© 2020 ML Illustrated)"}


def test_an_engine_stands_in_the_place_of_the_recipe(engine, tmp_path):
    assert find_recipe(str(engine)).encoder_type == "efficientnet"
    assert export([str(engine), "--n0", "2", "--out", str(tmp_path / "again")]) == 0
    again = load_engine(tmp_path / "again").manifest
    assert again.record["architecture"] == load_engine(engine).manifest.record["architecture"]
    assert load_classes(load_engine(tmp_path / "again")).kind == "linear"


def test_a_mapper_is_trained_behind_it(engine, tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(2):
        levels = np.random.default_rng(i).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(levels).save(tmp_path / "images" / f"{i}.png")
    few = ("--mapper-steps", "2", "--mapper-batch", "2", "--noises", "2", "--device", "cpu")
    run, images = tmp_path / "run", tmp_path / "images"
    assert (
        train(
            [
                "psm",
                "--encoder",
                str(engine),
                "--data",
                str(images),
                "--out",
                str(run),
                *few,
                "--purifier",
                "none",
            ]
        )
        == 0
    )
    # It says what it was trained behind, and goes with nothing else.
    Published(customise(find_recipe(str(engine)), Options(mapper=str(run))))
    with pytest.raises(ValueError, match="trained on the output pooled, the engine's is tokens"):
        Published(
            replace(
                customise(find_recipe(str(engine)), Options(mapper=str(run))), output="tokens", ln_post=False
            )
        )


def test_outputs_that_it_has_not_are_refused(checkpoint):
    for output, complaint in (
        ("penultimate", "are a ViT's"),
        ("tokens+ln_post", "has no ln_post; choose --output tokens or pooled"),
    ):
        with pytest.raises(ValueError, match=complaint):
            check_networks(customise(recipe_of(checkpoint), Options(output=output)))


def test_tokens_of_zeros_stay_zero(tmp_path, picture):
    """ReLU6 makes them of dark pictures; nothing has their direction, and nothing is divided by their length."""
    stored = weights()
    stored["_bn1.weight"].zero_()
    stored["_bn1.bias"].fill_(-1)
    save_file(stored, tmp_path / "dark.safetensors")
    recipe = recipe_of(tmp_path / "dark.safetensors", output="tokens", ln_post=False, classifier=None)
    build_engine(recipe, tmp_path / "engine", report=lambda line: None)
    with SmoothedEncoder(tmp_path / "engine") as encoder:
        features = encoder.encode(picture, n0=3)
        assert features.features.shape == (1, 16, 64)
        assert not features.features.any()
        assert not features.unit.any()
        assert not encoder.clean(picture).any()
    levels = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    assert not TorchFunction(load_engine(tmp_path / "engine"))(levels).any()
