"""`fsfast inspect`: every published layout is named, and what is printed makes an engine."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import zipfile
from dataclasses import asdict, replace

import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from export.__main__ import main as export
from export.networks import ENCODERS, encoder_config
from export.options import OUTPUTS
from export.recipe import load_recipe
from fsfast.engine.engine import load_engine
from fsfast.models import DRUNET_LIGHT, UNET_TINY, DRUNet, SmoothnessMapper, UNet
from fsfast.models.checkpoints import files
from fsfast.models.checkpoints.families import FAMILIES as KNOWN
from fsfast.models.checkpoints.names import LAYOUTS as NAMES
from fsfast.models.folded import load_folded
from tests.engine.onnx_graphs import model as onnx_model
from tests.models import families, perception, published, qwen
from tests.models.families import FAMILIES
from tests.models.published import LAYOUTS, NARROW, as_transformers, prefixed


@pytest.fixture
def inspect(fs):
    """Run the command; return its findings, and whether an engine can be made."""

    def call(*words):
        code, out, err = fs("inspect", *words, "--json")
        assert not err
        assert code in (0, 1)
        return json.loads(out), code == 0

    return call


@pytest.fixture(autouse=True)
def values_are_not_read(monkeypatch):
    """Names, shapes and types must do."""

    def read(self, name):
        raise AssertionError(f"{name} was read")

    for kind in (files._Safetensors, files._StateDict):
        monkeypatch.setattr(kind, "read", read)


def written(folder, name):
    """A small member of a family as its publisher writes it."""
    family = FAMILIES[name]
    folder.mkdir(exist_ok=True)
    save_file(families.weights(family), folder / "model.safetensors")
    published.write_json(folder / "config.json", families.settings(family))
    return folder


def zeros(shapes, path):
    """A file of a full size that takes no room: every tensor repeats one number."""
    torch.save({name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}, path)
    return path


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_of_a_clip_is_named(name, inspect, tmp_path):
    tensors, layout, projection = LAYOUTS[name]
    save_file(tensors, tmp_path / "a.safetensors")
    said, makes = inspect(tmp_path / "a.safetensors", "--heads", 4, "--activation", "quick_gelu")
    assert makes
    assert (said["kind"], said["family"], said["layout"]) == ("image tower", "CLIP", layout)
    conv = "conv1.weight" if layout == "open_clip" else "embeddings.patch_embedding.weight"
    assert f"{said['prefix']}{conv}" in tensors
    assert ("pooled" in said["outputs"]) == projection
    assert set(said["outputs"]) <= set(OUTPUTS)
    assert said["differences"] == {"missing": [], "unexpected": [], "misshapen": []}
    assert said["fields"]["heads"] == {"value": 4, "by": "the caller"}
    own = {key for key in tensors if key.startswith(said["prefix"]) and not key.endswith("position_ids")}
    if said["prefix"]:
        assert said["tensors"] == len(own) + (projection and layout == "transformers")


def test_of_a_sharded_model_only_the_towers_shards_are_opened(inspect, tmp_path):
    """A LLaVA of which no more was downloaded."""
    tensors = as_transformers(published.tower(), "vision_tower.vision_model.") | published.llava_rest()
    shards = published.write_shards(tmp_path, tensors, shards=6)
    shards[-1].unlink()
    published.write_json(tmp_path / "config.json", published.llava_config())
    for path in (tmp_path, tmp_path / "model.safetensors.index.json"):
        said, makes = inspect(path)
        assert makes, said["problem"]
        assert (said["family"], said["model"], said["tensors"]) == ("CLIP", "llava", 55)
        assert said["fields"]["activation"] == {"value": "quick_gelu", "by": "config.json"}
    shards[0].unlink()
    said, makes = inspect(tmp_path)
    assert not makes
    assert f"the shard {shards[0].name} is missing" in said["problem"]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_named_with_its_configuration(name, inspect, tmp_path):
    config = FAMILIES[name].config
    alone = name in families.ALONE
    path = written(tmp_path / "weights", name) / ("model.safetensors" if alone else "")
    said, makes = inspect(path, *(["--heads", "2"] if alone else []))
    assert makes, said["problem"]
    assert said["family"] == name.split()[0]
    if alone:
        # The file alone does not say that two pixels are left over.
        config = replace(config, image_size=12)
    own = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()}
    fields = {key: each["value"] for key, each in said["fields"].items()}
    assert fields == {key: own[key] for key in fields}
    assert {"width", "layers", "heads", "patch", "image_size", "activation", "norm_eps"} <= fields.keys()
    assert said["fields"]["heads"]["by"] == ("the caller" if alone else "config.json")
    assert said["tensors"] == len(families.shapes(FAMILIES[name])) - ("unused" in FAMILIES[name].names)


def test_every_layout_has_a_family():
    names = {name for each in NAMES for name in (each.family, each.classless, each.ungated)}
    assert names - {None} == KNOWN.keys()


def recipes_of(found):
    said, makes = found
    assert makes, said["problem"]
    assert said["command"].split()[:3] == ["fsfast", "export", said["recipes"][0]]
    return said["recipes"]


@pytest.mark.parametrize("recipe", families.FULL_SIZE)
def test_a_published_tower_has_its_recipe(recipe, inspect, tmp_path):
    kind, tensors, millions = families.FULL_SIZE[recipe]
    config = encoder_config(load_recipe(recipe))
    stored = replace(config, image_size=518) if recipe.startswith("dinov2") else config
    path = zeros(families.shapes(FAMILIES[kind], stored), tmp_path / "a.pt")
    found = inspect(path)
    assert recipes_of(found) == [recipe]
    said, _ = found
    assert said["tensors"] == tensors - ("unused" in FAMILIES[kind].names)
    assert said["parameters"] / 1e6 == pytest.approx(millions, abs=0.06)
    # Every SigLIP has its authors' GELU there, and neither file nor weights say so.
    assert said["recipe_says"] == ({"activation": "gelu_tanh"} if kind == "SigLIP" else {})
    assert said["resized"] == ([518, 224] if stored != config else None)


def test_a_published_perception_encoder_has_its_recipe(inspect, tmp_path):
    config = encoder_config(load_recipe("pe-core-l14-336"))
    found = inspect(zeros(perception.shapes(config), tmp_path / "PE-Core-L14-336.pt"))
    assert recipes_of(found) == ["pe-core-l14-336"]
    assert (found[0]["family"], found[0]["recipe_says"]) == ("Perception Encoder", {})


@pytest.mark.parametrize("name", ["Qwen2.5-VL", "Qwen3-VL"])
def test_a_published_tower_of_qwen_has_its_recipe(name, inspect, tmp_path):
    recipe = {"Qwen2.5-VL": "qwen2.5-vl-448", "Qwen3-VL": "qwen3-vl-448"}[name]
    tower = replace(qwen.TOWERS[name], config=encoder_config(load_recipe(recipe)))
    shapes = prefixed("model.visual.", qwen.shapes(tower, stored_side=48))
    found = inspect(zeros(shapes, tmp_path / "a.pt"))
    assert recipes_of(found) == [recipe]
    assert (found[0]["family"], found[0]["recipe_says"]) == (name, {})
    assert found[0]["fields"]["image_size"]["by"].startswith("usual; it may be any multiple of ")


@pytest.mark.parametrize("name", qwen.TOWERS)
def test_a_small_tower_of_qwen_is_named_by_its_settings(name, inspect, tmp_path):
    tower = qwen.TOWERS[name]
    save_file(prefixed("visual.", qwen.weights(tower)), tmp_path / "model.safetensors")
    published.write_json(tmp_path / "config.json", {"vision_config": tower.settings})
    said, makes = inspect(tmp_path)
    assert makes, said["problem"]
    assert said["family"] == name
    side = qwen.STORED_SIDE if name == "Qwen3-VL" else 32
    own = asdict(replace(tower.config, image_size=4 * side))
    fields = {key: each["value"] for key, each in said["fields"].items()}
    assert fields == {key: list(own[key]) if isinstance(own[key], tuple) else own[key] for key in fields}
    assert said["outputs"]["merged"] == [side**2 // 4 * (1 + len(tower.config.taps)), 24]


@pytest.mark.parametrize(
    ("preset", "rename", "recipes"),
    [
        ("vit-b32", lambda w: w, ["clip-b32"]),
        ("vit-b16", lambda w: prefixed("visual.", w) | published.openai_extras(), ["clip-b16"]),
        ("vit-l14", lambda w: w, ["clip-l14", "fare", "openflamingo", "tecoa"]),
        # Without a projection: the first needs no other output.
        ("vit-l14", as_transformers, ["openflamingo", "clip-l14", "fare", "tecoa"]),
        ("vit-l14-336", as_transformers, ["llava-1.5"]),
    ],
    ids=["B/32", "B/16 of OpenAI", "FARE", "CLIPVisionModel", "LLaVA"],
)
def test_a_clip_has_its_recipes(preset, rename, recipes, inspect, tmp_path):
    torch.save(rename(published.hollow(ENCODERS[preset])), tmp_path / "a.pt")
    found = inspect(tmp_path / "a.pt")
    assert recipes_of(found) == recipes
    by_openai = preset == "vit-b16"
    assert found[0]["recipe_says"] == ({} if by_openai else {"activation": "quick_gelu"})
    assert found[0]["unknown"].keys() == found[0]["recipe_says"].keys()


def test_weights_of_laion_have_a_recipe_of_their_own(inspect, fs, tmp_path):
    """No recipe has their activation; what is printed writes one."""
    torch.save(published.hollow(ENCODERS["vit-b32"]), tmp_path / "laion.pt")
    said, makes = inspect(tmp_path / "laion.pt", "--activation", "gelu")
    assert makes
    assert (said["recipes"], said["recipe_file"]) == ([], "laion.toml")
    _, text, _ = fs("inspect", tmp_path / "laion.pt", "--activation", "gelu")
    block = text[text.index("cat > ") :]
    assert block.endswith(f"END\n{said['command']}\n")
    subprocess.run(["sh", "-c", block.removesuffix(f"{said['command']}\n")], cwd=tmp_path, check=True)
    assert (tmp_path / "laion.toml").read_text() == said["recipe"]


@pytest.mark.parametrize("name", ["CLIP", "InternViT"])
def test_what_is_printed_makes_an_engine(name, inspect, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name == "CLIP":
        config, words = NARROW, ["clip.pt", "--heads", 4, "--activation", "quick_gelu"]
        torch.save(prefixed("visual.", published.tower()) | published.open_clip_text(), "clip.pt")
    else:
        config, words = FAMILIES[name].config, [written(tmp_path / "intern vit", name).name]
    said, _ = inspect(*words)
    (tmp_path / said["recipe_file"]).write_text(said["recipe"])
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    command = shlex.split(said["command"])
    assert export(command[2:]) == 0
    engine = load_engine(command[command.index("--out") + 1])
    assert load_folded(engine)["encoder"].config == config
    assert engine.manifest.output == ("tokens" if name == "InternViT" else "pooled")


def test_the_files_beside_the_weights_are_believed(inspect, tmp_path):
    path = written(tmp_path / "a", "DINOv3")
    usual, _ = inspect(path)
    assert usual["preparation"]["filter"]["by"].startswith("usual for DINOv3")
    record = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "resample": 3, "do_center_crop": True}
    published.write_json(path / "preprocessor_config.json", record)
    said, _ = inspect(path)
    wanted = {"mean": [0.5] * 3, "std": [0.25] * 3, "fit": "crop", "filter": "bicubic"}
    by = "preprocessor_config.json"
    assert said["preparation"] == {key: {"value": value, "by": by} for key, value in wanted.items()}
    assert 'fit = "crop"' in said["recipe"]
    assert "\n# mean, std, fit, filter: preprocessor_config.json\n" in said["recipe"]
    assert said["model"] == "dinov3_vit"
    published.write_json(path / "config.json", families.settings(FAMILIES["DINOv3"]) | {"hidden_size": 8})
    said, makes = inspect(path)
    assert not makes
    assert said["problem"].startswith("config.json: it says hidden_size=8, and the weights 32")


def test_a_colour_is_not_made_up(inspect, tmp_path):
    """open_clip pads with a colour that is not CLIP's grey."""
    torch.save(prefixed("visual.", published.tower()), tmp_path / "open_clip_pytorch_model.bin")
    record = published.open_clip_config() | {"preprocess_cfg": {"resize_mode": "longest"}}
    published.write_json(tmp_path / "open_clip_config.json", record)
    said, makes = inspect(tmp_path)
    assert not makes
    assert said["problem"].startswith("open_clip_config.json asks for pictures on a canvas")


