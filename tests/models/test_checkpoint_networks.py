"""U-Nets and mappers from their checkpoints."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fsfast.errors import CheckpointError
from fsfast.models import (
    ADM256,
    DRUNET_LIGHT,
    UNET_LIGHT,
    UNET_TINY,
    DRUNet,
    DRUNetConfig,
    SmoothnessMapper,
    UNet,
    UNetConfig,
    load_encoder,
    load_mapper,
    load_purifier,
)
from tests.models.published import NARROW as TOWER
from tests.models.published import tower
from train.checkpoint import save_weights

ADM_KEYS = Path(__file__).parents[1] / "data" / "adm256_uncond_keys.csv"
# adm256 in small; none of the known networks.
NARROW = UNetConfig(
    base=32,
    multipliers=(1, 2),
    res_blocks=1,
    attention_levels=(1,),
    middle_attention=True,
    residual_resampling=True,
    head_channels=16,
    out_channels=6,
    groups=8,
)


def published_adm(dtype=torch.float32):
    """The published checkpoint's names and shapes; every tensor repeats one number of its own, so the file is small."""
    with ADM_KEYS.open() as file:
        rows = [(row["key"], [int(size) for size in row["shape"].split("x")]) for row in csv.DictReader(file)]
    return {
        key: torch.full((1,), 1e-4 * (i + 1), dtype=dtype).expand(shape)
        for i, (key, shape) in enumerate(rows)
    }


def assert_holds(loaded, want):
    got = loaded.module.state_dict()
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        assert got[name].dtype == torch.float32
        assert torch.equal(got[name], tensor.float()), name
    assert not loaded.module.training
    assert not any(parameter.requires_grad for parameter in loaded.module.parameters())


# It takes 2.2 GB of memory.
@pytest.mark.slow
def test_the_published_adm256_loads_whole(tmp_path):
    tensors = published_adm()
    torch.save(tensors, tmp_path / "256x256_diffusion_uncond.pt")
    loaded = load_purifier(tmp_path / "256x256_diffusion_uncond.pt")
    assert loaded.module.config == ADM256
    assert (loaded.layout, loaded.notes) == ("guided-diffusion", ("groups=32 and head_channels=64: adm256",))
    got = loaded.module.state_dict()
    assert len(got) == 566
    for name, tensor in tensors.items():
        # Both ends; in between every value is the same.
        ends = torch.stack([got[name].flatten()[0], got[name].flatten()[-1]])
        assert torch.equal(ends, tensor.flatten()[:1].expand(2)), name
        assert got[name].shape == tensor.shape


def test_adm256_is_recognised_by_names_and_shapes(tmp_path):
    tensors = published_adm()
    del tensors["middle_block.1.qkv.bias"]
    torch.save(tensors, tmp_path / "a.pt")
    # All other 565 fit.
    with pytest.raises(
        CheckpointError,
        match=r"wanted 566 tensors, the U-Net of adm256; 1 missing: middle_block.1.qkv.bias\. ",
    ):
        load_purifier(tmp_path / "a.pt")


def test_the_class_conditional_network_is_refused_with_the_remedy(tmp_path):
    torch.save(
        published_adm() | {"label_emb.weight": torch.zeros(1000, 1024)}, tmp_path / "256x256_diffusion.pt"
    )
    with pytest.raises(
        CheckpointError, match=r"1 unexpected: label_emb.weight. Remedy: .*256x256_diffusion_uncond.pt"
    ):
        load_purifier(tmp_path / "256x256_diffusion.pt")


def test_a_network_without_variances_is_refused_with_the_reason(tmp_path):
    three = {"out.2.weight": torch.zeros(3, 256, 3, 3), "out.2.bias": torch.zeros(3)}
    torch.save(published_adm() | three, tmp_path / "a.pt")
    with pytest.raises(
        CheckpointError, match=r"2 of another shape.* Remedy: .*without variances .*3 outputs"
    ):
        load_purifier(tmp_path / "a.pt")


def test_a_network_in_diffusers_names_is_refused_with_the_remedy(tmp_path):
    names = ("conv_in.weight", "down_blocks.0.resnets.0.conv1.weight")
    torch.save({name: torch.zeros(2) for name in names}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"got one in diffusers'; take .*256x256_diffusion_uncond.pt"):
        load_purifier(tmp_path / "a.pt")


