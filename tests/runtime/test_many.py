"""Any number of images, one after the other: same bits as a list, in order, and one bad image sinks no other."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fsfast
from fsfast.runtime.serving import GROUP
from tests.written_before import FOLDER


@pytest.fixture(scope="module")
def encoder():
    with fsfast.SmoothedEncoder(FOLDER / "engine", backend="onnxruntime", micro_batch=3) as encoder:
        yield encoder


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    # More than one group, and the last one not full.
    return [rng.integers(0, 256, (9, 8 + i % 3, 3), np.uint8) for i in range(GROUP + 3)]


def test_a_generator_gives_the_bits_of_encode(encoder, images):
    seeds = range(len(images))
    whole = encoder.encode(images, 2, seeds=seeds, raw_mean=True)
    outcomes = list(encoder.encode_iter(iter(images), 2, seeds=itertools.count(), raw_mean=True))
    assert [outcome.position for outcome in outcomes] == list(seeds)
    for name in ("features", "unit", "raw_mean", "seeds"):
        parts = np.concatenate([getattr(outcome.result, name) for outcome in outcomes])
        assert np.array_equal(parts, getattr(whole, name)), name
    assert tuple(outcome.result.grid_sha256[0] for outcome in outcomes) == whole.grid_sha256


def test_results_come_while_images_still_arrive(encoder, images):
    taken = []
    endless = (taken.append(i) or images[i % len(images)] for i in itertools.count())
    next(encoder.encode_iter(endless, 1))
    assert len(taken) == GROUP


def test_names_and_sources_stand_beside_the_rows(encoder, photograph, images):
    found = [o.result for o in encoder.encode_iter([photograph, images[0]], 1)]
    assert found[0].names == (str(photograph),)
    assert found[0].sources[0]["sha256"] == fsfast.files.file_sha256(photograph)
    assert found[0].sources[0]["steps"]
    assert found[1].names == (None,)


def with_bad_ones(images, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    return [images[0], tmp_path / "broken.png", images[1], None, images[2]]


def test_errors_are_returned_in_their_place(encoder, images, tmp_path):
    given = with_bad_ones(images, tmp_path)
    outcomes = list(encoder.encode_iter(given, 1, seeds=range(5), on_error="return"))
    assert [type(outcome.error).__name__ for outcome in outcomes] == [
        *("NoneType", "ImageError", "NoneType", "TypeError", "NoneType")
    ]
    assert outcomes[1].name == str(tmp_path / "broken.png")
    # A seed belongs to its place, whatever became of the others.
    assert [int(o.result.seeds[0]) for o in outcomes if o.result] == [0, 2, 4]


def test_errors_are_skipped(encoder, images, tmp_path):
    given = with_bad_ones(images, tmp_path)
    assert [o.position for o in encoder.encode_iter(given, 1, on_error="skip")] == [0, 2, 4]
    assert [o.position for o in encoder.certify_iter(given, 5, on_error="skip")] == [0, 2, 4]


def test_an_error_is_raised_after_what_came_before_it(encoder, images, tmp_path):
    given = with_bad_ones(images, tmp_path)
    for outcomes in (encoder.encode_iter(given, 1), encoder.certify_iter(given, 5)):
        assert next(outcomes).position == 0
        with pytest.raises(fsfast.ImageError, match=r"image 1 \(counted from 0\): .*broken.png"):
            next(outcomes)


def test_certificates_are_those_of_certify(encoder, images):
    whole = encoder.certify(images[:2], 20, seeds=[5, 6])
    for stated, outcome in zip(whole, encoder.certify_iter(images[:2], 20, seeds=[5, 6]), strict=True):
        assert outcome.result.to_record() == stated.to_record()


def test_what_was_served_is_certified(encoder, images):
    served = {o.result.grid_sha256[0]: o.result for o in encoder.encode_iter(images[:2], 1)}
    outcomes = list(encoder.certify_iter(images[:3], 5, served=served, on_error="return"))
    for outcome in outcomes[:2]:
        assert outcome.result.anchor.seed == int(served[outcome.result.grid_sha256].seeds[0])
    assert isinstance(outcomes[2].error, fsfast.CertificateError)


@pytest.mark.parametrize("single", ["a.png", Path("a.png"), Image.new("RGB", (4, 4)), np.zeros((4, 4, 3)), 7])
def test_a_single_image_is_refused_at_once(encoder, single):
    for call in (encoder.encode_iter, encoder.certify_iter):
        with pytest.raises(TypeError, match="put it into a list"):
            call(single)


def test_other_arguments_are_checked_at_once(encoder, images):
    with pytest.raises(ValueError, match="on_error"):
        encoder.encode_iter(images, on_error="ignore")
    with pytest.raises(ValueError, match="n0"):
        encoder.encode_iter(images, 0)
    with pytest.raises(ValueError, match="alpha"):
        encoder.certify_iter(images, alpha=2)
    with pytest.raises(ValueError, match="a seed for every image, got only 1"):
        list(encoder.encode_iter(images, seeds=[1]))


def test_batches_are_spliced_in(encoder, images):
    batch = np.stack([images[0], images[3]])
    assert [o.position for o in encoder.encode_iter([batch, images[1]], 1)] == [0, 1, 2]
    assert len(list(encoder.encode_iter(batch, 1))) == 2


def test_progress_is_counted_in_images(encoder, images, tmp_path):
    told = []
    list(encoder.encode_iter(with_bad_ones(images, tmp_path), 4, on_error="skip", progress=told.append))
    assert sum(told) == pytest.approx(5)
    assert any(0 < step < 1 for step in told)
    told.clear()
    encoder.certify(images[:2], 10, progress=told.append)
    # Sampling that stops early is a whole image, too.
    list(encoder.certify_iter(images[2:4], epsilon=0.01, n_max=4000, progress=told.append))
    assert sum(told) == pytest.approx(4)


def test_a_direction_is_restored_exactly(encoder, images, tmp_path):
    for anchor in ("served", "clean"):
        certificate = encoder.certify(images[0], 10, anchor=anchor)
        certificate.save(tmp_path / "c.json")
        back = encoder.restore_direction(fsfast.load_certificate(tmp_path / "c.json"), images[0])
        assert np.array_equal(back.direction, certificate.direction)
    with pytest.raises(fsfast.CertificateError, match="pixels on the grid differ"):
        encoder.restore_direction(certificate, images[1])
