"""Recipes of towers that are no CLIP: their full sizes, their files, their preparation, and an engine of each kind."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from export import networks
from export.__main__ import main
from export.published import Published
from export.recipe import load_recipe
from fsfast import SmoothedEncoder
from fsfast.engine.engine import load_engine
from fsfast.models import VisionTransformer, load_encoder
from fsfast.models.folded import load_folded
from tests.models import families, perception, published, qwen
from tests.small_recipe import small_recipe

HALF, IMAGENET = (0.5, 0.5, 0.5), (0.485, 0.456, 0.406)


def config_of(name):
    return networks.encoder_config(load_recipe(name))


@pytest.mark.parametrize("name", families.FULL_SIZE)
def test_the_recipe_describes_the_published_tower(name, tmp_path):
    """Names, shapes and numbers at full size; the files hold nothing but zeros that are stored once."""
    kind, tensors, millions = families.FULL_SIZE[name]
    family, config = families.FAMILIES[kind], config_of(name)
    stored = replace(config, image_size=518) if name.startswith("dinov2") else config
    shapes = families.shapes(family, stored)
    assert len(shapes) == tensors
    assert sum(map(math.prod, shapes.values())) / 1e6 == pytest.approx(millions, abs=0.06)
    torch.save({key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}, tmp_path / "a.pt")
    resize = load_recipe(name).resize_positions
    loaded = load_encoder(tmp_path / "a.pt", config, resize_positions=resize, values=False)
    assert loaded.module.config == config
    assert resize == (stored != config)


# Recipe → shapes in the file, tensors and millions of parameters.
OF_ANY_SIZE = {
    "qwen2.5-vl-448": ("Qwen2.5-VL", 390, 676.5),
    "qwen3-vl-448": ("Qwen3-VL", 351, 576.4),
    "pe-core-l14-336": (None, 307, 317.2),
}


@pytest.mark.parametrize("name", OF_ANY_SIZE)
def test_the_recipe_describes_a_tower_with_a_merger_or_a_pool(name, tmp_path):
    kind, tensors, millions = OF_ANY_SIZE[name]
    config = config_of(name)
    if kind is None:
        shapes = perception.shapes(config)
    else:
        shapes = qwen.shapes(replace(qwen.TOWERS[kind], config=config), stored_side=48)
    assert len(shapes) == tensors
    assert sum(map(math.prod, shapes.values())) / 1e6 == pytest.approx(millions, abs=0.06)
    torch.save({key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}, tmp_path / "a.pt")
    assert load_encoder(tmp_path / "a.pt", config, values=False).module.config == config


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("qwen2.5-vl-448", (256, 3584)),
        ("qwen3-vl-448", (4 * 196, 4096)),
        ("pe-core-l14-336", (1, 1024)),
    ],
)
def test_the_recipe_makes_the_features_that_the_language_model_reads(name, shape):
    recipe, config = load_recipe(name), config_of(name)
    with torch.device("meta"):
        features = VisionTransformer(config).features(recipe.output, recipe.ln_post)
    pixels = torch.empty(2, 3, *recipe.grid.size, device="meta")
    assert features(pixels).shape[1:] == shape == config.feature_shape(recipe.output)


def test_tokens_of_a_full_size():
    """SigLIP's patches leave six pixels of 384 over."""
    assert [config_of(name).patches for name in families.FULL_SIZE] == [729, 576, 256, 256, 196, 1024]
    siglip = config_of("siglip-so400m-384")
    with torch.device("meta"):
        tower = VisionTransformer(siglip)
    pixels = torch.empty(2, 3, 384, 384, device="meta")
    assert tower(pixels, "tokens", True).shape == (2, 729, 1152)
    assert tower(pixels).shape == (2, 1, 1152)


@pytest.mark.parametrize(
    ("name", "fit", "filter_", "mean"),
    [
        ("siglip-so400m-384", "squash", "bicubic", HALF),
        ("siglip2-so400m-384", "squash", "bicubic", HALF),
        ("dinov2-l14", "crop", "bicubic", IMAGENET),
        ("dinov2-reg-l14", "crop", "bicubic", IMAGENET),
        ("dinov3-l16", "squash", "bilinear", IMAGENET),
        ("internvit-300m-448", "squash", "bicubic", IMAGENET),
        ("qwen2.5-vl-448", "squash", "bicubic", (0.48145466, 0.4578275, 0.40821073)),
        ("qwen3-vl-448", "squash", "bicubic", HALF),
        ("pe-core-l14-336", "squash", "bilinear", HALF),
    ],
)
def test_pictures_are_prepared_as_the_family_wants_it(name, fit, filter_, mean):
    recipe = load_recipe(name)
    assert (recipe.grid.fit, recipe.grid.filter, recipe.mean) == (fit, filter_, mean)
    assert recipe.grid.size == (config_of(name).image_size,) * 2


def recipe_of(family, folder):
    """A recipe for a small member of the family, by its configuration."""
    pools = family.config.pooling != "none"
    config = {key: value for key, value in family.config.to_record().items() if key != "quick_gelu"}
    path = folder / "small.toml"
    path.write_text(small_recipe(config, output="pooled" if pools else "tokens", ln_post=pools))
    return str(path)


