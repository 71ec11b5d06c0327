"""Whose rows come next, what they become, and that every future ends; on a stand-in whose steps are counted."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import CancelledError, wait
from contextlib import contextmanager

import numpy as np
import pytest

pytest.importorskip("prometheus_client", reason="the server needs the extra [serve]")

from fsfast.kernels.types import FeatureSums
from fsfast.runtime.function import Served, served
from fsfast.runtime.pipeline import Scores
from fsfast.runtime.sampling import Stream, micro_batches
from fsfast.serve.errors import EngineFailed, QueueFull, Stopping, TooLarge
from fsfast.serve.scheduler import Scheduler, Work
from tests.serve.stand_in import DIM, function, image, wanted

ENDLESS = 1 << 30


@contextmanager
def scheduler(threads=1, max_rows=1 << 20, **options):
    """Yield a scheduler and its pipeline."""
    stand_in = function(ahead=threads + 1, **options)
    opened = Scheduler(stand_in, threads, max_rows)
    try:
        yield opened, stand_in.pipeline
    finally:
        stand_in.pipeline.step(ENDLESS)
        opened.close()


def ask(opened, seeds, client="a", n0=4):
    opened.admit(len(seeds) * n0)
    return opened.serve([image()] * len(seeds), seeds, n0, client)


def until(condition):
    """Wait for another thread."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize("micro_batch", [1, 4, 8])
