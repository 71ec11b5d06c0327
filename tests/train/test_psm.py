"""python -m train psm: a few steps on a small encoder; the weights become an engine, a killed run repeats every bit."""

import gc
import json
import os
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from export import networks
from export.__main__ import main as export
from fsfast.engine.engine import load_engine
from fsfast.images.grid import Grid
from fsfast.models import (
    UNET_TINY,
    DRUNet,
    DRUNetConfig,
    OneStepPurifier,
    SmoothnessMapper,
    UNet,
    new_denoiser,
    predict_noise,
)
from fsfast.models.checkpoints.networks import PURIFIERS
from tests.export.test_recipes import CONFIG, RECIPE
from tests.models.published import tower
from train.__main__ import main
from train.checkpoint import save_weights
from train.config import Schedule
from train.images import ImageFolder
from train.loop import Place, run_stage
from train.psm import PsmMapper
from train.psm_setting import FrozenEncoder, PsmConfig, Setting

DRUNET = DRUNetConfig((4, 8), (1, 1))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A recipe, the weights of its encoder, and images of several sizes."""
    monkeypatch.setitem(networks.ENCODERS, "narrow", CONFIG)
    monkeypatch.setattr("export.options.PURIFIED_SIDE", 16)
    monkeypatch.setitem(PURIFIERS, "drunet-light", DRUNET)
    (tmp_path / "narrow.toml").write_text(RECIPE)
    save_file(
        {name: 0.3 * tensor for name, tensor in tower(CONFIG).items()}, tmp_path / "encoder.safetensors"
    )
    (tmp_path / "images" / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i, place in enumerate(["a.png", "b.jpg", "more/c.png", "more/d.PNG", "e.webp"]):
        pixels = rng.integers(0, 256, (20 + 3 * i, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / place)
    return tmp_path


def command(folder, out, *more):
    return [
        *("psm", "--recipe", str(folder / "narrow.toml"), "--encoder", str(folder / "encoder.safetensors")),
        *("--data", str(folder / "images"), "--out", str(folder / out), "--device", "cpu", "--noises", "2"),
        *(
            "--purifier-steps",
            "3",
            "--purifier-batch",
            "2",
            "--mapper-steps",
            "3",
            "--mapper-batch",
            "2",
            *more,
        ),
    ]


def test_of_raw_and_averaged_weights_those_that_are_meant_are_frozen(folder, capsys):
    raw = load_file(folder / "encoder.safetensors")
    torch.save({"model": raw, "ema": raw}, folder / "both.pt")
    both = command(folder, "run", "--encoder", str(folder / "both.pt"), "--mapper-steps", "1")
    assert main(both) == 2
    assert "--weights ema" in capsys.readouterr().err
    assert main([*both, "--weights", "encoder=ema"]) == 0
    assert main([*both, "--purifier", "unet-tiny", "--weights", "purifier=ema"]) == 2
    assert "come from files (encoder), got purifier=ema" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("purifier", "more"),
    [("unet-tiny", ()), ("unet-tiny", ("--bf16", "--checkpointing")), ("drunet-light", ())],
    ids=["float32", "bf16", "drunet"],
)
def test_a_run_becomes_an_engine(folder, purifier, more):
    assert main(command(folder, "run", "--purifier", purifier, *more)) == 0
    run = folder / "run"
    for stage in ("purifier", "mapper"):
        with safe_open(run / f"{stage}.safetensors", framework="numpy") as file:
            said = json.loads(file.metadata()["training"])
        assert (said["sigma"], said["output"]) == (0.25, "penultimate")
        assert said["encoder"]["layers"] == CONFIG.layers
        umask = os.umask(0)
        os.umask(umask)
        assert (run / f"{stage}.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask
        assert all(t.dtype == torch.float32 for t in load_file(run / f"{stage}.safetensors").values())
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows] == ["purifier", "mapper"]
    files = ["--encoder", str(folder / "encoder.safetensors"), "--purifier", str(run), "--mapper", str(run)]
    recipe = str(folder / "narrow.toml")
    assert export([recipe, *files, "--out", str(folder / "engine")]) == 0
    manifest = load_engine(folder / "engine").manifest
    assert list(manifest.stages) == ["purifier", "encoder", "mapper"]
    # Both on the grid that they were trained on.
    assert manifest.grid.size == ((12, 12) if purifier == "drunet-light" else (16, 16))
    assert export([recipe, *files, "--sigma", "0.5", "--out", str(folder / "other")]) == 2
    assert export([recipe, *files, "--output", "tokens+ln_post", "--out", str(folder / "other")]) == 2


def test_a_killed_run_repeats_every_bit(folder, monkeypatch):
    arguments = ("--purifier", "unet-tiny")
    assert main(command(folder, "whole", *arguments)) == 0

    def killed(stage, place):
        return run_stage(stage, Place(place.folder, stop_after=1))

    with monkeypatch.context() as patch:
        patch.setattr("train.psm.run_stage", killed)
        assert main(command(folder, "parts", *arguments)) == 0
    # The mapper of the killed run was trained behind an unfinished purifier.
    (folder / "parts" / "mapper.checkpoint.pt").unlink()
    assert main(command(folder, "parts", *arguments)) == 2
    assert main(command(folder, "parts", *arguments, "--resume")) == 0
    for stage in ("purifier", "mapper"):
        whole, parts = (load_file(folder / run / f"{stage}.safetensors") for run in ("whole", "parts"))
        assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize(
    ("config", "middle"), [(UNET_TINY, "middle_block"), (DRUNET, "middle")], ids=["unet", "drunet"]
)
def test_checkpointing_changes_no_gradient(config, middle):
    """What is inside runs once more."""
    torch.manual_seed(0)
    network = new_denoiser(config)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    x_t = torch.randn(2, 3, 16, 16)
    gradients, runs = [], []
    network.get_submodule(middle).register_forward_pre_hook(lambda *_: runs.append(network.checkpointing))
    for network.checkpointing in (False, True):
        network.zero_grad()
        predict_noise(network, x_t, 145).square().sum().backward()
        gradients.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 10
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert runs == [False, True, True]


def test_every_image_comes_once_per_pass(folder):
    data = ImageFolder(folder / "images", Grid(16, 16, "crop"), 0, torch.device("cpu"))
    assert len(data.paths) == 5
    images = torch.cat([data.batch(number, 2) for number in range(5)])
    assert images.shape == (10, 3, 16, 16)
    assert torch.equal(images, images.round())
    for first in (0, 5):
        assert len({image.numpy().tobytes() for image in images[first : first + 5]}) == 5
    assert torch.equal(data.batch(3, 2), data.batch(3, 2))


def test_images_that_are_held_out(folder):
    """Chosen by their names; the rest comes once per pass. A resumed run repeats what the networks do on them."""
    whole = ImageFolder(folder / "images", Grid(16, 16, "crop"), 0, torch.device("cpu"))
    split = ImageFolder(folder / "images", Grid(16, 16, "crop"), 0, torch.device("cpu"), 0.5)
    assert sorted([*split.paths, *split.held_out]) == whole.paths
    assert split.digest != whole.digest
    train, held = (split.read(paths) for paths in (split.paths, split.held_out))
    seen = {image.numpy().tobytes() for image in split.batch(0, len(split.paths))}
    assert seen == {image.numpy().tobytes() for image in train}
    assert not seen & {image.numpy().tobytes() for image in held}
    Image.new("RGB", (16, 16)).save(folder / "images" / "new.png")
    more = ImageFolder(folder / "images", Grid(16, 16, "crop"), 0, torch.device("cpu"), 0.5)
    assert set(split.held_out) <= set(more.held_out)
    assert set(split.paths) <= set(more.paths)

    command_ = command(folder, "run", "--held-out", "0.5")
    assert main(command_) == 0
    assert main([*command_, "--resume"]) == 0
    rows = [json.loads(line) for line in (folder / "run/log.jsonl").read_text().splitlines()]
    first, second = (row for row in rows if row["stage"] == "held out")
    assert first == second
    assert first.keys() == {"stage", "images", "noisy", "mapped"}
    assert first["images"] == len(more.held_out)
    assert -1 <= first["noisy"] != first["mapped"] <= 1
    assert main([*command(folder, "run"), "--resume"]) == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("--held-out", "1"), "--held-out in [0, 1), got 1"),
        (("--held-out", "1e-9"), "wanted images on both sides of --held-out 1e-09, got 0 of 5"),
        (("--data", "nowhere"), "wanted a folder of images"),
        (("--data", "."), "found none"),
        (("--encoder", "nowhere.pt"), "found nothing"),
        (("--recipe", "demo"), "takes all weights from the run"),
        (("--noises", "0"), "at least 1"),
        (("--purifier-steps", "-1"), "at least 1"),
        (("--purifier", "unet-tiny", "--purifier-steps", "0"), "--purifier unet-tiny=FILE"),
        (("--purifier", "adm256"), "wants a grid of multiples of 32, got 16×16"),
        (("--device", "gpu"), "--device auto, cpu, cuda or cuda:NUMBER, got 'gpu'"),
        (("--threads", "-1"), "--threads in 1…1024, got -1"),
        (("--threads", "0"), "--threads in 1…1024, got 0"),
        (("--checkpoint-minutes", "nan"), "--checkpoint-minutes of at least 0"),
    ],
    ids=[
        *("share", "sides", "data", "empty", "encoder", "recipe", "noises", "steps", "new", "grid"),
        *("device", "threads", "none", "minutes"),
    ],
)
def test_refusals_in_one_line(folder, change, says, capsys, monkeypatch):
    (folder / "empty").mkdir()
    monkeypatch.chdir(folder / "empty")
    assert main([*command(folder, "run"), *change]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_a_damaged_image_is_found_before_the_first_step(folder, capsys):
    """All are named, whatever the damage; a folder with an image's name is none."""
    images = folder / "images"
    (images / "folder.png").mkdir()
    whole = (images / "b.jpg").read_bytes()
    # Its header is good.
    (images / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "text.png").write_text("no image")
    assert main(command(folder, "run")) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "got 2 of 7 that cannot" in error
    assert f"{images / 'half.jpg'}, {images / 'text.png'}; mend or remove them" in error
    assert not list((folder / "run").glob("*"))
    (images / "half.jpg").unlink()
    (images / "text.png").unlink()
    assert main(command(folder, "run", "--mapper-steps", "1")) == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("content", "the images changed"),
        ("name", "the images changed"),
        ("mean", "the recipe changed"),
        ("sigma", "the recipe changed"),
        ("encoder", "the weights changed"),
        ("seed", "the schedule changed"),
        ("both", "the images and the schedule changed"),
        ("noises", "the schedule changed"),
    ],
)
def test_a_run_that_changed_says_what(folder, change, says, capsys):
    """The folder's digest is over contents: a file of the same name and size counts as another."""
    more = {
        "sigma": ["--sigma", "0.5"],
        "seed": ["--seed", "1"],
        "noises": ["--noises", "3"],
        "both": ["--noises", "3"],
    }.get(change, [])
    assert main(command(folder, "run", "--mapper-steps", "1")) == 0
    image, recipe = folder / "images" / "a.png", folder / "narrow.toml"
    if change == "content":
        pixels = np.array(Image.open(image))
        Image.fromarray(255 - pixels).save(image)
    if change in ("name", "both"):
        image.rename(folder / "images" / "z.png")
    if change == "mean":
        recipe.write_text(recipe.read_text().replace("0.45", "0.46"))
    if change == "encoder":
        save_file(tower(CONFIG, seed=1), folder / "encoder.safetensors")
    assert main(command(folder, "run", "--mapper-steps", "1", "--resume", *more)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f": {says};" in error
    # The remedy leads on.
    assert str(folder / "run" / "*.checkpoint.pt") in error
    for checkpoint in (folder / "run").glob("*.checkpoint.pt"):
        checkpoint.unlink()
    assert main(command(folder, "run", "--mapper-steps", "1", *more)) == 0


def test_checkpointing_may_change_while_a_run_is_stopped(folder):
    arguments = ("--purifier", "unet-tiny", "--mapper-steps", "1")
    assert main(command(folder, "run", *arguments)) == 0
    assert main(command(folder, "run", *arguments, "--resume", "--checkpointing")) == 0


def setting(folder, config, unet=UNET_TINY, **recipe):
    from export.networks import build_networks
    from export.recipe import load_recipe

    chosen = replace(load_recipe(str(folder / "narrow.toml")), **recipe)
    features = build_networks(replace(chosen, encoder_from=()))["encoder"].module
    data = ImageFolder(folder / "images", Grid(16, 16, "crop"), config.seed, torch.device("cpu"))
    encoder = FrozenEncoder(replace(chosen, grid=Grid(16, 16, "crop")), features)
    return Setting(config, chosen, data, encoder, unet, {"encoder": ["a"]})


# Every field of the configuration: to which stages' digests it belongs.
FIELDS = {
    "seed": (1, {"purifier", "mapper"}),
    "purifier": (Schedule(steps=7, batch=1, rate=1e-3), {"purifier", "mapper"}),
    "mapper": (Schedule(steps=7, batch=1, rate=1e-3), {"mapper"}),
    "blocks": (2, {"mapper"}),
    "noises": (3, {"mapper"}),
    "cosine_weight": (0.5, {"purifier", "mapper"}),
    "pixel_weight": (0.5, {"purifier", "mapper"}),
    "stats_weight": (0.5, {"mapper"}),
    "identity_weight": (0.5, {"mapper"}),
    "bf16": (True, {"purifier", "mapper"}),
    "checkpointing": (True, set()),
}


def test_digests_change_with_what_a_stage_depends_on_and_with_nothing_else(folder):
    assert FIELDS.keys() == {field.name for field in fields(PsmConfig)}
    base = setting(folder, PsmConfig())
    stages = ("purifier", "mapper")

    def changed(other):
        return {stage for stage in stages if other.digest(stage) != base.digest(stage)}

    for name, (value, belongs) in FIELDS.items():
        assert changed(replace(base, config=replace(base.config, **{name: value}))) == belongs, name
    recipes = {
        "sigma": 0.5,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "output": "tokens",
        "encoder": "vit-tiny",
    }
    for name, value in recipes.items():
        assert changed(replace(base, recipe=replace(base.recipe, **{name: value}))) == set(stages), name
    for name, value in {"name": "x", "n0": 9, "licence": "x", "encoder_from": ("y",)}.items():
        assert not changed(replace(base, recipe=replace(base.recipe, **{name: value}))), name
    assert changed(replace(base, weights={"encoder": ["b"]})) == set(stages)
    averaged = replace(base.recipe, weights={"encoder": "ema"})
    assert changed(replace(base, recipe=averaged)) == set(stages)
    assert changed(replace(base, unet=None)) == set(stages)


def test_a_finished_stage_keeps_the_average_alone(folder, monkeypatch):
    """Moments and gradients' weights are three quarters of a checkpoint."""
    assert main(command(folder, "run", "--purifier", "unet-tiny", "--mapper-steps", "1")) == 0
    state = torch.load(folder / "run" / "purifier.checkpoint.pt", weights_only=True)
    assert state.keys() == {"run", "parts", "step", "seconds", "average"}
    weights = load_file(folder / "run" / "purifier.safetensors")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in state["average"].items())


