"""The low-rank mapper of photographs: which crops choose it, what is fitted, and what is refused."""

from __future__ import annotations

import csv
from dataclasses import asdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

from fsfast.models import DRUNET_LIGHT, EFFICIENTNET_LITE0, DRUNet
from tests.models.efficientnets import weights
from train.checkpoint import save_weights
from train.photos.assembling import Picture
from train.photos.features import Features, training_crops
from train.photos.mapper import Judge, Moments, fit, low_rank
from train.photos.mapper_run import main

DIM, TOKENS, NOISES = 24, 3, 4


def features(noise=0.4, crops=160, seed=0):
    """Clean tokens in eight directions of positive numbers, noisy ones with something in the others added."""
    rng = np.random.default_rng(seed)
    basis = np.abs(rng.normal(size=(8, DIM)))
    clean = np.abs(rng.normal(size=(crops, TOKENS, 8))) @ basis
    noisy = clean[:, None] + noise * rng.normal(size=(crops, NOISES, TOKENS, DIM)) * basis.mean()
    tensors = (torch.from_numpy(each).half() for each in (clean, noisy))
    return Features(*tensors, torch.arange(crops) % 4 == 0)


def rows(classes=10):
    return torch.randn(classes, DIM, generator=torch.Generator().manual_seed(3))


def test_no_matrix_of_its_rank_fits_better():
    """Against the same sum of squares, minimised step by step in float64."""
    own = features(crops=40)
    clean, noisy = own.clean.double(), own.noisy.double()
    norms = clean.norm(dim=-1, keepdim=True)[:, None]
    z = (noisy / norms).flatten(0, -2)
    residual = (clean[:, None] / norms).expand_as(noisy).flatten(0, -2) - z
    ridge = 0.1 * (z.T @ z).diagonal().mean()

    def cost(product):
        return ((z @ product - residual) ** 2).sum() + ridge * (product**2).sum()

    mapper = low_rank(*Moments(own).weights(0.1), 4, 1.0)
    found = cost(mapper.down.double() @ mapper.up.double())
    torch.manual_seed(0)
    down, up = (torch.randn(shape, dtype=torch.float64) * 0.1 for shape in ((DIM, 4), (4, DIM)))
    for _ in range(200):
        # Each factor in turn, given the other, is a linear problem.
        damped = z.T @ z + ridge * torch.eye(DIM)
        down = torch.linalg.solve(damped, z.T @ residual @ up.T) @ torch.linalg.inv(up @ up.T)
        up = torch.linalg.solve(down.T @ damped @ down, down.T @ z.T @ residual)
    assert found.item() == pytest.approx(cost(down @ up).item(), rel=1e-5)
    assert found < cost(torch.zeros(DIM, DIM, dtype=torch.float64))


def test_strength_is_a_factor():
    solved = Moments(features(crops=40)).weights(1.0)
    whole, half = low_rank(*solved, 5, 1.0), low_rank(*solved, 5, 0.5)
    torch.testing.assert_close(half.down @ half.up, 0.5 * (whole.down @ whole.up))


def test_tokens_of_zeros_are_left_out():
    own = features(crops=40)
    clean, noisy = own.clean.clone(), own.noisy.clone()
    clean[3, 1] = 0
    noisy[3, :, 1] = 100
    moments = Moments(Features(clean, noisy, own.tuning))
    assert moments.noisy.isfinite().all()
    assert moments.noisy.max() < Moments(own).noisy.max()


def judge(own):
    fitted = own.part(~own.tuning)
    return Judge(own.part(own.tuning), F.normalize(fitted.clean.float(), dim=-1).mean(0), rows()), fitted


def test_the_scores_are_those_of_their_definitions():
    own = features(crops=8)
    measured, fitted = judge(own)
    row = measured.row(lambda z: 2 * z, "twice")
    clean, noisy = own.clean[own.tuning].double(), own.noisy[own.tuning].double()
    unit, anchor = F.normalize(noisy, dim=-1), F.normalize(clean, dim=-1)
    assert row.score == pytest.approx(float((1 + (unit * anchor[:, None]).sum(-1)).mean() / 2), abs=2e-5)
    mean = F.normalize(fitted.clean.double(), dim=-1).mean(0)
    centred = F.cosine_similarity(unit - mean, (anchor - mean)[:, None], dim=-1)
    assert row.score_centred == pytest.approx(float((1 + centred).mean() / 2), abs=2e-5)
    served = F.normalize(unit.mean(1), dim=-1)
    assert row.served_to_clean == pytest.approx(float((served * anchor).sum(-1).mean()), abs=2e-5)
    classes = [(each.mean(-2) @ rows().double().T).argmax(-1) for each in (unit, anchor)]
    assert row.agreement == pytest.approx(
        float((classes[0] == classes[1][:, None]).double().mean()), abs=1e-5
    )