def test_our_small_network_is_recognised(randomised, tmp_path):
    unet = randomised(UNet(UNET_TINY))
    save_weights(tmp_path / "purifier.safetensors", unet.state_dict(), "digest of the run", 0.25)
    loaded = load_purifier(tmp_path / "purifier.safetensors")
    assert loaded.module.config == UNET_TINY
    assert_holds(loaded, unet.state_dict())
    assert [file.name for file in loaded.files] == ["purifier.safetensors"]


def test_our_light_network_is_recognised(tmp_path):
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in UNet(UNET_LIGHT).state_dict().items()}
    weights = {
        name: torch.full((1,), 0.01 * i).expand(shape) for i, (name, shape) in enumerate(shapes.items())
    }
    torch.save(weights, tmp_path / "purifier.pt")
    loaded = load_purifier(tmp_path / "purifier.pt")
    assert loaded.module.config == UNET_LIGHT
    assert_holds(loaded, weights)


@pytest.mark.parametrize("prefix", ["", "module.", "unet.", "module.unet."])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_another_network_wants_its_configuration(prefix, dtype, randomised, tmp_path):
    unet = randomised(UNet(NARROW))
    weights = {name: tensor.to(dtype) for name, tensor in unet.state_dict().items()}
    torch.save({"state_dict": {prefix + name: tensor for name, tensor in weights.items()}}, tmp_path / "a.pt")
    loaded = load_purifier(tmp_path / "a.pt", NARROW)
    assert loaded.module.config == NARROW
    assert_holds(loaded, weights)
    if dtype == torch.float32:
        x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        assert torch.equal(loaded.module(x, 145), unet(x, 145))
    with pytest.raises(CheckpointError, match=r"or give the config that the weights have"):
        load_purifier(tmp_path / "a.pt")
    with pytest.raises(
        CheckpointError, match=r"of another shape: .*out.2.weight \(wanted 3×32×3×3, got 6×32×3×3\)"
    ):
        load_purifier(tmp_path / "a.pt", replace(NARROW, out_channels=3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_drunet_is_recognised(dtype, randomised, tmp_path):
    drunet = randomised(DRUNet(DRUNET_LIGHT)).to(dtype)
    save_weights(tmp_path / "purifier.safetensors", drunet.state_dict(), "digest of the run", 0.25)
    loaded = load_purifier(tmp_path / "purifier.safetensors")
    assert isinstance(loaded.module, DRUNet)
    assert (loaded.module.config, loaded.layout) == (DRUNET_LIGHT, "fsfast")
    assert loaded.notes == (("cast to float32 from float16",) if dtype == torch.float16 else ())
    assert_holds(loaded, drunet.state_dict())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda w: w.pop("stem.bias"), r"the DRUNet of drunet-light; 1 missing: stem.bias\. "),
        (lambda w: w.update(extra=torch.zeros(1)), "1 unexpected: extra"),
        (lambda w: w.update({"out.bias": torch.zeros(3)}), r"out.bias \(wanted 12, got 3\)"),
        (lambda w: w.update(DRUNet(DRUNetConfig((4, 8), (1, 1))).state_dict()), "or give the config that"),
    ],
    ids=["missing", "unexpected", "shape", "another network"],
)
def test_a_damaged_drunet_is_refused(change, complaint, tmp_path):
    weights = DRUNet(DRUNET_LIGHT).state_dict()
    change(weights)
    torch.save(weights, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=complaint):
        load_purifier(tmp_path / "a.pt")


def test_a_drunet_is_no_unet(tmp_path):
    save_file(DRUNet(DRUNET_LIGHT).state_dict(), tmp_path / "drunet.safetensors")
    save_file(UNet(UNET_TINY).state_dict(), tmp_path / "unet.safetensors")
    with pytest.raises(CheckpointError, match=r"wanted a U-Net, got a DRUNet; .* or a DRUNet's preset"):
        load_purifier(tmp_path / "drunet.safetensors", UNET_TINY)
    with pytest.raises(CheckpointError, match="wanted a DRUNet, got a U-Net"):
        load_purifier(tmp_path / "unet.safetensors", DRUNET_LIGHT)
    with pytest.raises(CheckpointError, match="wanted an image tower, got a DRUNet; use load_purifier"):
        load_encoder(tmp_path / "drunet.safetensors")


