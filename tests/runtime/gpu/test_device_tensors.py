"""Images on the device in, features on the device out."""

import numpy as np
import pytest
import torch

from fsfast.errors import BackendUnavailable, ImageError
from fsfast.images.grid import to_grid
from fsfast.runtime.features import SmoothedFeatures
from fsfast.runtime.gpu.tensors import SmoothedTensors


@pytest.fixture
def grid_images(pictures, on_cpu):
    items, _ = to_grid(pictures, on_cpu.manifest.grid)
    return np.stack([item.pixels for item in items])


def test_features_are_those_of_encode(opened, place, grid_images):
    encoder = opened()
    out = encoder.encode_tensors(torch.from_numpy(grid_images).to(place), 5, seeds=[1, 2, 3])
    wanted = encoder.encode(grid_images, 5, seeds=[1, 2, 3])
    assert out.features.device.type == place.type
    np.testing.assert_array_equal(out.features.cpu().numpy(), wanted.features)
    np.testing.assert_array_equal(out.unit.cpu().numpy(), wanted.unit)
    copied = out.numpy()
    assert copied.grid_sha256 == wanted.grid_sha256
    assert copied.function_id == wanted.function_id
    first, again = (
        encoder.certify(grid_images[:1], 2, served=out[0], seeds=[4])[0] for out in (copied, wanted)
    )
    assert first.anchor == again.anchor


@pytest.mark.parametrize(
    "index", [1, -1, slice(0, 2), slice(None, None, -1), slice(3, 9), [2, 0], [True, False, True]], ids=str
)
def test_some_images_are_those_of_the_features(opened, place, grid_images, index):
    out = opened().encode_tensors(torch.from_numpy(grid_images).to(place), 1, seeds=[1, 2, 3], raw_mean=True)
    for wanted, found in (
        (out.numpy()[index], out[index].numpy()),
        (out.numpy()[2], next(reversed(out)).numpy()),
    ):
        for name in ("features", "unit", "raw_mean", "seeds"):
            np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
        assert found.grid_sha256 == wanted.grid_sha256
    assert out[torch.tensor([2, 0])].seeds == (3, 1)
    assert [one.seeds for one in out] == [(1,), (2,), (3,)]
    with pytest.raises(TypeError, match=r"\.numpy\(\) copies them"):
        np.asarray(out)


def test_writing_to_the_images_afterwards_changes_nothing(opened, place, grid_images):
    encoder = opened()
    images = torch.from_numpy(grid_images.copy()).to(place)
    out = encoder.encode_tensors(images, 2, seeds=[1, 2, 3])
    images.zero_()
    assert out.numpy().grid_sha256 == encoder.encode(grid_images, 1).grid_sha256


def test_pooled_features_have_no_tokens(opened, place, pooled_path):
    encoder = opened(pooled_path)
    grid = encoder.manifest.grid
    images = torch.zeros((2, *grid.size, 3), dtype=torch.uint8, device=place)
    out = encoder.encode_tensors(images, 3, seeds=[1, 2])
    assert out.features.shape == (2, encoder.manifest.dim)
    np.testing.assert_array_equal(
        out.numpy().features, encoder.encode(images.cpu(), 3, seeds=[1, 2]).features
    )


def test_seeds_are_fresh_or_come_from_the_secret(opened, place, grid_images):
    images = torch.from_numpy(grid_images).to(place)
    plain = opened()
    assert plain.encode_tensors(images, 1).seeds != plain.encode_tensors(images, 1).seeds
    secret = opened(secret=b"0123456789abcdef")
    out = secret.encode_tensors(images, 1)
    assert list(out.seeds) == secret.encode(grid_images, 1).seeds.tolist()
    assert out.seed_origins == ("secret",) * 3


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda x: x.float(), ImageError, "float32"),
        (lambda x: x[:, :50], ImageError, "on the grid"),
        (lambda x: x[0], ImageError, "on the grid"),
        (lambda x: x[:0], ImageError, "on the grid"),
        (lambda x: x.to("meta"), ImageError, "meta"),
        (lambda x: x.cpu().numpy(), TypeError, "torch tensor"),
    ],
    ids=["floats", "other size", "no batch", "empty", "other device", "array"],
)
def test_other_images_are_refused(opened, place, grid_images, change, error, says):
    with pytest.raises(error, match=says):
        opened().encode_tensors(change(torch.from_numpy(grid_images).to(place)))


def test_an_encoder_on_the_cpu_has_no_device(on_cpu, grid_images):
    with pytest.raises(BackendUnavailable, match="device='cuda'"):
        on_cpu.encode_tensors(torch.from_numpy(grid_images))


@pytest.mark.gpu
@pytest.mark.parametrize("place", [pytest.param("cuda", marks=pytest.mark.gpu)], indirect=True)
def test_work_of_other_streams_is_waited_for(opened, place, grid_images):
    """Images that a slow kernel of the caller's stream still writes."""
    encoder = opened()
    wanted = encoder.encode(grid_images, 2, seeds=[1, 2, 3]).features
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        images = torch.zeros(grid_images.shape, dtype=torch.uint8, device=place)
        torch.cuda._sleep(10**8)
        images.copy_(torch.from_numpy(grid_images).pin_memory(), non_blocking=True)
        features = encoder.encode_tensors(images, 2, seeds=[1, 2, 3]).features + 0
    stream.synchronize()
    np.testing.assert_array_equal(features.cpu().numpy(), wanted)


def test_encode_leaves_tensors_of_the_grid_on_the_device(opened, place, grid_images):
    """One image or a batch, with everything that `encode` can be asked for."""
    encoder = opened()
    images = torch.from_numpy(grid_images).to(place)
    wanted = encoder.encode(grid_images, 3, seeds=[1, 2, 3], raw_mean=True)
    for given, which in ((images, slice(None)), (images[1], slice(1, 2))):
        out = encoder.encode(given, 3, seeds=[1, 2, 3][which], raw_mean=True)
        assert isinstance(out, SmoothedTensors)
        assert len(out) == len(wanted.features[which])
        assert out.features.device.type == place.type
        np.testing.assert_array_equal(out.features.cpu().numpy(), wanted.features[which])
        np.testing.assert_array_equal(out.numpy().raw_mean, wanted.raw_mean[which])


@pytest.mark.parametrize(
    "change",
    [lambda x: x.float() / 255, lambda x: x[:, :50], lambda x: x.cpu().numpy(), lambda x: [x[0]]],
    ids=["floats", "other size", "array", "list"],
)
def test_encode_takes_everything_else_to_the_host(opened, place, grid_images, change):
    given = change(torch.from_numpy(grid_images[:1]).to(place))
    out = opened().encode(given, 2, seeds=[1])
    assert isinstance(out, SmoothedFeatures)
    assert out.features.shape[0] == 1


def test_an_encoder_on_the_cpu_gives_arrays(on_cpu, grid_images):
    assert isinstance(on_cpu.encode(torch.from_numpy(grid_images), 1), SmoothedFeatures)


def test_a_large_batch_is_the_same_in_groups(opened, place, pooled_path):
    encoder = opened(pooled_path)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (18, 64, 64, 3), dtype=np.uint8)).to(
        place
    )
    out = encoder.encode(images, 1, seeds=list(range(18)), raw_mean=True)
    last = encoder.encode(images[17], 1, seeds=[17], raw_mean=True)
    for name in ("features", "unit", "raw_mean"):
        assert torch.equal(getattr(out, name)[17:], getattr(last, name)), name
