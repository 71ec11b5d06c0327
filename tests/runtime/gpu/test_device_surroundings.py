"""What surrounds a call changes nothing: the caller's modes of torch, other threads, a fork."""

import os
import pickle
import threading
from itertools import product

import numpy as np
import pytest
import torch

from fsfast.errors import BackendUnavailable, FsfastError
from fsfast.images.grid import to_grid
from fsfast.runtime.gpu import pipeline as pipelines
from fsfast.runtime.sampling import Stream, micro_batches


@pytest.fixture
def encoder(opened):
    return opened()


@pytest.fixture
def wanted(encoder, picture):
    return encoder.encode(picture, 3, seeds=[1]).features


def test_an_encoder_opened_in_inference_mode_works_outside(opened, picture, wanted):
    """Its buffers would otherwise be tensors that nothing may write to."""
    with torch.inference_mode():
        other = opened()
        np.testing.assert_array_equal(other.encode(picture, 3, seeds=[1]).features, wanted)
    np.testing.assert_array_equal(other.encode(picture, 3, seeds=[1]).features, wanted)


def test_autocast_and_default_dtype_of_the_caller(opened, place, picture, wanted):
    """A language model is often made under both."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.autocast(place.type, torch.bfloat16):
            other = opened()
            got = other.encode(picture, 3, seeds=[1]).features
            clean = other.clean(picture)
    finally:
        torch.set_default_dtype(before)
    np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(clean, other.clean(picture))


def test_features_may_be_used_in_training(encoder, place, picture):
    """They are ordinary tensors, whatever mode they were made in."""
    (item,), _ = to_grid(picture, encoder.manifest.grid)
    images = torch.from_numpy(item.pixels.copy()).to(place)[None]
    with torch.inference_mode():
        features = encoder.encode_tensors(images, 2).features
    weight = torch.ones(features.shape[-1], device=features.device, requires_grad=True)
    (features * weight).sum().backward()
    assert weight.grad.any()


@pytest.mark.parametrize("m", [1, 2, 3, 4, 7])
def test_rows_begin_where_triton_expects_them(opened, m):
    """At multiples of 16 bytes: another alignment is another kernel, compiled while somebody waits."""
    encoder = opened(micro_batch=m, stages=("encoder",))
    pipeline = encoder._function.pipeline
    plan = list(micro_batches([5, 6], 9, m))
    for rows, sent in zip(plan, pipeline._row_tensors(plan), strict=True):
        for name in ("image", "seed", "sample"):
            tensor, array = getattr(sent, name), getattr(rows, name)
            assert tensor.data_ptr() % 16 == 0
            assert tensor.is_contiguous()
            np.testing.assert_array_equal(tensor.cpu().numpy().view(array.dtype), array)


def test_kernels_are_compiled_before_the_first_image(opened, monkeypatch):
    """Those around the networks as well: for serving, and for scores."""
    seen = []
    real = pipelines.cosine_mean

    def watched(features, rows, sums, *, anchor=None, per_token=False):
        seen.append((sums.raw is not None, anchor is not None, per_token))
        return real(features, rows, sums, anchor=anchor, per_token=per_token)

    monkeypatch.setattr(pipelines, "cosine_mean", watched)
    opened()
    assert set(seen) == set(product((False, True), repeat=3))


def test_memory_is_planned_before_the_self_test(opened, monkeypatch):
    """The self-test runs M rows: without a plan their lack would be an obscure error."""
    from fsfast.backends.device.memory import MemoryPlan
    from fsfast.runtime.gpu import opening

    monkeypatch.setattr(opening, "plan_memory", lambda *_: MemoryPlan(0, 10**9, 2 * 10**9, "a GPU"))
    monkeypatch.setattr(opening, "check_golden_once", lambda *_: pytest.fail("tested before it was planned"))
    with pytest.raises(BackendUnavailable, match="micro_batch=1 would fit"):
        opened()


def test_the_self_test_runs_one_micro_batch_at_a_time(opened, monkeypatch):
    """Two at once would need more than was planned."""
    from fsfast.backends.device import stages

    running, most = [], []
    real = stages.StageGraph.__init__

    def watched(self, stage, *rest):
        def counted(x):
            running.append(1)
            most.append(len(running))
            out = stage(x)
            running.pop()
            return out

        real(self, counted, *rest)

    monkeypatch.setattr(stages.StageGraph, "__init__", watched)
    opened(micro_batch=6)
    assert max(most) == 1


def test_closing_while_others_look(opened, picture):
    """`clean` and `sample` hold no result of the networks between their micro-batches."""
    encoder = opened(stages=("encoder",))
    outcomes = []

    def look():
        try:
            for _ in range(1000):
                encoder.clean(picture)
                encoder.sample(picture, seed=1)
                encoder.encode(picture, 2)
        except FsfastError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    encoder.close()
    for thread in threads:
        thread.join(timeout=60)
    assert len(outcomes) == 3
    assert all("closed" in outcome for outcome in outcomes)


def test_a_stream_that_is_left_alone_keeps_nothing_locked(encoder, picture, wanted):
    """Whoever stops reading scores half-way must not stop the others."""
    pipeline = encoder._function.pipeline
    images = pipeline.lane.upload(np.zeros((1, 64, 64, 3), np.uint8))
    chunks = pipeline.accumulate(images, micro_batches([1], 40, 4), Stream.SERVING, pipeline.empty_sums(1))
    next(chunks)
    np.testing.assert_array_equal(encoder.encode(picture, 3, seeds=[1]).features, wanted)


def test_a_fork_is_refused_in_words(encoder, place, picture):
    """Before CUDA says it in its own."""
    pipeline = encoder._function.pipeline
    pipeline._process = os.getpid() - 1
    images = torch.zeros((1, 64, 64, 3), dtype=torch.uint8, device=place)
    calls = (
        lambda: encoder.encode(picture, 1),
        lambda: encoder.encode_tensors(images),
        lambda: encoder.certify(picture, 2),
        lambda: encoder.clean(picture),
        lambda: encoder.sample(picture),
    )
    for call in calls:
        with pytest.raises(BackendUnavailable, match="fork"):
            call()


def test_errors_cross_processes():
    error = BackendUnavailable("wanted device 'cuda': no GPU")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), str(error))