def test_going_to_the_mean_raises_the_score_and_not_the_centred_one():
    own = features(noise=2.0)
    measured, fitted = judge(own)
    mean = fitted.clean.float().mean(0)
    before = measured.row(lambda z: z, "none")
    after = measured.row(lambda z: z + 0.98 * (mean - z), "towards")
    assert after.score > before.score
    assert after.score_centred < before.score_centred
    assert not after.improves(before)


@pytest.mark.parametrize("pooled", [False, True])
def test_what_is_taken_keeps_everything_and_raises_the_centred_score(pooled, monkeypatch):
    monkeypatch.setattr("train.photos.mapper.RANKS", (4, 20))
    own = features(noise=2.0)
    own = own.pooled() if pooled else own
    mapper, measured = fit(own, rows())
    none, towards, *others = measured
    assert [none.mapper, towards.mapper, {row.mapper for row in others}] == [
        *("none", "towards the mean"),
        {"low rank"},
    ]
    assert others[0].improves(none)
    assert others[0].score_centred == max(row.score_centred for row in others if row.improves(none))
    assert mapper.rank == others[0].rank


def test_where_nothing_is_to_be_gained_there_is_no_mapper(monkeypatch):
    monkeypatch.setattr("train.photos.mapper.RANKS", (4, 20))
    mapper, measured = fit(features(noise=0.0), rows())
    assert mapper is None
    assert not any(row.improves(measured[0]) for row in measured[1:])


@pytest.fixture
def folder(tmp_path):
    """A folder as `photo-data` makes it: two crops of each training photograph, one of a drawing."""
    kinds = {"a": "photograph", "b": "photograph", "c": "drawing", "d": "photograph"}
    lines = []
    for i, (name, kind) in enumerate(kinds.items()):
        split, crops = ("held-out", 0) if name == "d" else ("train", 2 if kind == "photograph" else 1)
        (tmp_path / "crops" / kind).mkdir(parents=True, exist_ok=True)
        for number in range(crops):
            pixels = np.random.default_rng([i, number]).integers(0, 256, (8, 8, 3), np.uint8)
            image = Image.fromarray(pixels).resize((256, 256), Image.Resampling.BICUBIC)
            image.save(tmp_path / "crops" / kind / f"{name}-{number}.png")
        lines.append(
            Picture(f"x/{name}.png", name, "p", "1", "CC0-1.0", f"{i:064x}", split, kind, 9, 9, crops)
        )
    with (tmp_path / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(asdict(lines[0])))
        writer.writeheader()
        writer.writerows(map(asdict, lines))
    return tmp_path


def test_crops_of_a_picture_are_on_one_side_and_held_out_ones_on_none(folder):
    crops = training_crops(folder)
    assert [(crop.path.stem, crop.tuning) for crop in crops] == [
        *(("a-0", True), ("a-1", True)),
        *(("b-0", False), ("b-1", False)),
        ("c-0", False),
    ]
    assert all(crop.path.exists() for crop in crops)


def test_the_command(folder, tmp_path, monkeypatch, capsys):
    """Weights that no training made: what counts is that everything is written, and features are used again."""
    monkeypatch.setattr("train.photos.mapper.RANKS", (4,))
    torch.save(weights(EFFICIENTNET_LITE0, 1000), tmp_path / "encoder.pth")
    save_weights(tmp_path / "purifier.safetensors", DRUNet(DRUNET_LIGHT).state_dict(), "digest", 0.25)
    out = tmp_path / "run"
    run = [
        "--data",
        str(folder),
        "--encoder",
        str(tmp_path / "encoder.pth"),
        "--noises",
        "1",
        "--out",
        str(out),
    ]
    run += ["--purifier", str(tmp_path / "purifier.safetensors"), "--threads", "1"]
    code = main(run)
    assert code in (0, 1)
    assert (out / "mapper.safetensors").exists() == (code == 0)
    with (out / "mapper.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [row["mapper"] for row in table[:3]] == ["none", "towards the mean", "low rank"]
    assert {(row["sigma"], row["output"]) for row in table} == {("0.25", "pooled")}
    written = (out / "features.safetensors").stat().st_mtime_ns
    assert main([*run, "--output", "tokens"]) in (0, 1)
    assert (out / "features.safetensors").stat().st_mtime_ns == written
    stored = load_file(out / "features.safetensors")
    assert stored["noisy"].shape == (5, 1, 49, 1280)
    assert main([*run, "--noises", "0"]) == 2
    assert "at least one noise" in capsys.readouterr().err
    assert main([*run, "--sigma", "0.5"]) == 2
    assert "trained for sigma = 0.25" in capsys.readouterr().err
    (folder / "crops/photograph/a-0.png").unlink()
    assert main([*run, "--seed", "1"]) == 2
    assert "a-0.png" in capsys.readouterr().err
