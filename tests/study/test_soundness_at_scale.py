"""Attempts on certificates: an encoder whose smoothed feature is known exactly, and the built-in engine."""

import csv
import math

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from torch import nn

pytest.importorskip("skimage", reason="test images need scikit-image (the train extra)")

from benchmarks.certified.soundness import Setting
from benchmarks.pages import attacks as tables
from fsfast.bounds.cosine import cosine_lower_bound, radius
from study import soundness
from study.soundness import Case, attempt, planted

SIGMA, EDGE, WIDTH = 0.25, 3.0, 0.1
QUICK = Setting(steps=6, noises=16, evaluation=64)


class Boundary(nn.Module):
    """Turns from the anchor to its opposite where the mean of all pixels passes an edge, EDGE·σ away from grey."""

    sigma = SIGMA

    def forward(self, noisy):
        pixels = (noisy - 127.5).flatten(1)
        # Standard normal, and moved by ε/σ where the image moves by ε along white.
        s = pixels.mean(1) * math.sqrt(pixels.shape[1]) / (255.0 * SIGMA)
        angle = math.pi * torch.sigmoid((s - EDGE) / WIDTH)
        return torch.stack([angle.cos(), angle.sin()], dim=1)[:, None]


@pytest.fixture(scope="module")
def boundary():
    """Its certificate, as from endless samples."""
    s = np.linspace(-9, 9, 20_001)
    weights = np.diff(ndtr(s), prepend=0.0)
    mean = float(0.5 + 0.5 * (weights * np.cos(np.pi / (1 + np.exp(-(s - EDGE) / WIDTH)))).sum())

    def claim(epsilon):
        return cosine_lower_bound(epsilon / SIGMA, mean=mean, method="fcsb")

    levels = torch.full((1, 3, 8, 8), 127.5)
    anchor = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
    return Case(Boundary(), levels, anchor, claim, radius(0.5, sigma=SIGMA, mean=mean, method="fcsb"))


def test_a_certificate_that_is_right_is_not_broken(boundary):
    found = attempt(boundary, QUICK)
    assert [each.share for each in found] == list(soundness.SHARES)
    assert all(each.attempts == soundness.STARTS and each.violations == 0 for each in found)
    assert min(each.margin for each in found) > -0.01


def test_a_radius_that_is_half_as_long_again_is_caught(boundary):
    *_, found = attempt(planted(boundary, 1.5), QUICK)
    assert found.violations == found.attempts == soundness.STARTS
    assert found.measured + 4 * found.error < found.bound == pytest.approx(0.5, abs=1e-6)
    assert found.epsilon == pytest.approx(1.5 * boundary.largest)


def test_the_command_writes_a_line_for_every_image_and_goes_on(tmp_path, capsys):
    out = tmp_path / "soundness.csv"
    arguments = [
        "--attempts",
        "12",
        "--starts",
        "1",
        "--n",
        "60",
        "--steps",
        "1",
        "--noises",
        "1",
        "--out",
        str(out),
    ]
    assert soundness.main(arguments) == 0
    rows = list(csv.DictReader(out.read_text().splitlines()))
    networks = ["encoder", "purifier+encoder", "purifier+encoder+mapper"]
    assert list(dict.fromkeys(row["networks"] for row in rows)) == networks
    assert [row["share"] for row in rows if row["networks"] == networks[-1]] == ["0.5", "0.75", "0.9", "1"]
    assert all(row["violations"] == "0" for row in rows)
    assert int(rows[-1]["attempts"]) > 0
    assert "0 violations; smallest margin" in capsys.readouterr().out
    assert "| 0.5 | 1 | 1 | 0 |" in tables.render_soundness(rows)
    before = out.read_bytes()
    assert soundness.main(arguments) == 0
    assert out.read_bytes() == before


def test_wrong_use_is_refused(tmp_path, capsys):
    for arguments in (["--attempts", "0"], ["--planted", "1.5"]):
        with pytest.raises(SystemExit) as stop:
            soundness.main(arguments)
        assert stop.value.code == 2
    assert "another --out with --planted" in capsys.readouterr().err
    assert soundness.main(["--engine", str(tmp_path), "--out", str(tmp_path / "x.csv")]) == 2
