"""The results of a run, as JSON and as Markdown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from export.measured import results_markdown
from fsfast.machine import processor
from train.checkpoint import write_text
from train.config import StudyConfig
from train.tiles import sources_record


def write_results(
    folder: Path, config: StudyConfig, measured: dict[str, Any], seconds: dict[str, float], threads: int
) -> dict[str, Any]:
    """Write results.json and results.md; returns the record.

    Args:
        folder: of the run.
        config: of the run.
        measured: from `evaluate`.
        seconds: training time of the stages.
        threads: of torch.
    """
    record = {
        "schema": 1,
        "run": config.digest(),
        "config": config.to_record(),
        "sigma": config.sigma,
        "n0": config.evaluation.n0,
        "seed": config.seed,
        **measured,
        "seconds": seconds,
        "machine": {"processor": processor(), "threads": threads, "torch": torch.__version__},
        "sources": sources_record(),
    }
    write_text(folder / "results.json", json.dumps(record, indent=2) + "\n")
    write_text(folder / "results.md", results_markdown(record))
    return record
