"""`python -m benchmarks paper`, rehearsed with small networks: tables, interruptions, refusals, page, estimates."""

from __future__ import annotations

import csv
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.__main__ import main
from benchmarks.measuring import harness
from benchmarks.measuring.rows import Rows
from benchmarks.pages import browser
from benchmarks.paper import (
    attacks,
    certified,
    comparison,
    counts,
    encodes,
    engines,
    estimate,
    page,
    quoted,
    request,
)
from benchmarks.paper.command import _parser, _request
from benchmarks.paper.folder import settings
from benchmarks.paper.rehearsal import REHEARSALS, write_files
from benchmarks.paper.request import check, recipe_for
from benchmarks.paper.study import Study
from export.networks import check_networks
from export.published import Published
from fsfast.certificates.lines import load_certificates
from fsfast.encoder import SmoothedEncoder
from fsfast.engine.engine import load_engine
from fsfast.errors import FsfastError
from fsfast.images.grid import to_grid_image
from fsfast.models import DRUNET_LIGHT, DRUNet
from fsfast.runtime.gpu import opening
from tests.report.test_browser import WIDTHS, looked_at
from train.psm_setting import PsmConfig

NETWORKS = ["encoder", "encoder+mapper", "purifier+encoder", "purifier+encoder+mapper"]