def test_a_folded_network_is_refused(randomised, tmp_path):
    save_file(randomised(UNet(UNET_TINY)).at_sigma(0.25).state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"unet-tiny; .* folded at one sigma"):
        load_purifier(tmp_path / "a.safetensors")


@pytest.mark.parametrize(("dim", "blocks", "prefix"), [(64, 3, ""), (128, 1, "module.")])
def test_a_mapper_is_read_with_its_sizes(dim, blocks, prefix, randomised, tmp_path):
    mapper = randomised(SmoothnessMapper(dim, blocks))
    weights = {prefix + name: tensor for name, tensor in mapper.state_dict().items()}
    save_weights(tmp_path / "mapper.safetensors", weights, "digest of the run", 0.25)
    loaded = load_mapper(tmp_path / "mapper.safetensors")
    assert (loaded.module.dim, len(loaded.module.blocks), loaded.layout) == (dim, blocks, "fsfast")
    assert_holds(loaded, mapper.state_dict())
    z = torch.randn(2, 5, dim, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.module(z, 0.25), mapper(z, 0.25))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda w: w.pop("blocks.1.film.2.weight"), "1 missing: blocks.1.film.2.weight"),
        (lambda w: w.update(extra=torch.zeros(1)), "1 unexpected: extra"),
        (
            lambda w: w.update({"blocks.2.scale": torch.zeros(128)}),
            r"1 of another shape: blocks.2.scale \(wanted 64, got 128\)",
        ),
        (lambda w: w.update({"blocks.0.scale": torch.zeros(65)}), r"D a multiple of 64, got \[65\]"),
        (lambda w: w.pop("blocks.0.scale"), r"blocks.0.scale as \[D\]"),
        # A million blocks would be made otherwise.
        (lambda w: w.update({"blocks.1000000.scale": torch.zeros(64)}), "1 unexpected: blocks.1000000.scale"),
    ],
)
def test_a_damaged_mapper_is_refused(change, complaint, tmp_path):
    weights = SmoothnessMapper(64).state_dict()
    change(weights)
    save_file(weights, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=complaint):
        load_mapper(tmp_path / "a.safetensors")


def test_a_folded_mapper_is_refused(tmp_path):
    save_file(SmoothnessMapper(64).at_sigma(0.25).state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="folded at one sigma"):
        load_mapper(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("load", "complaint"),
    [
        (load_encoder, "wanted an image tower, got a U-Net; use load_purifier"),
        (load_mapper, r"wanted a smoothness mapper .* got input_blocks"),
    ],
)
def test_each_network_is_refused_as_another(load, complaint, tmp_path):
    save_file(UNet(UNET_TINY).state_dict(), tmp_path / "unet.safetensors")
    with pytest.raises(CheckpointError, match=complaint):
        load(tmp_path / "unet.safetensors")
    save_file(SmoothnessMapper(64).state_dict(), tmp_path / "mapper.safetensors")
    with pytest.raises(CheckpointError, match="a smoothness mapper; use load_mapper"):
        load_encoder(tmp_path / "mapper.safetensors")
    with pytest.raises(CheckpointError, match="wanted a U-Net in guided-diffusion's names"):
        load_purifier(tmp_path / "mapper.safetensors")


def test_names_and_shapes_alone(tmp_path):
    """Without values nothing is read: the module has no memory, and what does not fit is refused all the same."""
    torch.manual_seed(0)
    unet, mapper = UNet(UNET_TINY).state_dict(), SmoothnessMapper(64, 2).state_dict()
    encoder = tower()
    # Values that a reading would refuse.
    for weights in (unet, mapper, encoder):
        weights[next(iter(weights))].fill_(float("nan"))
    for name, weights in (("unet", unet), ("mapper", mapper), ("encoder", encoder)):
        save_file({key: value.contiguous() for key, value in weights.items()}, tmp_path / name)
    loads = {
        "unet": load_purifier,
        "mapper": load_mapper,
        "encoder": lambda p, **how: load_encoder(p, TOWER, **how),
    }
    for name, load in loads.items():
        loaded = load(tmp_path / name, values=False)
        assert all(p.is_meta for p in loaded.module.parameters()), name
        assert loaded.files == ()
        with pytest.raises(CheckpointError, match="NaN or infinite"):
            load(tmp_path / name)
        with pytest.raises(CheckpointError):
            load(tmp_path / ("mapper" if name == "unet" else "unet"), values=False)
