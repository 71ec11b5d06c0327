"""The low-rank mapper, against its formula, and from its checkpoints."""

import pytest
import torch
from safetensors.torch import save_file

from fsfast.errors import CheckpointError
from fsfast.models import LowRankMapper, inspect_checkpoint, load_encoder, load_mapper


def mapper(dim=12, rank=3):
    torch.manual_seed(0)
    module = LowRankMapper(dim, rank).requires_grad_(False)
    torch.nn.init.normal_(module.up)
    return module


def test_it_adds_a_product_of_two_matrices():
    module = mapper()
    z = torch.randn((2, 5, 12), generator=torch.Generator().manual_seed(1))
    product = module.down.double() @ module.up.double()
    assert torch.linalg.matrix_rank(product) == 3
    torch.testing.assert_close(module(z).double(), z.double() + z.double() @ product, rtol=1e-5, atol=1e-5)


def test_directions_do_not_depend_on_lengths_and_zeros_stay():
    module = mapper()
    z = torch.randn((1, 1, 12), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(module(7 * z), 7 * module(z))
    assert not module(torch.zeros(1, 2, 12)).any()


@pytest.mark.parametrize("rank", [0, -1, 13])
def test_another_rank_is_refused(rank):
    with pytest.raises(ValueError, match=rf"wanted a rank in 1…12, the channels of a feature, got {rank}"):
        LowRankMapper(12, rank)


@pytest.mark.parametrize("shape", [(2, 12), (2, 3, 11), (1, 2, 3, 12)])
def test_other_features_are_refused(shape):
    with pytest.raises(ValueError, match=r"wanted z as \[B, L, 12\]"):
        mapper()(torch.zeros(shape))


def test_channels_and_rank_are_read_off_its_weights(tmp_path):
    path = tmp_path / "mapper.safetensors"
    save_file(mapper().state_dict(), path)
    loaded = load_mapper(path).module
    assert isinstance(loaded, LowRankMapper)
    assert (loaded.dim, loaded.rank) == (12, 3)
    assert torch.equal(loaded.up, mapper().up)
    found = inspect_checkpoint(path)
    assert (found.kind, found.problem) == ("low-rank mapper", None)
    assert {name: said.value for name, said in found.fields.items()} == {"dim": 12, "rank": 3}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda w: w.pop("down"), r"wanted down as \[D, rank\]"),
        (lambda w: w.pop("up"), "1 missing: up"),
        (lambda w: w.update(extra=torch.zeros(1)), "1 unexpected: extra"),
        (lambda w: w.update({"up": torch.zeros(4, 12)}), "1 of another shape: up"),
        (lambda w: w.update({"down": torch.zeros(3, 12)}), r"a rank in 1…D, got \[3, 12\]"),
        (lambda w: w["up"].fill_(torch.nan), "finite"),
    ],
)
def test_a_damaged_one_is_refused(change, complaint, tmp_path):
    weights = {name: tensor.clone() for name, tensor in mapper().state_dict().items()}
    change(weights)
    save_file(weights, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=complaint):
        load_mapper(tmp_path / "a.safetensors")


def test_it_is_no_encoder(tmp_path):
    save_file(mapper().state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(
        CheckpointError, match="wanted an image tower, got a low-rank mapper; use load_mapper"
    ):
        load_encoder(tmp_path / "a.safetensors")
