"""TorchFunction is the pipeline's function: the same features for the same noise, for every choice of stages."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fsfast
from fsfast.engine.engine import load_engine
from fsfast.errors import EngineError
from fsfast.images.grid import to_grid
from fsfast.kernels import noisy_batch
from fsfast.models.folded import load_folded
from fsfast.models.torch_function import TorchFunction
from fsfast.runtime.sampling import micro_batches
from tests.forging import replace_file, rewrite

SEED, SAMPLES = 99, 3
CHOICES = [None, ("encoder",), ("encoder", "mapper"), ("purifier", "encoder")]


def noisy_levels(encoder, item):
    """The noise of the serving stream on the grid, [n, 3, H, W] float32 of whole numbers."""
    pipeline = encoder._function.pipeline
    (rows,) = micro_batches([SEED], SAMPLES, SAMPLES)
    x = noisy_batch(item.pixels[None], rows, 0, pipeline.noise).astype(np.float64)
    values = pipeline.noise.values.astype(np.float64)
    reach = pipeline.noise.reach
    levels = np.stack([np.searchsorted(values[c], x[:, c]) - reach for c in range(3)], axis=1)
    assert np.abs(values[0, levels[:, 0] + reach] - x[:, 0]).max() == 0
    return torch.from_numpy(levels.astype(np.float32))


@pytest.mark.parametrize("stages", CHOICES, ids=lambda s: "all" if s is None else "+".join(s))
def test_equals_the_pipeline(stages, photograph):
    with fsfast.SmoothedEncoder("demo", stages=stages) as encoder:
        (item,), _ = to_grid(str(photograph), encoder.manifest.grid)
        function = TorchFunction(load_engine("demo"), stages)
        with torch.inference_mode():
            unit = function(noisy_levels(encoder, item))
        served = encoder.encode(photograph, SAMPLES, seeds=[SEED]).unit[0]
    assert torch.linalg.vector_norm(unit, dim=(1, 2)) == pytest.approx(np.ones(SAMPLES), abs=1e-5)
    mean = unit.mean(0)
    np.testing.assert_allclose(served, mean / mean.norm(dim=-1, keepdim=True), atol=2e-5)


def test_a_grid_that_is_not_the_encoders_input(resized_path, picture):
    """40×56 → 64×64: the matrices are the kernel's resize."""
    with fsfast.SmoothedEncoder(resized_path) as encoder:
        (item,), _ = to_grid(picture, encoder.manifest.grid)
        with torch.inference_mode():
            mean = TorchFunction(load_engine(resized_path))(noisy_levels(encoder, item)).mean(0)
        served = encoder.encode(picture, SAMPLES, seeds=[SEED]).unit[0]
    np.testing.assert_allclose(served, mean / mean.norm(dim=-1, keepdim=True), atol=5e-5)


def test_gradients_reach_the_pixels():
    levels = torch.full((1, 3, 64, 64), 127.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(TorchFunction(load_engine("demo"))(levels).sum(), levels)
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).float().mean() > 0.9


def test_folded_networks_need_no_gradients_of_their_own(demo_path):
    assert not any(
        p.requires_grad for m in load_folded(load_engine(demo_path)).values() for p in m.parameters()
    )


def test_more_blocks_than_weights_are_not_built(engine):
    """A number in a manifest would cost a minute for every hundred thousand."""
    rewrite(engine, lambda record: record["architecture"]["encoder"]["config"].update(layers=10**9))
    with pytest.raises(
        EngineError, match=r"the encoder cannot be built .* 1000000000 blocks, its weights are"
    ):
        load_folded(load_engine(engine))


def test_weights_that_are_no_safetensors(engine):
    replace_file(engine, "weights.float32.safetensors", b"junk")
    with pytest.raises(EngineError, match="its weights are not a safetensors file"):
        load_folded(load_engine(engine))
