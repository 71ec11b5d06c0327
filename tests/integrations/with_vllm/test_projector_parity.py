"""The projector in NumPy is that of transformers, whose names of the checkpoint are those of its version."""

from __future__ import annotations

import numpy as np
import pytest

from fsfast.integrations.projector import Projector

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", reason="make vllm has an environment for these")


def largest_difference(reference, projector, features):
    model = reference.model.model if hasattr(reference.model, "model") else reference.model
    with torch.inference_mode():
        wanted = model.multi_modal_projector(torch.from_numpy(features)).numpy()
    return np.abs(projector(features) - wanted).max() / np.abs(wanted).max()


def test_the_projector_is_that_of_transformers(reference, embeddings, tmp_path):
    """Read from the published names, and from those that this version of transformers saves."""
    features = embeddings["smoothed"][0].features
    assert largest_difference(reference, reference.projector, features) < 2e-6
    reference.model.save_pretrained(tmp_path)
    assert Projector.from_checkpoint(tmp_path).digest == reference.projector.digest
