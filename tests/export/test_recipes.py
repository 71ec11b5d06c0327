"""Recipes with published weights: every layout becomes an engine that computes what the file does; clear refusals."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from export import networks
from export.__main__ import main
from export.options import Options, customise, describe
from export.published import Published
from export.recipe import load_recipe, recipe_names
from fsfast import SmoothedEncoder
from fsfast.backends.cpu import open_graphs
from fsfast.engine.engine import load_engine
from fsfast.engine.profile import Work
from fsfast.engine.schedule import t_star
from fsfast.models import (
    UNET_TINY,
    VIT_B_16,
    VIT_TINY,
    SmoothnessMapper,
    UNet,
    VisionTransformer,
    load_encoder,
)
from tests.models import published
from tests.models.published import NARROW, as_transformers, prefixed, tower
from train.checkpoint import save_weights

CLIPS = ("clip-b32", "clip-b16", "clip-l14", "llava-1.5", "openflamingo", "fare", "tecoa")
OTHERS = (
    "siglip-so400m-384",
    "siglip2-so400m-384",
    "dinov2-l14",
    "dinov2-reg-l14",
    "dinov3-l16",
    "internvit-300m-448",
    "pe-core-l14-336",
    "qwen2.5-vl-448",
    "qwen3-vl-448",
)
PUBLISHED = (*CLIPS, *OTHERS)
# Channels must divide into a mapper's heads of 64.
CONFIG = replace(NARROW, width=64, heads=2, embed_dim=64)
WEIGHTS = tower(CONFIG)
RECIPE = """
name = "narrow"
sigma = 0.25
n0 = 2
[grid]
height = 12
width = 12
fit = "crop"
filter = "bicubic"
[normalise]
mean = [0.5, 0.45, 0.4]
std = [0.25, 0.26, 0.27]
[encoder]
preset = "narrow"
output = "penultimate"
ln_post = false
[weights]
encoder = ["somewhere"]
licence = "MIT"
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe like the published ones around an encoder of a few channels; `--purifier` makes its grid 16×16."""
    monkeypatch.setitem(networks.ENCODERS, "narrow", CONFIG)
    monkeypatch.setattr("export.options.PURIFIED_SIDE", 16)
    (tmp_path / "narrow.toml").write_text(RECIPE)
    return str(tmp_path / "narrow.toml")


def bare(folder):
    torch.save(WEIGHTS, folder / "fare_eps_2.pt")
    return folder / "fare_eps_2.pt"


def tecoa(folder):
    torch.save({"vision_encoder_state_dict": prefixed("module.", WEIGHTS)}, folder / "tecoa_eps_4.pt")
    return folder / "tecoa_eps_4.pt"


def open_clip(folder):
    save_file(
        prefixed("visual.", WEIGHTS) | published.open_clip_text(), folder / "open_clip_model.safetensors"
    )
    said = published.open_clip_config(CONFIG) | {"preprocess_cfg": {"mean": [0.5, 0.45, 0.4]}}
    published.write_json(folder / "open_clip_config.json", said)
    return folder


def clip_model(folder):
    named = as_transformers(WEIGHTS, projection="visual_projection.weight", position_ids=True)
    torch.save(named | published.transformers_text(), folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin"


def clip_vision_model(folder):
    save_file(as_transformers(WEIGHTS), folder / "model.safetensors")
    published.write_json(folder / "config.json", published.clip_vision_config(CONFIG))
    return folder


def llava(folder):
    named = as_transformers(WEIGHTS, "vision_tower.vision_model.") | published.llava_rest()
    published.write_shards(folder, named)
    published.write_json(folder / "config.json", published.llava_config(CONFIG))
    return folder


def trained(folder):
    save_weights(folder / "encoder.safetensors", WEIGHTS, "digest", 0.25)
    save_file({"class_features": torch.zeros(2, 64)}, folder / "class_features.safetensors")
    return folder


# What is saved → the outputs that it has.
FORMATS = {
    bare: "pooled",
    tecoa: "tokens",
    open_clip: "pooled",
    clip_model: "pooled",
    clip_vision_model: "penultimate",
    llava: "penultimate",
    trained: "tokens+ln_post",
}


def network(path, stage, x):
    """What a stage of an engine computes."""
    engine = load_engine(path)
    variant = engine.manifest.record["stages"][stage]["float32"]
    out = np.full((len(x), *variant["output"]["shape"][1:]), np.nan, np.float32)
    graphs = open_graphs(engine, "onnxruntime", Work("float32", (stage,)), threads=1)
    graphs[stage].run(x.numpy(), out)
    return torch.from_numpy(out)


@pytest.mark.parametrize("save", FORMATS, ids=lambda save: save.__name__)
def test_every_format_becomes_an_engine(save, recipe, tmp_path):
    (tmp_path / "weights").mkdir()
    path, kind = save(tmp_path / "weights"), FORMATS[save]
    command = [recipe, "--encoder", str(path), "--output", kind, "--out", str(tmp_path / "engine")]
    assert main(command) == 0
    source = VisionTransformer(CONFIG).requires_grad_(False)
    source.load_state_dict(WEIGHTS)
    x = torch.randn((3, 3, 12, 12), generator=torch.Generator().manual_seed(1))
    output, _, ln_post = kind.partition("+")
    wanted = source(x, output, bool(ln_post) if output == "tokens" else None)
    # Random weights of a standard deviation of 0.3 make activations of many tens.
    np.testing.assert_allclose(network(tmp_path / "engine", "encoder", x), wanted, rtol=1e-4, atol=1e-4)
    record = json.loads((tmp_path / "engine/engine.json").read_text())
    assert record["random_weights"] is False
    assert record["name"] == "narrow"
    ((row),) = record["provenance"]
    file = path if path.is_file() else next(p for p in sorted(path.iterdir()) if p.name in row["source"])
    assert f"{file.name} (sha256 " in row["source"]
    assert row["source"].startswith(
        ("open_clip layout: ", "transformers layout: ")[save in (clip_model, clip_vision_model, llava)]
    )
    assert row["licence"] == "MIT"


@pytest.fixture
def run(tmp_path):
    """The folder of a training run: encoder, purifier and mapper, trained for σ = 0.25."""
    folder = tmp_path / "run"
    folder.mkdir()
    torch.manual_seed(0)
    for name, module in (("purifier", UNet(UNET_TINY)), ("mapper", SmoothnessMapper(64, 2))):
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        save_weights(folder / f"{name}.safetensors", module.state_dict(), "digest", 0.25)
    trained(folder)
    return folder


def test_purifier_and_mapper_join_the_encoder(recipe, run, tmp_path, picture, capsys):
    """A training run's folder serves for all three; the whole serves and certifies."""
    files = [
        "--encoder",
        str(run),
        "--purifier",
        f"unet-tiny={run}",
        "--mapper",
        str(run / "mapper.safetensors"),
    ]
    path = tmp_path / "engine"
    command = [recipe, *files, "--n0", "3", "--licence", "CC-BY-4.0", "--licence", "encoder=MIT"]
    assert main([*command, "--out", str(path)]) == 0
    record = json.loads((path / "engine.json").read_text())
    assert record["name"] == "narrow+unet-tiny+mapper"
    assert (record["grid"]["height"], record["resize"]["height"], record["n0"]) == (16, 12, 3)
    assert record["architecture"]["mapper"]["config"] == {"dim": 64, "blocks": 2}
    assert [row["licence"] for row in record["provenance"]] == ["CC-BY-4.0", "MIT", "CC-BY-4.0"]
    assert all(".safetensors (sha256" in row["source"] for row in record["provenance"])
    source = SmoothnessMapper(64, 2).requires_grad_(False)
    source.load_state_dict(load_file(run / "mapper.safetensors"))
    z = torch.randn((2, 9, 64), generator=torch.Generator().manual_seed(2))
    np.testing.assert_allclose(network(path, "mapper", z), source(z, 0.25), rtol=1e-4, atol=1e-4)
    unet = UNet(UNET_TINY).requires_grad_(False)
    unet.load_state_dict(load_file(run / "purifier.safetensors"))
    x_t = torch.randn((2, 3, 16, 16), generator=torch.Generator().manual_seed(3))
    np.testing.assert_allclose(network(path, "purifier", x_t), unet(x_t, t_star(0.25)), rtol=1e-4, atol=1e-4)
    with SmoothedEncoder(path) as encoder:
        out = encoder.encode([picture], seeds=[1])
        assert out.features.shape == (1, 9, 64)
        assert not out.random_weights


