"""`make load` in small: hostile clients, bad pictures among good ones, more requests than there is room for."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("httpx", reason="the load tests need httpx")

from benchmarks.load import studies
from benchmarks.load.faults import grpc_faults, http_faults, many_half_open
from benchmarks.load.traffic import BAD_IMAGE, GOOD, REFUSED, Traffic, pictures


@pytest.fixture(scope="module")
def strict(start):
    """A server with room for sixteen pictures, small bodies, and little patience."""
    limits = {"--max-rows": 64, "--max-body-mb": 1, "--head-seconds": 2, "--body-seconds": 2}
    with start("demo", *(str(word) for pair in limits.items() for word in pair)) as server:
        yield server


@pytest.fixture(scope="module")
def files():
    return pictures(5, 64)


def test_hostile_clients_are_refused_and_hinder_nobody(strict, files):
    async def meet():
        return [
            *await http_faults(strict, files, 1_000_000),
            await many_half_open(strict, files),
            *await grpc_faults(strict, files),
        ]

    assert [fault for fault in asyncio.run(meet()) if not fault.right] == []


def test_good_pictures_among_bad_ones_have_the_same_bits_again_and_again(strict, files):
    tally = asyncio.run(Traffic(strict.url, "demo", files, bad_every=10).by_clients(8, 40))
    assert tally.outcomes == {GOOD: 36, BAD_IMAGE: 4}
    assert tally.wrong == 0


def test_what_there_is_no_room_for_is_refused_and_the_rest_is_right(strict, files):
    tally = asyncio.run(Traffic(strict.url, "demo", files).by_rate(rate=10_000, seconds=0.01))
    assert set(tally.outcomes) == {GOOD, REFUSED}
    assert tally.outcomes[GOOD] >= 16
    assert tally.wrong == 0


@pytest.mark.slow
def test_a_server_that_was_killed_comes_back_with_the_same_bits():
    endured = asyncio.run(studies.restart("demo", 24))
    assert endured.unreached > 0
    assert (endured.bad_images, endured.refused, endured.other, endured.wrong) == (0, 0, 0, 0)
    assert endured.good >= 24