def test_the_interval_of_checkpoints_is_an_option(folder, monkeypatch):
    seen = []
    monkeypatch.setattr("train.psm_command.train_psm", lambda *args: seen.append(args[3].checkpoint_seconds))
    assert main(command(folder, "run")) == 0
    assert main(command(folder, "run", "--checkpoint-minutes", "0.5")) == 0
    assert seen == [600.0, 30.0]


def test_one_purifier_is_alive_behind_the_first_stage(folder, monkeypatch):
    """Not the one that was trained, with its gradients, beside its average."""

    def alive():
        gc.collect()
        return sum(type(thing) is UNet for thing in gc.get_objects())

    before, during = alive(), []

    def counting(stage, place):
        if stage.name == "mapper":
            during.append(alive() - before)
        return run_stage(stage, place)

    monkeypatch.setattr("train.psm.run_stage", counting)
    assert main(command(folder, "run", "--purifier", "unet-tiny", "--mapper-steps", "1")) == 0
    assert during == [1]


@pytest.mark.parametrize("rows", [1, 3])
def test_frozen_networks_see_a_few_images_at_once(folder, rows, monkeypatch):
    """However many, the loss stays; only rounding differs."""
    config = PsmConfig(mapper=Schedule(steps=1, batch=3, rate=1e-3), noises=2)
    common = setting(folder, config)
    torch.manual_seed(0)
    unet = UNet(UNET_TINY)
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    purifier = OneStepPurifier(unet.requires_grad_(False), 0.25)
    stage = PsmMapper(common, purifier, SmoothnessMapper(64, 1))
    seen = []
    unet.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    wanted = stage.loss(0)[0]
    assert seen == [6]
    monkeypatch.setattr("train.psm._ROWS", rows)
    torch.testing.assert_close(stage.loss(0)[0], wanted, rtol=1e-5, atol=0)
    assert max(seen[1:]) == rows