def rehearse(out, *more):
    return main(["paper", "--rehearse", "small", "--out", str(out), *more])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished rehearsal; its engines lie beside it."""
    out = tmp_path_factory.mktemp("paper") / "results"
    assert rehearse(out) == 0
    return out


@pytest.fixture
def results(finished, tmp_path):
    """A copy of the results, and the arguments that go on with it."""
    out = tmp_path / "results"
    shutil.copytree(finished, out)
    return out, ("--work", f"{finished}-work")


@pytest.fixture
def nothing_measured(monkeypatch):
    """Make every measurement fail."""

    def refused(*_, **__):
        raise AssertionError("measured again")

    for name in ("encode", "certify"):
        monkeypatch.setattr(SmoothedEncoder, name, refused)
    monkeypatch.setattr(engines, "build_engine", refused)


def read(path):
    with open(path, newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


@pytest.mark.slow
def test_a_rehearsal_fills_every_table(finished):
    images = ["cat.jpg", "digit-0.png"]
    rows = read(finished / "images.csv")
    assert [(row["networks"], row["image"]) for row in rows] == [(n, i) for n in NETWORKS for i in images]
    for networks in NETWORKS:
        made = load_certificates(finished / "certificates" / f"sigma-0.25-{networks}.jsonl")
        own = [row for row in rows if row["networks"] == networks]
        assert [float(row["mean_score"]) for row in own] == [c.mean_score for c in made]
        assert [row["grid_sha256"] for row in own] == [c.grid_sha256 for c in made]
        assert {(c.n, c.anchor.kind) for c in made} == {(4, "clean")}
    alike = read(finished / "similarity.csv")
    assert [(row["n0"], row["image"]) for row in alike] == [(n0, i) for n0 in "12" for i in images]
    assert all(-1 <= float(row["fcs"]) <= 1 for row in alike)
    assert [(row["purifier"], row["n0"]) for row in read(finished / "latency.csv")] == [
        ("unet-tiny", "1"),
        ("unet-tiny", "2"),
    ]
    printed = len(quoted.table_s8() + quoted.bounds("2") + quoted.bounds("5"))
    cells = read(finished / "comparison.csv")
    # Two choices of networks that Table 2 does not have, at five radii, and R.
    assert len(cells) == printed + 2 * 6
    assert sum(not row["paper"] for row in cells) == 2 * 6
    assert all(row["certified"] for row in cells if not row["paper"])


@pytest.mark.slow
def test_the_page_names_what_it_was_made_with(finished):
    text = (finished / "paper.html").read_text(encoding="utf-8")
    assert "A rehearsal with random weights" in text
    assert "Not finished" not in text
    for row in read(finished / "files.csv"):
        assert row["name"] in text
        assert row["sha256"] in text
    for row in read(finished / "engines.csv"):
        assert row["digest"] in text
    # Self-contained: the paper's address is the only one.
    assert set(re.findall(r'(?:href|src)="(?!#|data:)([^"]+)"', text)) == {quoted.ADDRESS}


@pytest.mark.slow
def test_attacked_images_stay_within_the_ball(finished):
    """And they move."""
    grid = load_engine(f"{finished}-work/unet-tiny-sigma-0.25").manifest.grid
    clean = to_grid_image(f"{finished}-work/weights/images/cat.jpg", grid).pixels.astype(int)
    with Image.open(finished / "attacked" / "0000.png") as attacked:
        change = np.abs(np.asarray(attacked).astype(int) - clean)
    assert 1 <= change.max() <= 16


@pytest.mark.slow
def test_a_second_call_measures_nothing_again(results, nothing_measured):
    out, work = results
    before = {path: path.read_bytes() for path in out.rglob("*.*") if path.is_file()}
    assert rehearse(out, *work) == 0
    assert {path: path.read_bytes() for path in out.rglob("*.*") if path.is_file()} == before


@pytest.mark.slow
def test_a_line_that_was_cut_off_is_made_from_its_certificate(results, nothing_measured):
    """A call may end between the certificate and its row."""
    out, work = results
    path = out / "images.csv"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert rehearse(out, *work) == 0
    assert path.read_bytes() == whole


@pytest.mark.slow
def test_ctrl_c_leaves_whole_lines_and_a_page(results, monkeypatch):
    out, work = results
    lines = (out / "images.csv").read_text().splitlines(keepends=True)
    (out / "images.csv").write_text("".join(lines[:-2]))
    (out / "certificates" / "sigma-0.25-purifier+encoder+mapper.jsonl").unlink()
    certify, calls = SmoothedEncoder.certify, []

    def interrupted(self, *args, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return certify(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(SmoothedEncoder, "certify", interrupted)
        with pytest.raises(KeyboardInterrupt):
            rehearse(out, *work)
    assert len(read(out / "images.csv")) == 7
    assert "Not finished" in (out / "paper.html").read_text(encoding="utf-8")
    assert rehearse(out, *work) == 0
    assert len(read(out / "images.csv")) == 8
    assert "Not finished" not in (out / "paper.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("-n", "5"), "another n (4 there, 5 now)"),
        (("--attack-steps", "3"), "another attack-steps (2 there, 3 now)"),
        (("--precision", "int8"), "another precision (float32 there, int8 now)"),
        (("--images", "two"), "another images"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_changed_argument_is_refused_by_name(
    results, nothing_measured, capsys, photograph, tmp_path, change, says
):
    out, work = results
    if change[0] == "--images":
        (tmp_path / "two").mkdir()
        for name in ("a.jpg", "b.jpg"):
            shutil.copy(photograph, tmp_path / "two" / name)
        change = ("--images", str(tmp_path / "two"))
    before = (out / "settings.json").read_bytes()
    assert rehearse(out, *work, *change) == 2
    error = capsys.readouterr().err
    assert says in error
    assert "choose another --out" in error
    assert (out / "settings.json").read_bytes() == before


def test_files_that_cannot_be_used_are_a_line_each(tmp_path, capsys):
    (tmp_path / "page.pt").write_text("<!DOCTYPE html><html>not found</html>")
    (tmp_path / "images").mkdir()
    torch.save(DRUNet(DRUNET_LIGHT).state_dict(), tmp_path / "drunet.pt")
    purifiers = [str(tmp_path / name) for name in ("page.pt", "drunet.pt")]
    arguments = [word for path in purifiers for word in ("--purifier", path)]
    arguments += ["--encoder", str(tmp_path / "nowhere")]
    arguments += ["--images", str(tmp_path / "images"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main(["paper", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert all(line.startswith("python -m benchmarks paper: ") for line in lines)
    for word, line in zip(("web page", "got a DRUNet", "nowhere", "images"), lines, strict=True):
        assert word in line
    assert not (tmp_path / "out").exists()


def test_of_raw_and_averaged_weights_those_that_are_meant_are_measured(tmp_path):
    """What was trained here has no average beside it."""
    parser = _parser()
    arguments = write_files(REHEARSALS["small"], tmp_path)
    arguments += ["--out", str(tmp_path / "out"), "--device", "cpu"]
    path = tmp_path / "unet-tiny.pt"
    weights = torch.load(path)
    torch.save({"model": weights, "ema": weights}, path)
    with pytest.raises(FsfastError, match="--weights ema"):
        check(_request(parser, parser.parse_args(arguments)))
    asked = _request(parser, parser.parse_args([*arguments, "--weights", "purifier=ema"]))
    inputs = check(asked)
    assert recipe_for(asked, 0.25, ("unet-tiny", path), None).weights == {"purifier": "ema"}
    assert recipe_for(asked, 0.25, ("unet-tiny", tmp_path / "trained.pt"), None).weights == {}
    assert settings(asked, inputs)["weights"] == {"purifier": "ema"}


def test_wrong_numbers_are_refused(capsys):
    files = ["--purifier", "a", "--encoder", "b", "--images", "c", "--out", "d"]
    for option, value, least in (
        ("--n0", "4,0", 1),
        ("--mapper-steps", "0", 1),
        ("--purifier-steps", "-1", 0),
    ):
        with pytest.raises(SystemExit):
            main(["paper", *files, option, value])
        assert f"wanted {option} of at least {least}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["paper", *files, "--alpha", "1"])
    assert "(0, 1)" in capsys.readouterr().err


@pytest.mark.slow
def test_what_training_makes_fits_the_engine(finished, tmp_path, photograph):
    """Two steps of each stage; without a purifier the mapper is that of the first one."""
    (tmp_path / "train").mkdir()
    shutil.copy(photograph, tmp_path / "train")
    weights = Path(f"{finished}-work/weights")
    parser = _parser()
    arguments = ["--purifier", str(weights / "unet-tiny.pt"), "--encoder", str(weights / "small-encoder")]
    arguments += ["--recipe", str(Path(estimate.FOLDER) / "small.toml"), "--images", str(weights / "images")]
    arguments += ["--out", str(tmp_path / "out"), "--train", str(tmp_path / "train"), "--device", "cpu"]
    arguments += ["--purifier-steps", "1", "--mapper-steps", "1", "--sigma", "0.25"]
    asked = _request(parser, parser.parse_args(arguments))
    inputs, trained = check(asked), {}
    purified, alone = engines.Spec(0.25, "unet-tiny"), engines.Spec(0.25, None)
    purifier, mapper = engines._weights(asked, inputs, purified, trained)
    assert purifier[1] != inputs.purifiers["unet-tiny"]
    assert engines._weights(asked, inputs, alone, trained) == (None, mapper)
    recipe = recipe_for(asked, 0.25, purifier, mapper)
    check_networks(recipe)
    Published(recipe)
    with pytest.raises(FsfastError, match="other images to train on"):
        check(replace(asked, train=asked.images))


def test_rows_survive_a_cut_and_refuse_other_columns(tmp_path):
    path = tmp_path / "rows.csv"
    rows = Rows(path, ("name", "value"), ("name",))
    rows.append({"name": 'a, "b"', "value": 0.1})
    rows.append({"name": "c", "value": None})
    path.write_bytes(path.read_bytes() + b"half,")
    again = Rows(path, ("name", "value"), ("name",))
    assert [tuple(row.values()) for row in again] == [('a, "b"', "0.1"), ("c", "")]
    again.append({"name": "d", "value": 1 / 3})
    assert path.read_text().endswith(f"c,\nd,{1 / 3}\n")
    with pytest.raises(FsfastError, match="other columns"):
        Rows(path, ("name",), ("name",))


def test_the_papers_tables_are_quoted():
    s8 = {(cell.networks, cell.at, cell.quantity): cell.value for cell in quoted.table_s8()}
    assert len(s8) == 20
    assert (s8["adm256", 16, "seconds"], s8["adm256", 16, "fcs"]) == (2.10, 0.728)
    assert (s8["unet-light", 1, "seconds"], s8["unet-light", 1, "fcs"]) == (0.20, 0.494)
    two = {(cell.networks, cell.sigma, cell.at): cell.value for cell in quoted.bounds("2")}
    assert len(two) == 22
    assert (two["encoder", 0.25, 0.5], two["purifier+encoder+mapper", 0.5, None]) == (-0.06, 0.89)
    five = {(cell.networks, cell.at): cell.value for cell in quoted.bounds("5")}
    assert len(five) == 12
    assert five["encoder+mapper", 0.75] == 0.436
    assert quoted.radii() == [0.125, 0.25, 0.375, 0.5, 0.75]


def written(folder: Path, scores):
    """Write images.csv with these mean scores of the encoder alone at σ = 0.5; only the second image has bounds."""
    rows = certified_rows(folder)
    for i, score in enumerate(scores):
        row = dict.fromkeys(rows._columns) | {"sigma": 0.5, "networks": "encoder", "image": str(i)}
        row |= {"mean_score": score, "radius": 0.2 * i, "cosine_0.25": 0.5 if i else None}
        rows.append(row)


def certified_rows(folder):
    radii = [f"cosine_{radius:g}" for radius in quoted.radii()]
    return Rows(
        folder / "images.csv", (*certified._COLUMNS, *radii, "radius"), ("sigma", "networks", "image")
    )


def test_the_plug_in_number_is_the_papers(tmp_path):
    """All of a row of Table 2 follows from one score, .907 in the third; certified means count nothing as 0."""
    written(tmp_path, (0.897, 0.917))
    cells = [cell for cell in comparison.compare(tmp_path) if cell.images]
    assert [(cell.table, cell.at) for cell in cells] == [
        *(("2", at) for at in (0.125, 0.25, 0.375, 0.5, 0.75, None)),
        *(("5", at) for at in (0.25, 0.5, 0.75, None)),
    ]
    assert all(abs(cell.difference) < 0.01 for cell in cells)
    assert all(cell.difference == cell.measured - cell.paper for cell in cells)
    by_radius = {cell.at: cell for cell in cells}
    assert (by_radius[0.25].certified, by_radius[0.25].share) == (0.25, 0.5)
    assert (by_radius[None].certified, by_radius[0.5].share) == (pytest.approx(0.1), 0.0)


def test_the_slope_is_what_one_more_sample_takes(tmp_path):
    rows = Rows(tmp_path / "latency.csv", encodes._LATENCY, ("purifier", "n0"))
    for n0 in (1, 2, 16):
        rows.append(
            dict.fromkeys(encodes._LATENCY) | {"purifier": "adm256", "n0": n0, "p50_ms": 30.0 + 7 * n0}
        )
    cells = comparison.compare(tmp_path)
    paper, measured = comparison.slope(cells, "adm256")
    assert measured == pytest.approx(0.007)
    assert paper == pytest.approx(0.121, abs=0.002)
    assert comparison.slope(cells, "unet-light") is None


@pytest.fixture
def shown(results):
    """The folder of results with rows that no rehearsal makes: the paper's purifier for S.8, its σ for Table 5."""
    out, _ = results
    for name in ("latency.csv", "similarity.csv"):
        (out / name).write_text((out / name).read_text().replace("unet-tiny", "adm256"))
    written(out, (0.897, 0.917))
    (out / "paper.html").write_text(page.render_page(out, comparison.compare(out)), encoding="utf-8")
    return out