@pytest.mark.parametrize("name", ["SigLIP", "DINOv3"])
def test_a_member_of_the_family_becomes_an_engine(name, tmp_path):
    family = families.FAMILIES[name]
    (tmp_path / "weights").mkdir()
    save_file(families.weights(family), tmp_path / "weights/model.safetensors")
    published.write_json(tmp_path / "weights/config.json", families.settings(family))
    path = tmp_path / "engine"
    command = [recipe_of(family, tmp_path), "--encoder", str(tmp_path / "weights"), "--out", str(path)]
    assert main(command) == 0
    x = torch.randn(2, 3, 14, 14, generator=torch.Generator().manual_seed(1))
    module = load_folded(load_engine(path))["encoder"]
    assert module.config == family.config
    _, tokens, pooled = families.reference(family, families.weights(family), x)
    wanted = tokens if pooled is None else pooled
    torch.testing.assert_close(module(x).double(), wanted, rtol=0, atol=2e-5)
    with SmoothedEncoder(path) as encoder:
        image = np.random.default_rng(0).integers(0, 256, (14, 14, 3), np.uint8)
        assert encoder.encode([image]).features.size == wanted[0].numel()


def test_merged_tokens_become_an_engine(tmp_path):
    """Of Qwen3-VL, taps and all."""
    tower = qwen.TOWERS["Qwen3-VL"]
    record = tower.config.to_record()
    del record["quick_gelu"]
    text = small_recipe(record, size=qwen.SIZE, output="merged", ln_post=True)
    (tmp_path / "small.toml").write_text(text)
    save_file(published.prefixed("visual.", qwen.weights(tower)), tmp_path / "a.safetensors")
    path = tmp_path / "engine"
    command = [str(tmp_path / "small.toml"), "--encoder", str(tmp_path / "a.safetensors"), "--out", str(path)]
    assert main(command) == 0
    image = np.random.default_rng(0).integers(0, 256, (qwen.SIZE, qwen.SIZE, 3), np.uint8)
    with SmoothedEncoder(path) as encoder:
        assert encoder.certify(image, n=20).n == 20
        assert encoder.encode([image]).features.shape == (1, 48, 24)
        clean = encoder.clean([image])
    pixels = torch.from_numpy((image / 255 - 0.5) / 0.5).permute(2, 0, 1)
    _, merged = qwen.reference(tower, qwen.weights(tower), pixels)
    np.testing.assert_allclose(clean[0], merged.numpy(), rtol=0, atol=2e-5)


def test_a_configuration_that_is_none_is_refused(tmp_path):
    text = small_recipe({"widht": 3}, ln_post=True)
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(ValueError, match=r"\[encoder.config\] of recipe small: .*widht"):
        config_of(str(tmp_path / "a.toml"))
    (tmp_path / "b.toml").write_text(text.replace("[encoder]", '[encoder]\npreset = "vit-b16"'))
    with pytest.raises(ValueError, match="wanted one of preset and config"):
        load_recipe(str(tmp_path / "b.toml"))


@pytest.mark.parametrize(
    ("output", "says"), [("pooled", "no pooled output"), ("tokens+ln_post", "ln_post=False")]
)
def test_an_output_that_the_tower_has_not_is_refused_before_any_work(output, says, tmp_path, capsys):
    command = [
        "internvit-300m-448",
        "--random-weights",
        "--output",
        output,
        "--out",
        str(tmp_path / "engine"),
    ]
    assert main(command) == 2
    assert says in capsys.readouterr().err


# What the files beside the weights say about pictures.

SQUASHED = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_center_crop": False, "resample": 2}


def clip_with(file, record, folder):
    """A CLIP for recipe clip-b16 whose weights are zeros, and a file beside them."""
    hollow = published.hollow(networks.ENCODERS["vit-b16"])
    torch.save(published.prefixed("visual.", hollow), folder / "open_clip_pytorch_model.bin")
    published.write_json(folder / file, record)
    return replace(load_recipe("clip-b16"), files={"encoder": folder})


@pytest.mark.parametrize(
    ("file", "record", "complaints"),
    [
        (
            "preprocessor_config.json",
            SQUASHED,
            ["mean = (0.5", "std = (0.5", "filter = bilinear", "fit = squash"],
        ),
        (
            "preprocessor_config.json",
            {"do_center_crop": True, "resample": 3, "size": {"shortest_edge": 224}, "image_mean": [0.5] * 3},
            ["mean = (0.5"],
        ),
        (
            "open_clip_config.json",
            published.open_clip_config(networks.ENCODERS["vit-b16"])
            | {"preprocess_cfg": {"interpolation": "bilinear", "resize_mode": "squash"}},
            ["filter = bilinear instead of bicubic", "fit = squash instead of crop"],
        ),
    ],
)
def test_a_preparation_that_contradicts_the_recipe_is_refused(file, record, complaints, tmp_path):
    recipe = clip_with(file, record, tmp_path)
    with pytest.raises(ValueError, match="choose the recipe of these weights") as caught:
        Published(recipe)
    for complaint in complaints:
        assert complaint in str(caught.value)
    # Named alone, weights say nothing of pictures.
    Published(replace(recipe, files={"encoder": tmp_path / "open_clip_pytorch_model.bin"}))


def test_a_preparation_that_agrees_is_taken(tmp_path):
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    record = {"image_mean": mean, "image_std": std, "do_center_crop": True, "resample": 3, "size": 224}
    recipe = clip_with("preprocessor_config.json", record, tmp_path)
    Published(recipe)
    # LLaVA pads, whatever CLIP's own processor does.
    Published(replace(recipe, grid=replace(recipe.grid, fit="pad")))
    published.write_json(tmp_path / "preprocessor_config.json", record | {"image_mean": "half"})
    with pytest.raises(ValueError, match="wanted mean and standard deviation as three numbers"):
        Published(recipe)