@pytest.mark.parametrize("name", ["unet-tiny", "drunet-light"])
def test_a_mapper_behind_a_purifier_that_stays(folder, name):
    """No first stage, and nothing written for it; the weights are part of what the mapper depends on."""
    torch.manual_seed(0)
    path = folder / "weights.safetensors"
    save_weights(path, new_denoiser(PURIFIERS[name]).state_dict(), "digest", 0.25)
    chosen = ("--purifier", f"{name}={path}", "--purifier-steps", "0")
    assert main(command(folder, "run", *chosen)) == 0
    names = {path.name for path in (folder / "run").iterdir()}
    assert names == {"mapper.safetensors", "mapper.checkpoint.pt", "log.jsonl"}
    assert main(command(folder, "run", *chosen, "--resume")) == 0
    save_weights(path, new_denoiser(PURIFIERS[name]).state_dict(), "digest", 0.25)
    assert main(command(folder, "run", *chosen, "--resume")) == 2


def test_a_drunet_is_fine_tuned_from_its_file(folder):
    torch.manual_seed(0)
    network = DRUNet(DRUNET)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    save_weights(folder / "begin.safetensors", network.state_dict(), "digest", 0.25)
    begin = ("--purifier", f"drunet-light={folder / 'begin.safetensors'}", "--mapper-steps", "1")
    assert main(command(folder, "run", *begin)) == 0
    before, after = (load_file(folder / path) for path in ("begin.safetensors", "run/purifier.safetensors"))
    changes = [(after[name] - tensor).abs().max().item() for name, tensor in before.items()]
    # Three steps of warm-up change every tensor, and none of them much.
    assert 0 < min(changes) <= max(changes) < 1e-3


def test_a_full_disk_is_one_line(folder, capsys, monkeypatch):
    """Torch says it as RuntimeError."""

    def full(state, path):
        path.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598\nmore")

    with monkeypatch.context() as patch:
        patch.setattr("torch.save", full)
        assert main(command(folder, "run", "--mapper-steps", "1")) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"python -m train psm: cannot write {folder / 'run' / 'mapper.checkpoint.pt'}: ")
    assert error.endswith("is the disk full?")
    assert {path.name for path in (folder / "run").iterdir()} == {"log.jsonl"}
