"""noisy_batch: bit-equal to the reference however it is called, and of the distribution that it claims."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.thresholds import gaussian_thresholds
from fsfast.kernels import NoiseTables, Rows, _cpu, cpu, noise_tables, noisy_batch, reference
from fsfast.kernels.float_guide import bucket, dropped_bits, field_bits, fraction_bits

SCALE, OFFSET = np.array([0.0146, 0.0150, 0.0142]), np.array([-1.79, -1.75, -1.48])
DTYPES = ["float32", "float16", "bfloat16"]
LAYOUTS = ["nchw", "nhwc"]
# (H, W, why)
SIZES = [
    (1, 1, "one pixel: three elements in one block"),
    (3, 5, "odd: channels begin inside of a block"),
    (31, 33, "odd, several vector blocks"),
    (64, 64, "one run per channel, whole vector blocks"),
    (65, 67, "more than one run, the last one short"),
]


def tables(
    sigma: float = 0.25, dtype: str = "float32", scale: np.ndarray = SCALE, offset: np.ndarray = OFFSET
) -> NoiseTables:
    return noise_tables(gaussian_thresholds(sigma), scale, offset, dtype)


def images(batch: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


def make_rows(image, seed, sample) -> Rows:
    return Rows(np.array(image, np.int32), np.array(seed, np.uint64), np.array(sample, np.uint32))


def bits(array: np.ndarray) -> np.ndarray:
    return array.view(np.dtype(f"u{array.itemsize}"))


ROWS = make_rows([0, 1, -1, 1, 0], [0, 2**64 - 1, 5, 2**32, 7], [0, 2**32 - 1, 1, 3, 4])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("height", "width", "why"), SIZES)
def test_equals_the_reference(height, width, why, dtype, layout):
    noise, pictures = tables(dtype=dtype), images(2, height, width)
    wanted = reference.noisy_batch(pictures, ROWS, 3, noise, layout=layout)
    for threads in (1, 2, 5):
        out = np.full_like(wanted, 77)
        got = noisy_batch(pictures, ROWS, 3, noise, layout=layout, out=out, threads=threads)
        assert got is out
        np.testing.assert_array_equal(bits(got), bits(wanted), err_msg=why)


@pytest.mark.parametrize("sigma", [0.0005, 0.01, 0.12, 1.0, 4.0])
def test_equals_the_reference_for_every_sigma(sigma):
    # The guide has another resolution for each; at 4.0 some elements need bisection.
    noise, pictures = tables(sigma), images(2, 40, 41)
    wanted = reference.noisy_batch(pictures, ROWS, 0, noise)
    np.testing.assert_array_equal(noisy_batch(pictures, ROWS, 0, noise), wanted)


def unchecked(pictures, noise, **options):
    """The arguments of the compiled function."""
    tables_ = {name: getattr(noise, name) for name in ("thresholds", "guide", "values", "lines")}
    rows = {"row_image": ROWS.image, "row_seed": ROWS.seed, "row_sample": ROWS.sample}
    fixed = {"images": pictures, "stream": 1, "threads": 1, "instruction_set": 0, "layout": "nchw"}
    return {**fixed, **rows, **tables_, **options}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "shape", [(1, 1), (5, 3, 4, 5), (5, 4, 5), (5, 3, 5, 4), (5, 60), (300,), (1, 5, 3, 20)]
)
def test_the_compiled_function_writes_nowhere_else(shape, layout):
    """It is private, and still checks the shape that it writes to."""
    pictures = images(2, 4, 5)
    if shape == ((len(ROWS), 3, 4, 5) if layout == "nchw" else (len(ROWS), 4, 5, 3)):
        pytest.skip("the right shape")
    with pytest.raises(ValueError, match="out shape"):
        _cpu.noisy_batch(**unchecked(pictures, tables(), layout=layout, out=np.empty(shape, np.float32)))


@pytest.mark.parametrize("place", range(len(_cpu.INSTRUCTION_SETS)))
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_instruction_set_gives_the_same_bits(place, dtype, layout):
    noise, pictures = tables(dtype=dtype), images(2, 65, 67)
    wanted = noisy_batch(pictures, ROWS, 1, noise, layout=layout)
    got = np.empty_like(wanted)
    _cpu.noisy_batch(**unchecked(pictures, noise, layout=layout, out=got, instruction_set=place))
    np.testing.assert_array_equal(bits(got), bits(wanted))


@settings(max_examples=30)
@given(
    data=st.data(),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    stream=st.integers(0, 2**32 - 1),
    threads=st.integers(1, 4),
)
def test_a_row_does_not_depend_on_its_neighbours(data, height, width, stream, threads):
    noise, pictures = tables(0.1), images(3, height, width)
    row = st.tuples(st.integers(-1, 2), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))
    drawn = data.draw(st.lists(row, min_size=1, max_size=6))
    together = noisy_batch(pictures, make_rows(*zip(*drawn, strict=True)), stream, noise, threads=threads)
    for i, (image, seed, sample) in enumerate(drawn):
        alone = noisy_batch(
            pictures[max(image, 0)][None], make_rows([min(image, 0)], [seed], [sample]), stream, noise
        )
        np.testing.assert_array_equal(alone[0], together[i])


def test_any_strides_without_copying():
    noise = tables()
    base = np.random.default_rng(2).integers(0, 256, (4, 3, 80, 90), dtype=np.uint8)
    views = {
        "planar": base.transpose(0, 2, 3, 1),
        "negative": base.transpose(0, 2, 3, 1)[::-1, ::-1, ::-1, ::-1],
        "steps": base.transpose(0, 2, 3, 1)[::2, 5:70:3, 2:81:2],
        "crop": np.ascontiguousarray(base.transpose(0, 2, 3, 1))[:, 7:50, 3:61],
        "broadcast": np.broadcast_to(base.transpose(0, 2, 3, 1)[:1, :1], (2, 6, 90, 3)),
    }
    for name, view in views.items():
        rows = make_rows([1, 0], [3, 4], [5, 6])
        wanted = noisy_batch(np.ascontiguousarray(view), rows, 0, noise)
        np.testing.assert_array_equal(noisy_batch(view, rows, 0, noise), wanted, err_msg=name)


def test_layouts_hold_the_same_values():
    noise, pictures = tables(), images(2, 33, 35)
    nchw, nhwc = (noisy_batch(pictures, ROWS, 0, noise, layout=layout) for layout in LAYOUTS)
    np.testing.assert_array_equal(nchw, nhwc.transpose(0, 3, 1, 2))


def test_padding_is_zero_and_empty_works():
    noise, pictures = tables(), images(1, 4, 4)
    assert not noisy_batch(pictures, make_rows([-1], [1], [1]), 0, noise).any()
    assert noisy_batch(pictures, make_rows([], [], []), 0, noise).shape == (0, 3, 4, 4)
    assert noisy_batch(pictures[:0], make_rows([-1], [1], [1]), 0, noise).shape == (1, 3, 4, 4)


def crafted(uniform: np.ndarray, reach: int, change: dict[int, int]) -> NoiseTables:
    """Tables whose thresholds are the uniform numbers of some elements plus a small change."""
    spread = np.linspace(2**40, 2**64 - 2**40, 2 * reach - len(change)).astype(np.uint64)
    exact = np.array([int(uniform[e]) + d for e, d in change.items()], np.uint64)
    thresholds = np.sort(np.concatenate([spread, exact]))
    return noise_tables(thresholds, np.ones(3), np.zeros(3), "float32")


def test_the_low_word_decides():
    pictures = np.zeros((1, 8, 8, 3), np.uint8)
    rows, elements = make_rows([0], [99], [4]), [0, 17, 63, 64, 130, 191]
    uniform = reference.uniform_bits(99, 4, 2, 192)
    # A threshold that equals U counts, one that is larger by 1 in the low word does not.
    equal, above, below = (dict.fromkeys(elements, d) for d in (0, 1, -1))
    results = {}
    for name, change in (("equal", equal), ("above", above), ("below", below)):
        noise = crafted(uniform, 20, change)
        assert (noise.thresholds >> 32).tolist() == (crafted(uniform, 20, equal).thresholds >> 32).tolist()
        results[name] = noisy_batch(pictures, rows, 2, noise).ravel()
        np.testing.assert_array_equal(results[name], reference.noisy_batch(pictures, rows, 2, noise).ravel())
    np.testing.assert_array_equal(results["equal"], results["below"])
    np.testing.assert_array_equal(np.flatnonzero(results["equal"] != results["above"]), elements)


def test_several_thresholds_with_one_high_word():
    # Four thresholds around one U, as in the far tails: the count must land between the right ones.
    pictures = np.zeros((1, 4, 4, 3), np.uint8)
    rows, element = make_rows([0], [7], [0]), 21
    uniform = reference.uniform_bits(7, 0, 0, 48)
    u = int(uniform[element])
    spread = np.linspace(2**40, 2**64 - 2**40, 16).astype(np.uint64)
    counts = set()
    for shift in (-2, -1, 0, 1, 2, 3):
        around = np.array([u + shift + d for d in (-2, -1, 0, 0)], np.uint64)
        noise = noise_tables(np.sort(np.concatenate([spread, around])), np.ones(3), np.zeros(3), "float32")
        got = noisy_batch(pictures, rows, 0, noise)
        np.testing.assert_array_equal(got, reference.noisy_batch(pictures, rows, 0, noise))
        counts.add(float(got.ravel()[element]))
    assert len(counts) == 4


def test_ends_of_the_range():
    # Thresholds at the very ends: U = 0 and U = 2^64 − 1 are the extreme buckets of the guide.
    pictures, rows = images(1, 64, 64), make_rows([0], [1], [0])
    for thresholds in ([0, 0], [0, 2**64 - 1], [2**64 - 1] * 2, [1, 2**63], [], [2**63 - 1, 2**63] * 2):
        noise = noise_tables(np.sort(np.array(thresholds, np.uint64)), np.ones(3), np.zeros(3), "float32")
        wanted = reference.noisy_batch(pictures, rows, 0, noise)
        np.testing.assert_array_equal(noisy_batch(pictures, rows, 0, noise), wanted)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=60), st.integers(0, 2**64 - 1))
def test_any_ascending_thresholds(thresholds, seed):
    # Not only those of a Gaussian: unsymmetric, crowded, repeated.
    even = np.sort(np.array(thresholds[: len(thresholds) // 2 * 2], np.uint64))
    noise = noise_tables(even, np.ones(3), np.zeros(3), "float32")
    pictures, rows = np.zeros((1, 9, 9, 3), np.uint8), make_rows([0], [seed], [0])
    wanted = reference.noisy_batch(pictures, rows, 0, noise)
    np.testing.assert_array_equal(noisy_batch(pictures, rows, 0, noise), wanted)


def test_samples_streams_and_seeds_draw_other_blocks():
    # No 128-bit counter under one key is used twice: different numbers give unrelated noise.
    noise, pictures = tables(), np.zeros((1, 32, 32, 3), np.uint8)
    drawn = [
        noisy_batch(pictures, make_rows([0], [seed], [sample]), stream, noise).ravel()
        for seed in (0, 1, 2**32, 2**63)
        for sample in (0, 1, 2**31)
        for stream in (0, 1, 2, 3)
    ]
    correlation = np.corrcoef(drawn) - np.eye(len(drawn))
    # 3072 values each: standard deviation 0.018; a repeated block would show 1.
    assert np.abs(correlation).max() < 0.11


def test_counters_never_repeat():
    # The counters of noise vectors of one image, as the reference builds them: all blocks differ.
    seen = set()
    for sample in range(3):
        for stream in range(4):
            uniform = reference.uniform_bits(1, sample, stream, 400)
            seen |= set(uniform.tolist())
    assert len(seen) == 3 * 4 * 400


def chi_square(sigma: float, samples: int, drawn_with: np.ndarray | None = None) -> float:
    """Return the p-value of N against its exact probabilities; rare values are pooled."""
    from scipy.stats import chisquare

    thresholds = gaussian_thresholds(sigma)
    noise = noise_tables(thresholds if drawn_with is None else drawn_with, np.ones(3), np.zeros(3), "float32")
    pictures = np.zeros((1, 1024, 1024, 3), np.uint8)
    counts = np.zeros(len(thresholds) + 1, np.int64)
    drawn, out = 0, None
    while drawn < samples:
        out = noisy_batch(pictures, make_rows([0], [12345], [drawn % 2**32]), 0, noise, out=out, threads=2)
        level = np.clip(out.ravel().astype(np.int64) + len(thresholds) // 2, 0, len(thresholds))
        counts += np.bincount(level, minlength=len(counts))
        drawn += out.size
    edges = np.concatenate([[0.0], thresholds / 2.0**64, [1.0]])
    # The upper half by symmetry: differences near 1 have no digits.
    probability = np.diff(edges[: len(thresholds) // 2 + 2])
    probability = np.concatenate([probability[:-1], [1 - 2 * probability[:-1].sum()], probability[-2::-1]])
    common = drawn * probability >= 10
    observed = np.append(counts[common], counts[~common].sum())
    expected = np.append(drawn * probability[common], drawn * probability[~common].sum())
    return float(chisquare(observed, expected * observed.sum() / expected.sum()).pvalue)


@pytest.mark.parametrize("sigma", [0.004, 0.12, 0.25, 0.5, 1.0])
def test_distribution(sigma):
    assert chi_square(sigma, 3_000_000) > 1e-4


@pytest.mark.parametrize("sigma", [0.25, 1.0])
def test_distribution_of_a_hundred_million_samples(sigma):
    assert chi_square(sigma, 100_000_000) > 1e-4


def test_a_wrong_distribution_is_noticed():
    # The test above must have the power to see a sigma that is off by one percent.
    exact, wrong = gaussian_thresholds(0.25), gaussian_thresholds(0.25 * 1.01)
    assert chi_square(0.25, 3_000_000, drawn_with=wrong) < 1e-4
    assert len(wrong) != len(exact)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"images": images(1, 4, 4).astype(np.float32)}, TypeError, "uint8"),
        ({"images": images(1, 4, 4)[..., :2]}, ValueError, "shape"),
        ({"rows": make_rows([1], [0], [0])}, ValueError, "indices"),
        ({"rows": make_rows([-2], [0], [0])}, ValueError, "indices"),
        (
            {"rows": Rows(np.zeros(1, np.int64), np.zeros(1, np.uint64), np.zeros(1, np.uint32))},
            TypeError,
            "int32",
        ),
        ({"rows": make_rows([0], [0, 1], [0])}, ValueError, "seed"),
        ({"stream": -1}, ValueError, "stream"),
        ({"stream": 2**32}, ValueError, "stream"),
        ({"layout": "chwn"}, ValueError, "layout"),
        ({"threads": 0}, ValueError, "threads"),
        ({"out": np.empty((1, 3, 4, 5), np.float32)}, ValueError, "out"),
        ({"out": np.empty((1, 3, 4, 4), np.float16)}, TypeError, "float32"),
        ({"out": np.empty((1, 3, 4, 8), np.float32)[..., ::2]}, ValueError, "contiguous"),
    ],
)
def test_wrong_arguments_are_refused(change, error, words):
    arguments = {"images": images(1, 4, 4), "rows": make_rows([0], [0], [0]), "stream": 0, "noise": tables()}
    with pytest.raises(error, match=words):
        noisy_batch(**{**arguments, **change})


def test_a_guide_that_points_outside_is_refused():
    # Tables come from noise_tables; hand-made ones must not read or write out of bounds.
    noise, pictures, rows = tables(), images(1, 4, 4), make_rows([0], [0], [0])
    for guide in (noise.guide | np.uint32(2**31), noise.guide[1:].copy(), noise.guide[:1024].copy()):
        with pytest.raises(ValueError, match="guide"):
            noisy_batch(pictures, rows, 0, replace(noise, guide=guide))


@pytest.mark.parametrize("sigma", [0.01, 0.25, 4.0])
def test_every_entry_of_a_guide_is_checked(sigma):
    noise, pictures, rows = tables(sigma), images(1, 4, 4), make_rows([0], [0], [0])
    words = np.random.default_rng(0).integers(0, 2**32, 20, dtype=np.uint32)
    high = np.concatenate([words, np.array([0, 1, 2, 2**31 - 1, 2**31, 2**32 - 1], np.uint32)])
    count, fraction = len(noise.thresholds), fraction_bits(len(noise.guide))
    field = field_bits(count)
    for place, word in zip(bucket(high, fraction), high, strict=True):
        guide = noise.guide.copy()
        found = (int(guide[place]) + (int(word) >> dropped_bits(fraction, field))) % 2**32 >> field
        guide[place] = (int(guide[place]) + (count + 1 - found << field)) % 2**32
        with pytest.raises(ValueError, match="guide"):
            noisy_batch(pictures, rows, 0, replace(noise, guide=guide))


def test_bisection_finds_what_the_guide_finds():
    # Thresholds that lie too densely have an empty guide.
    noise, pictures = tables(), images(2, 65, 67)
    wanted = noisy_batch(pictures, ROWS, 0, noise)
    np.testing.assert_array_equal(
        noisy_batch(pictures, ROWS, 0, replace(noise, guide=noise.guide[:0])), wanted
    )


@pytest.mark.parametrize("place", range(len(_cpu.INSTRUCTION_SETS)))
@pytest.mark.parametrize("sigma", [0.0005, 0.12, 0.25, 0.5])
def test_values_on_a_line_are_those_of_the_table(monkeypatch, place, sigma):
    noise, pictures = tables(sigma, scale=np.full(3, 2 / 255), offset=np.full(3, -1.0)), images(2, 65, 67)
    assert len(noise.lines) == 3
    monkeypatch.setattr(cpu, "_SET", place)
    looked_up = noisy_batch(pictures, ROWS, 0, replace(noise, lines=noise.lines[:0]))
    np.testing.assert_array_equal(noisy_batch(pictures, ROWS, 0, noise), looked_up)


def test_lines_of_another_shape_are_refused():
    noise, pictures, rows = tables(), images(1, 4, 4), make_rows([0], [0], [0])
    with pytest.raises(ValueError, match="lines"):
        noisy_batch(pictures, rows, 0, replace(noise, lines=np.zeros((3, 4), np.float32)))