def test_the_caller_may_not_contradict_the_files(inspect, tmp_path):
    said, makes = inspect(written(tmp_path / "a", "SigLIP"), "--heads", 4)
    assert not makes
    assert said["problem"] == "the caller says heads=4, and config.json says 2; leave it out"


def test_what_nobody_says_is_asked_for(inspect, tmp_path):
    torch.save(published.tower(), tmp_path / "a.pt")
    said, makes = inspect(tmp_path / "a.pt")
    assert not makes
    assert said["unknown"]["heads"].endswith("say --heads N")
    assert said["unknown"]["activation"].startswith("say --activation quick_gelu for OpenAI's")


def test_a_tower_that_lacks_something_says_what(inspect, tmp_path):
    tensors = published.tower() | {"adapter": torch.zeros(1), "proj": torch.zeros(24, 32)}
    del tensors["ln_post.bias"]
    torch.save(tensors, tmp_path / "a.pt")
    said, makes = inspect(tmp_path / "a.pt")
    assert not makes
    misshapen = ["proj (wanted 32×32, got 24×32)"]
    assert said["differences"] == {
        "missing": ["ln_post.bias"],
        "unexpected": ["adapter"],
        "misshapen": misshapen,
    }
    assert said["problem"].startswith(
        "wanted 44 tensors as a CLIP of 3 blocks has them; 1 missing: ln_post.bias; 1 un"
    )


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_quantised_weights_are_refused(dtype, inspect, tmp_path):
    tensors = {name: t.to(dtype) if t.ndim > 1 else t for name, t in published.tower().items()}
    save_file(tensors, tmp_path / "a.safetensors")
    torch.save(tensors, tmp_path / "a.pt")
    for name in ("a.safetensors", "a.pt"):
        said, makes = inspect(tmp_path / name, "--heads", 4, "--activation", "gelu")
        assert not makes
        assert "quantised weights cannot be used" in said["problem"]
        assert len(said["dtypes"]) == 2


