"""Certificates under attack: honest ones hold, and a planted error is caught by the same harness."""

from __future__ import annotations

import pytest

pytest.importorskip("skimage", reason="test images need scikit-image (the train extra)")

import torch

from benchmarks.certified.soundness import SHARES, Setting, attack, broken, measure, run
from benchmarks.measuring.files import write_table
from fsfast.engine.engine import load_engine
from fsfast.models.torch_function import TorchFunction
from train.data import study_set

QUICK = Setting(steps=12, noises=4, evaluation=128)


@pytest.mark.slow
def test_no_attack_breaks_a_certificate(tmp_path):
    results = list(run([1], SHARES[1::2], QUICK, n=300))
    assert len(results) == 2
    assert not any(result.violated for result in results)
    assert all(result.after < result.before + 0.01 for result in results)
    write_table(tmp_path / "soundness.csv", results)
    assert (tmp_path / "soundness.csv").read_text().startswith("image,epsilon,bound")


@pytest.mark.slow
def test_a_planted_error_is_caught():
    """With a bound that says the cosine stays at 0.999, attacks show that it does not."""
    assert any(r.violated for r in run([1], (1.0,), QUICK, n=300, bound=lambda certificate, epsilon: 0.9999))
    (result,) = run([1], (0.5,), QUICK, n=300, bound=broken)
    assert result.bound > result.after - 0.1


def test_attacks_stay_in_the_ball_and_turn_the_feature():
    function = TorchFunction(load_engine("demo"), stages=("encoder",))
    levels = study_set(0, 2).images[[0, 0]]
    with torch.no_grad():
        anchors = function(levels)
    radii = torch.tensor([80.0, 120.0])
    attacked = attack(function, levels, anchors, radii, QUICK)
    assert ((attacked - levels).flatten(1).norm(dim=1) <= radii * (1 + 1e-5)).all()
    assert attacked.min() >= 0
    assert attacked.max() <= 255
    before, _ = measure(function, levels, anchors.double(), QUICK, 1)
    after, errors = measure(function, attacked, anchors.double(), QUICK, 1)
    assert (after < before - 4 * errors).all()
