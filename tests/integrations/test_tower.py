"""What the towers of all hosts share: the engine's features and no others, and no way to lose them unnoticed."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest

import fsfast
from fsfast.errors import EngineError, FsfastError

torch = pytest.importorskip("torch")

from fsfast.integrations.tower import SmoothedTower  # noqa: E402
from tests.integrations.pixel_values import normalised  # noqa: E402


@pytest.fixture(scope="module")
def secretive(demo_path):
    with fsfast.SmoothedEncoder(demo_path, secret=bytes(16)) as encoder:
        yield encoder


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)


def test_features_are_those_of_the_encoder(secretive, images):
    tower = SmoothedTower(secretive, 2)
    wanted = secretive.encode(images, 2)
    got = tower.features(normalised(images, secretive.manifest))
    assert torch.equal(got, torch.from_numpy(wanted.features))
    assert not got.requires_grad
    np.testing.assert_array_equal(tower.handed.images, images)
    (certificate,) = secretive.certify(tower.handed.images[:1], n=20, served=tower.handed.features[0])
    assert certificate.anchor.seed == int(wanted.seeds[0])
    levels = SmoothedTower(secretive, 2, form="levels").bfloat16()
    x = torch.from_numpy(images).permute(0, 3, 1, 2).bfloat16()
    assert torch.equal(levels.features(x), torch.from_numpy(wanted.features).bfloat16())


def test_after_a_refusal_there_is_nothing_to_certify(demo, images):
    tower = SmoothedTower(demo, 1, form="levels")
    tower.features(torch.from_numpy(images))
    with pytest.raises(FsfastError, match="levels"):
        tower.features(torch.from_numpy(images) / 2)
    with pytest.raises(FsfastError, match="has served no smoothed features"):
        _ = tower.handed


def test_copies_in_a_batch_are_encoded_once(demo, images):
    """Without a secret, too, beams and returned sequences of one image see the same features."""
    tower = SmoothedTower(demo, 1, form="levels")
    got = tower.features(torch.from_numpy(images[[0, 1, 0, 0]]))
    assert torch.equal(got[0], got[2])
    assert torch.equal(got[0], got[3])
    assert not torch.equal(got[0], got[1])
    seeds = tower.handed.features.seeds
    assert seeds[0] == seeds[2] == seeds[3] != seeds[1]
    np.testing.assert_array_equal(tower.handed.images, images[[0, 1, 0, 0]])


def test_clean_features_are_asked_for_and_warned_about(demo, images):
    with pytest.warns(UserWarning, match="without smoothing and without a guarantee"):
        tower = SmoothedTower(demo, clean=True, form="levels")
    np.testing.assert_array_equal(tower.features(torch.from_numpy(images)).numpy(), demo.clean(images))
    assert "no guarantee" in repr(tower)
    with pytest.raises(FsfastError, match="has served no smoothed features"):
        _ = tower.handed
    with pytest.raises(TypeError, match="clean to be True or False, got 1"):
        SmoothedTower(demo, clean=1)


def test_it_is_the_pinned_engine_or_none(demo):
    SmoothedTower(demo, digest=demo.engine_digest)
    with pytest.raises(EngineError, match=f"wanted the engine with digest 00ff.*has {demo.engine_digest}"):
        SmoothedTower(demo, digest="00ff")
    with pytest.raises(TypeError, match=r"open fsfast\.SmoothedEncoder, got str"):
        SmoothedTower("demo")
    with pytest.raises(ValueError, match="wanted n0 ≥ 1"):
        SmoothedTower(demo, 0)


def test_a_closed_encoder_serves_nothing(demo_path, images):
    encoder = fsfast.SmoothedEncoder(demo_path)
    tower = SmoothedTower(encoder, form="levels")
    encoder.close()
    with pytest.raises(FsfastError, match="closed"):
        tower.features(torch.from_numpy(images))


def test_it_neither_copies_nor_pickles_nor_saves(demo, tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), SmoothedTower(demo))
    with pytest.raises(TypeError, match="does not copy"):
        copy.deepcopy(model)
    with pytest.raises(TypeError, match="does not pickle"):
        pickle.dumps(model)
    with pytest.raises(FsfastError, match="detach the engine, save, and attach it again"):
        model.state_dict()
    model.train().eval().to(torch.float16).requires_grad_(False)
    assert model[1].dtype == torch.float32
    assert not list(model[1].parameters())


def test_compilation_breaks_around_the_tower_alone(demo, images):
    tower = SmoothedTower(demo, 1, form="levels")
    seen = []

    def backend(graph, example):
        seen.append(sorted({node.name for node in graph.graph.nodes if node.op == "call_function"}))
        return graph.forward

    def model(x):
        return tower.features(x * 1).sin().sum() + 1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = torch.compile(model, backend=backend)(torch.from_numpy(images))
    assert len(seen) == 2
    wanted = torch.from_numpy(tower.handed.features.features).sin().sum() + 1
    torch.testing.assert_close(got, wanted)


def test_a_trace_is_refused(demo, images):
    tower = SmoothedTower(demo, 1, form="levels")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(FsfastError, match="features of one image for ever"):
            torch.jit.trace(lambda x: tower.features(x), torch.from_numpy(images))