@pytest.mark.parametrize("keys", [("model", "model_ema"), ("state_dict", "state_dict_ema")])
def test_raw_and_averaged_weights_are_both_named(keys, inspect, tmp_path):
    torch.save(dict.fromkeys(keys, published.tower()) | {"epoch": 3}, tmp_path / "a.pt")
    said, makes = inspect(tmp_path / "a.pt")
    assert not makes
    assert (said["family"], said["state_dicts"]) == ("CLIP", list(keys))
    assert 'weights="ema" (--weights ema)' in said["problem"]
    for weights, first in zip(("raw", "ema"), keys, strict=True):
        said, makes = inspect(tmp_path / "a.pt", "--heads", 4, "--activation", "gelu", "--weights", weights)
        assert makes
        assert said["state_dicts"][0] == first
        assert f"--encoder {tmp_path / 'a.pt'} --weights {weights} " in said["command"]
    torch.save({keys[1]: published.tower()}, tmp_path / "a.pt")
    said, makes = inspect(tmp_path / "a.pt", "--heads", 4, "--activation", "gelu")
    assert makes
    assert said["state_dicts"] == [keys[1]]


def test_purifiers_and_mappers_are_named(inspect, tmp_path):
    torch.save(UNet(UNET_TINY).state_dict(), tmp_path / "unet.pt")
    save_file(SmoothnessMapper(64, 2).state_dict(), tmp_path / "mapper.safetensors")
    said, makes = inspect(tmp_path / "unet.pt")
    assert makes
    assert said["what"] == "unet-tiny U-Net, in guided-diffusion's names"
    assert f"--purifier unet-tiny={tmp_path / 'unet.pt'}" in said["command"]
    said, makes = inspect(tmp_path / "mapper.safetensors")
    assert makes
    assert said["fields"] == {
        key: {"value": n, "by": "the weights"} for key, n in (("dim", 64), ("blocks", 2))
    }
    assert f"--mapper {tmp_path / 'mapper.safetensors'}" in said["command"]
    save_file(DRUNet(DRUNET_LIGHT).state_dict(), tmp_path / "drunet.safetensors")
    said, makes = inspect(tmp_path / "drunet.safetensors")
    assert makes
    assert said["what"] == "drunet-light DRUNet, in fsfast's names"
    assert f"--purifier drunet-light={tmp_path / 'drunet.safetensors'}" in said["command"]
    for name, stage in (("unet", "purifier"), ("mapper", "mapper")):
        network = UNet(UNET_TINY) if name == "unet" else SmoothnessMapper(64, 2)
        torch.save(dict.fromkeys(("model", "ema"), network.state_dict()), tmp_path / "both.pt")
        said, makes = inspect(tmp_path / "both.pt", "--weights", "ema")
        assert makes
        assert f"--weights {stage}=ema" in said["command"]
    torch.save({"time_embed.0.weight": torch.zeros(2, 2)}, tmp_path / "unet.pt")
    said, makes = inspect(tmp_path / "unet.pt")
    assert not makes
    assert said["problem"].startswith("wanted ")