def options(run, **changed):
    files = {"encoder": str(run), "purifier": str(run), "mapper": str(run)}
    return Options(**(files | changed))


def test_presets_are_recognised_by_their_shapes(recipe, run):
    chosen = customise(load_recipe(recipe), options(run))
    assert chosen.purifier == "by its shapes"
    assert chosen.name == "narrow+purifier+mapper"
    assert Published(chosen).load("purifier").config == UNET_TINY


def test_an_encoder_with_a_convolutional_stem_loads(tmp_path):
    """The built-in engine's tower, as `python -m train` writes it."""
    torch.manual_seed(0)
    source = VisionTransformer(VIT_TINY).eval().requires_grad_(False)
    save_weights(tmp_path / "encoder.safetensors", source.state_dict(), "digest", 0.25)
    loaded = load_encoder(tmp_path / "encoder.safetensors", VIT_TINY)
    assert loaded.projection
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(loaded.module(x, "tokens", True), source(x, "tokens", True), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--encoder FILE_OR_DIR"),
        (["--encoder", "nowhere.pt"], "found nothing"),
        (["--encoder", "RUN", "--purifier", "adm256"], "--purifier adm256=FILE"),
        (["--encoder", "RUN", "--mapper", "3"], "--mapper FILE"),
        (["--encoder", "RUN", "--purifier", "adm256=RUN"], "the U-Net of the given config"),
        (["--encoder", "RUN/mapper.safetensors"], "load_mapper"),
        (["--encoder", "RUN", "--purifier", "RUN", "--sigma", "0.5"], "pass --sigma 0.25"),
        (["--encoder", "RUN", "--mapper", "RUN", "--sigma", "0.5"], "the mapper"),
        (["--encoder", "RUN", "--sigma", "0"], "sigma in (0, 4]"),
        (["--encoder", "RUN", "--random-weights"], "either --random-weights or files"),
        (["--encoder", "RUN", "--licence", "encoder= "], "--licence TEXT"),
        (["--encoder", "VISION", "--output", "pooled"], "wants the projection"),
        (["--encoder", "RUN", "--mapper", "WIDE"], "one for 128"),
        (["--encoder", "RUN", "--mapper", "0"], "1…999 blocks, got 0"),
        (["--random-weights", "--mapper", "0"], "1…999 blocks, got 0"),
        (["--random-weights", "--purifier", "adm256"], "wants a grid of multiples of 32"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_refusals_in_one_line(arguments, says, recipe, run, tmp_path, capsys):
    (tmp_path / "vision").mkdir()
    save_file(SmoothnessMapper(128, 1).state_dict(), tmp_path / "wide.safetensors")
    places = {
        "RUN": run,
        "VISION": clip_vision_model(tmp_path / "vision"),
        "WIDE": tmp_path / "wide.safetensors",
    }
    for name, place in places.items():
        arguments = [argument.replace(name, str(place)) for argument in arguments]
    assert main([recipe, *arguments, "--out", str(tmp_path / "engine")]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "engine").exists()
    assert not list(tmp_path.glob(".engine*"))


def test_all_files_are_looked_at_before_any_work(recipe, run, tmp_path, capsys, monkeypatch):
    """A truncated encoder and a wrong mapper are said before the purifier is loaded."""
    monkeypatch.setattr(Published, "load", None)
    content = (run / "encoder.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(content[: len(content) // 2])
    half = ["--encoder", str(tmp_path / "half.safetensors"), "--purifier", str(run)]
    wrong = ["--encoder", str(run), "--purifier", str(run), "--mapper", str(run / "purifier.safetensors")]
    for arguments, says in ((half, "truncated or damaged"), (wrong, "wanted a smoothness mapper")):
        assert main([recipe, *arguments, "--out", str(tmp_path / "engine")]) == 2
        assert says in capsys.readouterr().err


def test_a_mapper_is_for_the_tokens_that_it_was_trained_on(recipe, run, tmp_path, capsys):
    """Shapes do not show the output, nor how its encoder reads it."""
    weights = SmoothnessMapper(64, 1).state_dict()
    path = tmp_path / "mapper.safetensors"
    chosen = customise(load_recipe(recipe), Options(str(run), mapper=str(path)))
    about = {"output": "penultimate", "encoder": CONFIG.to_record()}
    save_weights(path, weights, "digest", 0.25, about)
    Published(chosen)
    with pytest.raises(
        ValueError, match=r"trained on the output penultimate, the engine's is tokens\+ln_post"
    ):
        Published(replace(chosen, output="tokens", ln_post=True))
    # ln_post is a choice for tokens alone.
    Published(replace(chosen, ln_post=True))
    other = {"quick_gelu": CONFIG.activation != "quick_gelu", "a field of later": 1}
    save_weights(path, weights, "digest", 0.25, about | {"encoder": CONFIG.to_record() | other})
    with pytest.raises(ValueError, match=r"another encoder than narrow \(quick_gelu = \w+ instead of \w+\)"):
        Published(chosen)
    # Weights of before say nothing of it.
    save_weights(path, weights, "digest", 0.25)
    Published(replace(chosen, output="tokens"))


def test_names_with_additions_have_a_limit(recipe, run):
    long = replace(load_recipe(recipe), name="n" * 60)
    with pytest.raises(ValueError, match="at most 64"):
        customise(long, options(run))


def test_results_beside_the_weights_tell_sigma_too(recipe, run):
    """Weights of older runs have no σ in their headers."""
    unet = UNet(UNET_TINY).state_dict()
    save_file(unet, run / "purifier.safetensors", {"run": "digest"})
    chosen = customise(load_recipe(recipe), Options(str(run), str(run), sigma=0.5))
    Published(chosen)
    (run / "results.json").write_text('{"sigma": 0.12}')
    with pytest.raises(ValueError, match=r"trained for sigma = 0.12"):
        Published(chosen)


@pytest.mark.parametrize("name", ["demo", "vit-b16-random"])
def test_recipes_with_weights_of_their_own_take_no_files(name, capsys):
    assert main([name, "--encoder", "x.pt"]) == 2
    assert "clip-l14" in capsys.readouterr().err


def test_the_recipes_are_there():
    assert set(recipe_names()) == {*PUBLISHED, "demo", "efficientnet-lite0", "vit-b16-random"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_dry_run_says_what_is_missing_and_where_to_get_it(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(name)
    side = networks.encoder_config(recipe).image_size
    assert recipe.grid.size == (side, side)
    assert main([name, "--dry-run"]) == 1
    said = capsys.readouterr().out
    assert f"{side}×{side}" in said
    assert "missing  encoder: give it with --encoder" in said
    assert all(place in said for place in recipe.encoder_from)
    assert "guided-diffusion" not in said
    assert main([name, "--dry-run", "--purifier", "adm256", "--mapper", "mapper.safetensors"]) == 1
    said = capsys.readouterr().out
    assert "256×256" in said
    assert "256x256_diffusion_uncond.pt" in said
    assert "missing  mapper: mapper.safetensors" in said
    assert "://" not in said
    for file in ("encoder.pt", "unet.pt", "mapper.safetensors"):
        (tmp_path / file).touch()
    found = ["--encoder", "encoder.pt", "--purifier", "unet-light=unet.pt", "--mapper", "mapper.safetensors"]
    assert main([name, "--dry-run", *found]) == 0
    assert "missing" not in capsys.readouterr().out
    assert not list(tmp_path.glob("engines"))


def test_the_towers_are_those_of_the_models_around_them():
    """What LLaVA-1.5 and OpenFlamingo hand to their language models."""
    llava, flamingo = load_recipe("llava-1.5"), load_recipe("openflamingo")
    config = networks.encoder_config(llava)
    assert (llava.output, config.patches, networks.feature_dim(llava)) == ("penultimate", 576, 1024)
    config = networks.encoder_config(flamingo)
    assert (flamingo.output, flamingo.ln_post, config.patches) == ("tokens", False, 256)
    assert networks.encoder_config(load_recipe("clip-b16")) == VIT_B_16


def test_random_weights_have_the_structure_and_say_so(recipe, tmp_path):
    path = tmp_path / "engine"
    arguments = ["--random-weights", "--purifier", "unet-tiny", "--mapper", "3", "--sigma", "0.5"]
    assert main([recipe, *arguments, "--out", str(path)]) == 0
    engine = load_engine(path)
    assert engine.manifest.random_weights
    assert engine.manifest.sigma == 0.5
    assert list(engine.manifest.stages) == ["purifier", "encoder", "mapper"]
    assert all("never trained" in row["source"] for row in engine.manifest.record["provenance"])
    assert "never trained" in (path / "model-card.md").read_text()
    chosen = customise(load_recipe(recipe), Options(purifier="unet-tiny", mapper="3", random_weights=True))
    assert "random weights" in describe(chosen)
