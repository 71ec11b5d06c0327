"""Philox4x32-10: the published known answers, and every instruction set against the reference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsfast.kernels import _cpu, reference

# Random123, tests/kat_vectors: counter, key, answer.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
SETS = range(len(_cpu.INSTRUCTION_SETS))


def words(text: str) -> np.ndarray:
    return np.array([int(word, 16) for word in text.split()], np.uint32)


@pytest.mark.parametrize("philox", [_cpu.philox, reference.philox])
@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_known_answers(philox, counter, key, answer):
    k0, k1 = (int(word) for word in words(key))
    assert philox(k1 << 32 | k0, words(counter)[None]).tolist() == [words(answer).tolist()]


@given(
    seed=st.integers(0, 2**64 - 1),
    first=st.integers(0, 2**32 - 1),
    sample=st.integers(0, 2**32 - 1),
    stream=st.integers(0, 2**32 - 1),
    count=st.integers(1, 100),
)
def test_every_instruction_set_agrees(seed, first, sample, stream, count):
    counters = np.zeros((count, 4), np.uint32)
    counters[:, 0] = (first + np.arange(count)) % 2**32
    counters[:, 1:3] = sample, stream
    wanted = reference.philox(seed, counters)
    for place in SETS:
        got = _cpu.philox_blocks(seed, first, sample, stream, count, place)
        np.testing.assert_array_equal(got, wanted)


def test_what_every_processor_runs_comes_first():
    # The first one is what other processors run; it is tested everywhere.
    assert _cpu.INSTRUCTION_SETS[0] in ("sse2", "neon", "plain")
