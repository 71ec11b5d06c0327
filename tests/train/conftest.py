"""What the tests of training share."""

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("skimage", reason="the study data need scikit-image (the train extra)")
pytest.importorskip("sklearn", reason="the study data need scikit-learn (the train extra)")

from train.__main__ import main
from train.config import DEMO, StudyConfig, quick
from train.data import StudyData


@pytest.fixture(scope="session")
def small() -> StudyConfig:
    """The quick run with a two-block encoder."""
    config = quick(DEMO)
    return replace(config, encoder=replace(config.encoder, vit=replace(config.encoder.vit, layers=2)))


@pytest.fixture(scope="session")
def training_data() -> StudyData:
    return StudyData("train", seed=0)


@pytest.fixture(scope="session")
def test_data() -> StudyData:
    return StudyData("test", seed=0)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a quick run."""
    folder = tmp_path_factory.mktemp("runs") / "quick"
    assert main(["demo", "--quick", "--out", str(folder), "--device", "cpu", "--threads", "1"]) == 0
    return folder
