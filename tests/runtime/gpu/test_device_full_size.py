"""Networks of full size with random weights: bits by place, run and neighbours. On a CPU small ones stand for them."""

import numpy as np
import pytest
import torch

from benchmarks.gpu.device.networks import case_of, random_modules
from benchmarks.gpu.device.place import Place
from fsfast.backends.device.arithmetic import fixed_arithmetic
from fsfast.backends.device.lane import Lane
from fsfast.backends.device.stages import StageGraph
from fsfast.backends.selftest import check_independence
from fsfast.backends.torch import place_modules

# Whose shape a stage's output has.
_GIVES = {"purifier": "purifier", "encoder": "mapper", "mapper": "mapper"}


@pytest.mark.parametrize("micro_batch", [4, 16])
def test_rows_do_not_know_each_other(place, micro_batch):
    """adm256, ViT-L/14 at 336 pixels and the mapper: libraries split large products, and edge tiles differ."""
    where = Place(place)
    case = case_of("adm256", where)
    shapes = {
        "purifier": (3, case.side, case.side),
        "encoder": (3, case.encoder.image_size, case.encoder.image_size),
        "mapper": (case.encoder.patches, case.encoder.width),
    }
    lane = Lane(place)
    with lane.current(), fixed_arithmetic(), torch.no_grad():
        stages = place_modules(random_modules(case, place), "bfloat16", place)
    for stage, network in stages.run.items():
        graph = StageGraph(network, stages, lane)
        x = np.random.default_rng(0).standard_normal((1, *shapes[stage])).astype(np.float32)
        out = np.full((micro_batch, *shapes[_GIVES[stage]]), np.nan, np.float32)
        graph.run(np.repeat(x, micro_batch, axis=0), out)
        assert np.isfinite(out).all(), stage
        check_independence(graph, x, out, stage)
