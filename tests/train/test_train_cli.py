"""python -m train demo --quick: a whole run, its files, and errors in one line."""

import json

import pytest
import torch
from scipy.stats import norm

from export.measured import results_markdown
from export.run_folder import load_run
from fsfast.models import SmoothnessMapper, UNet
from train.__main__ import main
from train.config import DEMO, quick
from train.encoder import VanillaEncoder
from train.evaluate import RADII, plug_in_fcsb, plug_in_radius

CONFIG = quick(DEMO)


def test_weights_load_under_the_names_of_the_models(run):
    weights = load_run(run)
    VanillaEncoder(CONFIG.encoder.vit).load_state_dict(weights.encoder)
    UNet(CONFIG.purifier.unet).load_state_dict(weights.purifier)
    for mapper in (weights.mapper, weights.mapper_alone):
        SmoothnessMapper(CONFIG.encoder.vit.width, CONFIG.mapper.blocks).load_state_dict(mapper)
    assert weights.class_features.shape == (11, CONFIG.encoder.vit.width)


def test_results_follow_the_papers_formulas(run):
    record = json.loads((run / "results.json").read_text())
    assert [row["name"] for row in record["rows"]] == [
        "encoder alone",
        "+ mapper, trained alone",
        "+ mapper",
        "+ purifier",
        "+ both",
    ]
    for row in record["rows"]:
        q = norm.ppf(row["score"])
        assert row["radius"] == pytest.approx(max(0.0, 0.25 * (q - norm.ppf(0.75))))
        bounds = [2 * norm.cdf(q - epsilon / 0.25) - 1 for epsilon in RADII]
        assert row["fcsb"] == [pytest.approx(bound) if bound > 0 else None for bound in bounds]
    assert set(record["seconds"]) == {"encoder", "purifier", "mapper", "mapper-alone"}
    assert (run / "results.md").read_text() == results_markdown(record)


def test_a_bound_that_is_not_positive_is_none():
    assert plug_in_fcsb(0.7, 0.25, 0.5) is None
    assert plug_in_radius(0.7, 0.25) == 0.0
    # Table 2 of the paper, σ = .25: S = .997 gives R = .52 (v1, rounded).
    assert plug_in_radius(0.997, 0.25) == pytest.approx(0.52, abs=0.005)


def test_a_finished_run_is_not_trained_again(run, monkeypatch):
    before = {path.name: path.read_bytes() for path in run.glob("*.safetensors")}
    assert main(["demo", "--quick", "--out", str(run)]) == 2
    assert main(["demo", "--quick", "--out", str(run), "--resume", "--device", "cpu", "--threads", "1"]) == 0
    assert {path.name: path.read_bytes() for path in run.glob("*.safetensors")} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--quick"], "continue it with --resume"),
        (["--resume"], "configuration changed"),
        (["--quick", "--resume", "--device", "cuda"], "use --device cpu"),
        (["--quick", "--resume", "--device", "gpu"], "got 'gpu'"),
        (["--quick", "--resume", "--threads", "-1"], "--threads in 1…1024, got -1"),
    ],
)
def test_wrong_use_is_one_line(run, arguments, message, capsys):
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    assert main(["demo", "--out", str(run), *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert error.startswith("error: ")


def test_missing_weights_say_what_to_run(tmp_path):
    with pytest.raises(ValueError, match="python -m train demo"):
        load_run(tmp_path)