@pytest.mark.parametrize("before", [0, 7, 40])
def test_a_single_image_waits_for_two_micro_batches_of_a_backlog_at_most(micro_batch, before):
    with scheduler(micro_batch=micro_batch) as (opened, pipeline):
        backlog = ask(opened, range(1, 501), "many")
        pipeline.step(before)
        until(lambda: pipeline.done == before)
        (single,) = ask(opened, [7777], "one")
        pipeline.step(-(-4 // micro_batch) + 2)
        assert np.array_equal(single.result(timeout=30).unit, wanted(7777, 4))
        assert not backlog[-1].done()


def test_a_client_who_asks_again_and_again_gets_no_more_than_its_share():
    with scheduler() as (opened, pipeline):
        ask(opened, range(1, 501), "many")
        pipeline.step(8)
        until(lambda: pipeline.done == 8)
        for seed in range(1000, 1050):
            (single,) = ask(opened, [seed], "again")
            while not single.done():
                steps = pipeline.done + 1
                pipeline.step(1)
                until(lambda steps=steps: pipeline.done == steps)
                time.sleep(0.001)
        again = sum(int(row[0]) >= 1000 for row in pipeline.rows)
        assert again == 50 * 4
        # As many rows of the other client in between, but for its first turn.
        assert pipeline.done - 8 >= 2 * again - 4, (pipeline.done - 8, again)


def test_many_clients_share_evenly():
    with scheduler(micro_batch=2) as (opened, pipeline):
        clients = {name: ask(opened, range(100 * name, 100 * name + 50), str(name)) for name in range(1, 6)}
        pipeline.step(5 * 20)
        until(lambda: pipeline.done == 5 * 20)
        rows = np.concatenate(pipeline.rows) // 100
        assert all(abs(int((rows == name).sum()) - 40) <= 4 for name in clients)


def test_rows_of_many_requests_share_micro_batches():
    with scheduler(micro_batch=8) as (opened, pipeline):
        futures = [future for name in range(6) for future in ask(opened, [name + 1], str(name), n0=4)]
        pipeline.step(ENDLESS)
        for seed, future in enumerate(futures, 1):
            assert np.array_equal(future.result(timeout=30).unit, wanted(seed, 4))
        # The first may start alone.
        assert pipeline.done <= 4
        assert opened.counts.rows == 24


@pytest.mark.parametrize(("micro_batch", "threads"), [(1, 1), (3, 2), (8, 4)])
def test_whatever_comes_and_goes_every_future_ends_with_the_right_bits(micro_batch, threads):
    draw = random.Random(micro_batch)
    with scheduler(micro_batch=micro_batch, threads=threads) as (opened, pipeline):
        asked = []
        for seed in range(1, 151):
            n0 = draw.choice((1, 3, 4, 9, 40))
            (future,) = ask(opened, [seed], draw.choice("abcde"), n0)
            asked.append((seed, n0, future))
            if draw.random() < 0.3:
                draw.choice(asked)[2].cancel()
            pipeline.step(draw.randrange(4))
        pipeline.step(ENDLESS)
        wait([future for _, _, future in asked if not future.cancelled()], timeout=30)
        for seed, n0, future in asked:
            assert future.cancelled() or np.array_equal(future.result(timeout=0).unit, wanted(seed, n0))
        assert any(future.cancelled() for _, _, future in asked)
        assert opened.waiting_rows == 0
        until(lambda: len(opened._places.free) == opened._places.count)


def test_images_that_take_long_leave_room_for_others():
    with scheduler() as (opened, pipeline):
        for name in range(60):
            ask(opened, [name + 1], f"long {name}", n0=1000)
        pipeline.step(600)
        until(lambda: pipeline.done == 600)
        (single,) = ask(opened, [7777], "one")
        pipeline.step(4 + 2)
        assert np.array_equal(single.result(timeout=30).unit, wanted(7777, 4))


def test_what_is_too_much_is_refused_and_room_comes_back():
    with scheduler(max_rows=8) as (opened, pipeline):
        with pytest.raises(TooLarge, match="at most 8 rows"):
            opened.admit(9)
        first, _ = ask(opened, [1, 2])
        with pytest.raises(QueueFull, match="8 of 8 rows wait") as caught:
            opened.admit(1)
        assert caught.value.retry_after >= 1
        first.cancel()
        ask(opened, [3])
        with pytest.raises(QueueFull):
            opened.admit(1)
        pipeline.step(ENDLESS)
        until(lambda: opened.waiting_rows == 0)


def test_a_fault_ends_the_images_that_it_hits_and_no_others():
    with scheduler() as (opened, pipeline):
        futures = ask(opened, [1, 2, 3])
        pipeline.step(5)
        until(lambda: pipeline.done == 5)
        pipeline.fault = RuntimeError("out of order")
        pipeline.step(ENDLESS)
        assert np.array_equal(futures[0].result(timeout=30).unit, wanted(1, 4))
        with pytest.raises(EngineFailed, match="RuntimeError"):
            futures[1].result(timeout=30)
        assert np.array_equal(futures[2].result(timeout=30).unit, wanted(3, 4))
        assert opened.alive
        assert opened.waiting_rows == 0


def test_a_dead_thread_is_known_and_leaves_nobody_waiting():
    with scheduler() as (opened, pipeline):
        futures = ask(opened, [1, 2, 3])
        pipeline.fault = SystemExit()
        pipeline.step(1)
        for future in futures:
            with pytest.raises(EngineFailed, match="thread has ended"):
                future.result(timeout=30)
        until(lambda: not opened.alive)
        with pytest.raises(EngineFailed, match="thread has ended"):
            opened.admit(1)


def test_closing_leaves_nobody_waiting():
    with scheduler() as (opened, pipeline):
        futures = ask(opened, range(1, 50))
        work = certification(opened)
        pipeline.step(3)
        until(lambda: pipeline.done == 3)
        closing = threading.Thread(target=opened.close)
        closing.start()
        until(lambda: opened._closing)
        pipeline.step(ENDLESS)
        closing.join()
    # Its last row was in flight.
    assert futures[0].done()
    for future in [*futures[1:], work.future]:
        with pytest.raises(Stopping):
            future.result(timeout=0)
    with pytest.raises(Stopping):
        opened.admit(1)


def certification(opened, n=30, client="c"):
    """Ask for n samples of certification of one image."""
    size = opened._pipeline.micro_batch
    scores = Scores.blank(np.zeros((1, 1, DIM)), -(-n // size) * size)
    rows = micro_batches([99], n, size)
    images, sums = np.zeros((1, 2, 2, 3), np.uint8), FeatureSums.zeros(1, 1, DIM)
    work = Work(client, images, rows, Stream.CERTIFICATION, sums, scores, None)
    opened.certify(work)
    return work


@pytest.mark.parametrize("micro_batch", [1, 4])
def test_certification_yields_to_serving_and_keeps_its_bits(micro_batch):
    with scheduler(micro_batch=micro_batch) as (opened, pipeline):
        work = certification(opened, n=30)
        pipeline.step(3)
        until(lambda: pipeline.done == 3)
        (single,) = ask(opened, [5])
        # What is in flight, and then the image.
        pipeline.step(2 + -(-4 // micro_batch))
        assert np.array_equal(single.result(timeout=30).unit, wanted(5, 4))
        assert not work.future.done()
        pipeline.step(ENDLESS)
        work.future.result(timeout=30)
        assert np.array_equal(work.scores.values[:30], np.arange(30))
        assert np.array_equal(served(work.sums, 30).unit, wanted(99, 30))
        assert work.sums.count[0] == 30


def test_certificates_take_turns_and_can_be_cancelled():
    with scheduler() as (opened, pipeline):
        long, short, left = (
            certification(opened, 1000),
            certification(opened, 10),
            certification(opened, 1000),
        )
        left.future.cancel()
        pipeline.step(200)
        short.future.result(timeout=30)
        assert not long.future.done()
        with pytest.raises(CancelledError):
            left.future.result(timeout=0)
        pipeline.step(ENDLESS)
        long.future.result(timeout=30)
        until(lambda: opened.waiting_certificates == 0)
        assert left.done == 0


def test_on_a_device_whole_images_are_grouped():
    stand_in, groups = function(), []

    def serve(items, seeds, n0):
        groups.append((len(items), n0))
        unit = np.concatenate([wanted(seed, n0) for seed in seeds])
        return Served(unit, unit, None)

    stand_in.keeps_tensors, stand_in.serve = True, serve
    opened = Scheduler(stand_in, 1, 1 << 20)
    asked = [(seed, n0, *ask(opened, [seed], str(seed % 3), n0)) for seed in range(1, 41) for n0 in (4, 9)]
    for _, _, future in asked[::7]:
        future.cancel()
    for seed, n0, future in asked:
        assert future.cancelled() or np.array_equal(future.result(timeout=30).unit, wanted(seed, n0))
    opened.close()
    assert opened.waiting_rows == 0
    assert sum(size for size, _ in groups) == opened.counts.images
    assert max(size for size, _ in groups) > 1


def test_a_device_that_fails_fails_its_images():
    stand_in = function()
    stand_in.keeps_tensors, stand_in.serve = True, lambda *_: 1 / 0
    opened = Scheduler(stand_in, 1, 1 << 20)
    (future,) = ask(opened, [1])
    with pytest.raises(EngineFailed, match="ZeroDivisionError"):
        future.result(timeout=30)
    opened.close()
