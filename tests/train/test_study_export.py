"""From a training run to an engine: weights, classes, results and examples arrive unchanged."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import fsfast
from export.build import build_engine
from export.recipe import load_recipe
from export.run_folder import CLASS_NAMES, load_run
from fsfast.report.examples import load_examples
from train.config import DEMO, quick
from train.data import study_set
from train.defence import class_scores, clean_unit
from train.encoder import VanillaEncoder

CONFIG = quick(DEMO)


@pytest.fixture(scope="module")
def engine(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("engine") / "quick"
    recipe = replace(load_recipe("demo"), run=str(run))
    build_engine(recipe, path, compare=[str(run)], report=lambda line: None)
    return path


def test_the_engine_computes_what_was_trained(run, engine):
    weights = load_run(run)
    encoder = VanillaEncoder(CONFIG.encoder.vit)
    encoder.load_state_dict(weights.encoder)
    test = study_set(0, 3)
    with torch.no_grad():
        unit = clean_unit(encoder.eval(), test.images)
        wanted = class_scores(unit, weights.class_features)
    with fsfast.SmoothedEncoder(engine) as served:
        assert served.classes is not None
        clean = served.clean(list(test.images.permute(0, 2, 3, 1).byte().numpy()))
        np.testing.assert_allclose(served.classes.scores(clean), wanted, atol=1e-5)
        assert not served.encode(test.images[0].permute(1, 2, 0).byte().numpy()).random_weights


def test_the_card_holds_the_results(run, engine):
    card = (engine / "model-card.md").read_text()
    assert (run / "results.md").read_text() in card
    assert card.count("| 0 | ") == 2, "the run and the one that it is compared with"
    stored = json.loads((engine / "results.json").read_text())
    results = json.loads((run / "results.json").read_text())
    assert stored == {**results, "other_seeds": [results]}


def test_another_sigma_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match=r"trained for σ = 0.25, the recipe says 0.5"):
        build_engine(replace(load_recipe("demo"), run=str(run), sigma=0.5), tmp_path / "engine")


def test_another_network_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match=r"the encoder of .* does not fit"):
        build_engine(replace(load_recipe("demo"), run=str(run), encoder="vit-b16"), tmp_path / "engine")


def test_examples_are_test_images_and_stay_in_the_ball(run):
    folder = run / "examples"
    listed = json.loads((folder / "examples.json").read_text())
    test = study_set(0, CONFIG.evaluation.images)
    pixels = test.images.permute(0, 2, 3, 1).byte().numpy()
    assert len({row["label"] for row in listed}) == len(listed) > 2
    for row in listed:
        image, attacked = (np.asarray(Image.open(folder / row[key])) for key in ("image", "attacked"))
        (index,) = [i for i, known in enumerate(pixels) if np.array_equal(known, image)]
        assert CLASS_NAMES[test.labels[index]] == row["label"]
        assert row["target"] == "star"
        assert 0 < np.abs(attacked.astype(int) - image).max() <= 16


def test_the_packages_examples_are_test_images_of_the_built_in_engine():
    """The same run made both; a forgotten copy would show here."""
    examples = load_examples()
    test = study_set(DEMO.seed, DEMO.evaluation.images)
    pixels = test.images.permute(0, 2, 3, 1).byte().numpy()
    assert len(examples) == 6
    for example in examples:
        image, attacked = (np.asarray(Image.open(path)) for path in (example.image, example.attacked))
        (index,) = [i for i, known in enumerate(pixels) if np.array_equal(known, image)]
        assert CLASS_NAMES[test.labels[index]] == example.label
        assert np.abs(attacked.astype(int) - image).max() <= 16


@pytest.mark.slow
def test_the_built_in_engine_reaches_what_its_card_says(demo_path):
    """Two hundred test images through the engine: accuracy without noise and from four samples."""
    results = json.loads((demo_path / "results.json").read_text())
    test = study_set(results["seed"], results["images"])
    assert test.digest() == results["test_digest"]
    images = list(test.images.permute(0, 2, 3, 1).byte().numpy())
    names = [CLASS_NAMES[label] for label in test.labels]
    rows = {row["name"]: row for row in results["rows"]}
    for name, stages in {
        "encoder alone": ("encoder",),
        "+ mapper": ("encoder", "mapper"),
        "+ purifier": ("purifier", "encoder"),
        "+ both": None,
    }.items():
        with fsfast.SmoothedEncoder("demo", stages=stages) as encoder:
            served = encoder.encode(images, results["n0"], seeds=range(200))
            right = np.mean(
                [a == b for a, b in zip(encoder.classes.predict(served.unit), names, strict=True)]
            )
            # Other noise than that of the card: four standard errors of a difference of proportions.
            assert right == pytest.approx(rows[name]["accuracy"], abs=0.04 if stages is None else 0.08), name
    with fsfast.SmoothedEncoder("demo") as encoder:
        clean = encoder.classes.predict(encoder.clean(images))
    vanilla = np.mean([a == b for a, b in zip(clean, names, strict=True)])
    assert vanilla == pytest.approx(results["vanilla_accuracy"], abs=0.006)
    assert vanilla >= 0.95