def test_an_unknown_layout_has_a_nearest_family(inspect, tmp_path):
    tensors = {f"encoder.{name}": tensor for name, tensor in families.weights(FAMILIES["DINOv2"]).items()}
    renamed = {name.replace("attention.attention.", "attn."): tensor for name, tensor in tensors.items()}
    renamed = {name.replace("embeddings", "embed").replace("scale1", "s1"): t for name, t in renamed.items()}
    save_file(renamed, tmp_path / "a.safetensors")
    said, makes = inspect(tmp_path / "a.safetensors")
    assert not makes
    near = said["nearest"]
    assert (near["family"], near["layout"]) == ("DINOv2", "transformers")
    # Of two blocks each lacks queries, keys, values and a scale; of the rest what is embedded.
    assert (near["fits"], near["wanted"]) == (36 - 2 * 4 - 4, 36)
    assert "encoder.embeddings.cls_token" in near["differences"]["missing"]
    assert "encoder.embed.cls_token" in near["differences"]["unexpected"]


@pytest.mark.parametrize(
    ("names", "what", "problem"),
    [
        (
            ["layer1.0.conv1.weight"],
            "a ResNet",
            "wanted an image tower, got a ResNet; fsfast export torch takes its module",
        ),
        (["a"], "weights of an unknown layout", "got 1 tensors of something else (a, …)"),
    ],
)
def test_refusals_are_one_line(names, what, problem, fs, tmp_path):
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "a.safetensors")
    code, out, _ = fs("inspect", tmp_path / "a.safetensors")
    assert code == 1
    (line,) = (line for line in out.splitlines() if line.startswith("problem:"))
    assert problem in line
    assert out.splitlines()[0].split(maxsplit=1) == ["what:", what]
    assert "nearest" not in out