@pytest.mark.slow
def test_the_page_shows_the_papers_numbers_beside_the_measured(shown):
    text = (shown / "paper.html").read_text(encoding="utf-8")
    # Seconds and FCS; four choices of networks at the rehearsal's σ, and one.
    assert text.count('<svg class="chart"') == 2 + 5
    assert "<td>0.586</td><td>0.589</td><td>+0.003</td><td><b>0.250</b> <small>50 %</small></td>" in text
    assert "it wants" not in text
    (first, *_) = read(shown / "latency.csv")
    assert f"<td>0.28</td><td>{float(first['p50_ms']) / 1e3:.3f}</td>" in text


@pytest.mark.slow
@pytest.mark.skipif(browser.find() is None, reason="there is no Chromium")
def test_the_page_fits_every_screen(shown):
    for found in looked_at(shown, ("paper.html",), WIDTHS):
        assert found["charts"] == 7
        for fault in ("scrolls", "outside", "small", "untappable"):
            assert not found[fault], (found["width"], fault, found[fault])


@pytest.fixture(scope="module")
def counted():
    recipe, _ = estimate.recipes()
    return counts.counts(recipe, PsmConfig().blocks)


def test_counts_are_those_of_the_networks(counted):
    assert counted["purifier"].weight_bytes == pytest.approx(4 * 498e6, rel=0.01)
    assert 2.3e12 < sum(count.flops for count in counted.values()) < 3.0e12
    # The first level alone: 256 channels of 256², more than one of them at a time.
    assert 2 * 4 * 256**3 < counted["purifier"].activation_bytes < 20 * 4 * 256**3
    assert counted["encoder"].activation_bytes < counted["encoder"].weight_bytes / 10


