"""The studies of coverage and tightness run and write what they should; no timing, few runs."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from benchmarks.certified import __main__ as certificates
from benchmarks.certified import coverage, figures, soundness, tightness
from benchmarks.certified import study as certified


def read(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_coverage_writes_one_row_per_case(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(coverage, "COUNTS", (20,))
    monkeypatch.setattr(coverage, "ALPHAS", (0.05,))
    path = tmp_path / "results" / "coverage.csv"
    assert coverage.main(["--runs", "50", "--out", str(path)]) == 0
    rows = read(path)
    columns = "distribution bound n alpha stopping runs violations share limit"
    assert list(rows[0]) == columns.split()
    assert {r["stopping"] for r in rows} == {"fixed n", "luckiest look"}
    assert all(r["runs"] == "50" and float(r["share"]) <= float(r["limit"]) for r in rows)
    # 5 bounds of the mean on 6 distributions, 2 of 4 proportions, 2 of 2 norms.
    assert len(rows) == 30 + 8 + 4
    assert "42 cases of 50 runs, 0 beyond chance" in capsys.readouterr().out


def test_coverage_fails_when_a_bound_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(coverage, "COUNTS", (20,))
    monkeypatch.setattr(coverage, "ALPHAS", (0.001,))
    monkeypatch.setattr(coverage, "mean_lower_bound", lambda scores, alpha, method: scores.mean(axis=1))
    assert coverage.main(["--runs", "50", "--out", str(tmp_path / "c.csv")]) == 1
    assert "mean, mixture on beta, n = 20" in capsys.readouterr().out


def test_tightness_writes_values_and_samples(tmp_path, capsys):
    assert tightness.main(["--runs", "1", "--out", str(tmp_path)]) == 0
    values = read(tmp_path / "tightness.csv")
    for row in values:
        # The references of `joint` are one simulation, to two digits.
        assert abs(float(row["difference"])) < (1e-4 if row["quantity"].startswith("sharp") else 0.04)
    samples = {r["method"]: float(r["median"]) for r in read(tmp_path / "samples.csv")}
    assert 11_500 < samples["fixed n: hoeffding + fcsb"] < 12_500
    assert 330 < samples["product + fcsb"] < 450
    assert 85 < samples["mixture + sharp"] < 120
    assert samples["joint, sequential"] < 150
    assert "reference 0.9228" in capsys.readouterr().out


@pytest.mark.parametrize("module", [coverage, tightness])
def test_wrong_runs_are_refused(module, capsys):
    with pytest.raises(SystemExit) as stop:
        module.main(["--runs", "0"])
    assert stop.value.code == 2
    assert "--runs ≥ 1" in capsys.readouterr().err


def test_an_unknown_distribution_is_refused():
    with pytest.raises(ValueError, match=r"constant.*got 'cauchy'"):
        coverage.draw("cauchy", np.random.default_rng(0), (1,))


def test_looks_end_at_n():
    for n in (1, 7, 2000):
        assert coverage.looks(n)[-1] == n
        assert coverage.looks(n)[0] == 1


@pytest.mark.parametrize("module", [certified, soundness])
def test_no_images_are_refused(module, capsys):
    with pytest.raises(SystemExit) as stop:
        module.main(["--images", "0"])
    assert stop.value.code == 2
    assert "at least 1" in capsys.readouterr().err


def test_the_picture_is_drawn_from_the_results(tmp_path):
    figures.draw(coverage.RESULTS, tmp_path / "certificates.png")
    assert (tmp_path / "certificates.png").read_bytes().startswith(b"\x89PNG")


def test_one_command_runs_every_study(tmp_path, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(
        certificates,
        "STUDIES",
        {
            name: (lambda argv, name=name: ran.append((name, argv)) or int(name == "soundness"), file, quick)
            for name, (_, file, quick) in certificates.STUDIES.items()
        },
    )
    monkeypatch.setattr(certificates.figures, "draw", lambda folder, target: ran.append(("draw", folder)))
    assert certificates.main(["--quick", "--out", str(tmp_path)]) == 1
    assert [name for name, _ in ran] == ["coverage", "tightness", "certified", "soundness", "draw"]
    assert ran[0][1][:4] == ["--out", str(tmp_path / "coverage.csv"), "--runs", "50"]
    assert "a bound did not hold: soundness" in capsys.readouterr().err