def test_a_vit_of_timm_is_named(inspect, tmp_path):
    family = FAMILIES["DINOv2 by its authors"]
    names = {name: t for name, t in families.weights(family).items() if ".ls" not in name}
    save_file(names, tmp_path / "a.safetensors")
    said, makes = inspect(tmp_path / "a.safetensors")
    assert not makes
    assert said["kind"] == "a ViT in timm's names that is no DINOv2 or SigLIP"
    assert "fsfast export torch" in said["problem"]


# Files and directories that are no checkpoints.


def test_an_engine_is_named(inspect, demo_path):
    said, makes = inspect(demo_path)
    assert makes
    assert said["command"] == f"fsfast info {demo_path}"


def test_the_folder_of_a_run_is_named(inspect, tmp_path):
    for name in ("encoder", "purifier"):
        save_file({"x": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    said, makes = inspect(tmp_path)
    assert makes
    assert f"--encoder {tmp_path} --purifier {tmp_path}" in said["command"]


def test_an_onnx_graph_is_named(inspect, tmp_path, demo_path):
    onnx.save(onnx_model(), tmp_path / "a.bin")
    for path in (tmp_path / "a.bin", demo_path / "encoder.float32.onnx"):
        said, makes = inspect(path)
        assert makes
        assert said["command"].startswith(f"fsfast export onnx {path} --mean R,G,B")


def test_other_files_are_named(inspect, tmp_path, demo_path):
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("script/constants.pkl", b"")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    (tmp_path / "pointer.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    Image.new("RGB", (2, 2)).save(tmp_path / "picture.png")
    (tmp_path / "certificate").write_text('{"format": "fsfast-certificate"}')
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "empty").mkdir()
    said = {
        "script.pt": "this is a TorchScript archive, a program and not weights alone",
        "module.pt": "which could run code and was not loaded",
        "pointer.safetensors": "run: git lfs pull",
        "picture.png": "wanted weights, got a PNG image; fsfast encode takes it",
        "certificate": "fsfast verify replays it",
        "notes.txt": "got text that begins with 'notes'",
        "empty": "found no weights",
    }
    for name, problem in said.items():
        found, makes = inspect(tmp_path / name)
        assert not makes
        assert problem in found["problem"]
        assert str(tmp_path) not in found["problem"]
    assert "inspect the directory" in inspect(demo_path / "engine.json")[0]["problem"]


def test_what_is_not_there_is_wrong_use(fs, tmp_path):
    code, _, err = fs("inspect", tmp_path / "missing")
    assert code == 2
    assert err == f"fsfast inspect: {tmp_path / 'missing'}: no such file or directory\n"


def test_without_torch_one_line_says_what_to_install(tmp_path, demo_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "a.safetensors")
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from fsfast.cli import main\n"
        f"assert main(['inspect', {str(demo_path)!r}]) == 0\n"
        f"sys.exit(main(['inspect', {str(tmp_path / 'a.safetensors')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "needs torch" in done.stderr
    assert "install" in done.stderr
