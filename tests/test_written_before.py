"""What was written before still holds: an engine, a certificate of it, the seeds that a secret gives, and the bits.

`data/written_before` is of November 2026: version 0.1.0, ONNX Runtime 1.31.1.
"""

import json

import numpy as np
import pytest

import fsfast
import fsfast.bounds
from fsfast.certificates.certification import plan_of
from fsfast.images.grid import to_grid
from fsfast.runtime.seeds import Seeds
from tests.written_before import FOLDER

SECRET = b"sixteen bytes or more"
SERVING_SEED = 12590756990189893144


@pytest.fixture(scope="module")
def encoder():
    with fsfast.SmoothedEncoder(FOLDER / "engine", secret=SECRET, backend="onnxruntime") as encoder:
        yield encoder


@pytest.fixture(scope="module")
def certificate():
    return fsfast.load_certificate(FOLDER / "certificate.json")


def test_public_names_are_there():
    errors = {
        *("BackendUnavailable", "CertificateError", "EngineError", "FsfastError", "ImageError"),
        *("ReplicasDiffer", "ServerError"),
    }
    classes = {
        *("Certificate", "FeatureFolder", "Outcome", "SmoothedEncoder", "SmoothedFeatures", "Verification"),
        *("AsyncClient", "Client"),
    }
    functions = {"from_pixel_values", "load_certificate", "load_certificates", "load_features"}
    assert set(fsfast.__all__) == errors | classes | functions | {"__version__"}
    assert set(fsfast.bounds.__all__) == {
        *("MeanMethod", "SequentialMean", "SequentialProportion"),
        *("mean_lower_bound", "perpendicular_upper_bound", "proportion_lower_bound"),
    }
    for module in (fsfast, fsfast.bounds):
        for name in module.__all__:
            assert getattr(module, name) is not None


def test_the_function_has_its_name(certificate):
    assert certificate.profile.function_id(certificate.engine_digest) == certificate.function_id
    assert certificate.function_id == "a055d1d9e64173c5819a3fca66bb58087e3ab5a44a8d8eec68b39057c9b1cb46"


def test_the_engine_has_its_digest(encoder, certificate):
    assert encoder.engine_digest == certificate.engine_digest


def test_a_secret_gives_its_seeds(encoder, certificate):
    assert encoder.encode(FOLDER / "image.png", n0=1).seeds == (SERVING_SEED,)
    (item,), _ = to_grid(FOLDER / "image.png", encoder.manifest.grid)
    # The plan's repr is part of the seed: names, order and defaults of its fields.
    plan = plan_of(200, 1e-2, "mixture", None, None, None, False)
    seeds = Seeds(SECRET, certificate.engine_digest, certificate.sigma)
    context = (certificate.function_id, certificate.anchor.sha256, plan)
    assert seeds.certification(item, *context) == (certificate.seed, "secret")


def test_the_certificate_is_written_as_it_was(certificate, tmp_path):
    certificate.save(tmp_path / "again.json")
    again, before = (
        json.loads(path.read_text()) for path in (tmp_path / "again.json", FOLDER / "certificate.json")
    )
    assert again == before


def test_the_bits_are_the_same(encoder, certificate):
    found = encoder.verify(certificate, FOLDER / "image.png")
    assert found.verdict != "different"
    if encoder.function_id != certificate.function_id:
        pytest.skip("bits belong to another back end, version or processor: " + "; ".join(found.details))
    assert found.verdict == "same"
    again = encoder.certify(FOLDER / "image.png", n=200, alpha=1e-2)
    np.testing.assert_array_equal(again.scores, certificate.scores)
    assert again.constants == certificate.constants