def test_operations_of_all_tables(counted):
    p, e, m = (counted[stage].flops for stage in ("purifier", "encoder", "mapper"))
    size = estimate.Size(images=2, n=36, sigmas=1, numbers=(1, 2), runs=3, attack_steps=5)
    # 36 samples and 64 of the pilot; every image clean and attacked; three runs and one that warms up.
    encodes_of = 3 * (4 + 2 * 2)
    without = 2 * 100 * (e + (p + e)) + 2 * 2 * 5 * e + encodes_of * (p + e)
    assert estimate.measuring_flops(size, [counted], mapper=False) == without
    more = 2 * 100 * ((e + m) + (p + e + m)) + encodes_of * m
    assert estimate.measuring_flops(size, [counted], mapper=True) == without + more
    assert estimate.hours(0.3 * 3600e12, 1.0) == pytest.approx(1.0)


def test_the_estimates_of_the_document_are_computed():
    text = estimate.DOCS.read_text(encoding="utf-8")
    assert estimate.updated(text) == text
    assert "<!-- estimate -->\n|" in text


@pytest.mark.slow
def test_the_way_of_a_gpu(finished, tmp_path, monkeypatch):
    """The same code rehearsed on the CPU: M = n0 in encodes, 16 in certificates, bfloat16, the driver."""
    for module in (request, opening):
        monkeypatch.setattr(module, "cuda_device", lambda name: torch.device("cpu"))
    monkeypatch.setattr(harness, "gpu", lambda: "some-gpu")
    monkeypatch.setattr(harness, "driver", lambda: {"driver_version": "580.1"})
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 7e6)
    out = tmp_path / "results"
    # The attack has nothing of its own for a GPU.
    shutil.copytree(finished / "attacked", out / "attacked")
    shutil.copy(finished / "engines.csv", out)
    assert rehearse(out, "--work", f"{finished}-work", "--device", "cuda") == 0
    rows = read(out / "latency.csv")
    assert [(row["n0"], row["micro_batch"], row["memory_mb"]) for row in rows] == [
        ("1", "1", "7"),
        ("2", "2", "7"),
    ]
    assert {(row["device"], row["driver_version"]) for row in rows} == {("some-gpu", "580.1")}
    made = load_certificates(out / "certificates" / "sigma-0.25-purifier+encoder+mapper.jsonl")
    assert {(c.profile.precision, c.profile.micro_batch) for c in made} == {("bfloat16", 16)}
    on_cpu = {row["image"]: float(row["mean_score"]) for row in read(finished / "images.csv")[-2:]}
    for row in read(out / "images.csv")[-2:]:
        assert float(row["mean_score"]) == pytest.approx(on_cpu[row["image"]], abs=0.05)
    assert "some-gpu" in (out / "paper.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_parts_hold_the_operations_that_are_estimated(finished):
    parser = _parser()
    named = write_files(REHEARSALS["small"], Path(f"{finished}-work/weights"))
    asked = _request(parser, parser.parse_args([*named, "--out", str(finished)]))
    inputs = check(asked)
    (purifier,) = inputs.purifiers.items()
    counted = {purifier[0]: counts.counts(recipe_for(asked, 0.25, purifier, None), PsmConfig().blocks)}
    built = {spec: load_engine(asked.work / spec.name) for spec in engines.specs(asked, inputs)}
    measured = Study(asked, inputs, built, counted)
    parts = [
        attacks.part(measured),
        *encodes.Encodes(measured).parts(),
        *certified.Certified(measured).parts(),
    ]
    size = estimate.Size(2, asked.n, 1, asked.numbers, asked.runs, asked.attack_steps)
    whole = estimate.measuring_flops(size, list(counted.values()), mapper=True)
    assert sum(part.flops for part in parts) == pytest.approx(whole)
    assert all(part.done == part.flops for part in parts)
