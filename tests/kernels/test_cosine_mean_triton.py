"""cosine_mean in Triton: the bits of the C++ kernel, in the interpreter or on a GPU."""

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from fsfast.kernels import FeatureSums, cpu, cuda, reference
from fsfast.kernels.casts import to_float32
from fsfast.kernels.cuda.settings import Setting
from fsfast.kernels.tensors import RowTensors, SumTensors
from tests.kernels.features import make_anchor, make_features, make_rows

pytestmark = [pytest.mark.triton, pytest.mark.gpu]

DTYPES = ["float32", "float16", "bfloat16"]
SMALL = (Setting(block=16, num_warps=1), Setting(block=64, num_warps=1))
# (M, L, D, why)
SHAPES = [
    (1, 1, 1, "one number"),
    (3, 1, 5, "fewer numbers than lanes"),
    (4, 3, 16, "exactly the lanes"),
    (5, 7, 63, "a rest of 15, a last program that is not full"),
    (2, 2, 200, "several chunks, and blocks of the sums"),
]


def run(device, features, rows, sums, *, anchor=None, per_token=False, tunings=SMALL):
    """Return the scores of arrays, and the sums that `sums` become."""
    if features.dtype == np.uint16:
        tensor = torch.from_numpy(features.view(np.int16)).view(torch.bfloat16)
    else:
        tensor = torch.from_numpy(features)
    images = len(sums.count) if sums is not None else len(anchor)
    given = None if sums is None else SumTensors.from_arrays(sums, device)
    scores = cuda.cosine_mean(
        tensor.to(device),
        RowTensors.from_arrays(rows, images, device),
        given,
        anchor=None if anchor is None else torch.from_numpy(anchor).to(device),
        per_token=per_token,
        tunings=tunings,
    )
    return None if scores is None else scores.cpu().numpy(), None if given is None else given.to_arrays()


def assert_same_sums(got: FeatureSums, wanted: FeatureSums, why: str = "") -> None:
    for name in ("unit", "norm", "count", "raw"):
        np.testing.assert_array_equal(getattr(got, name), getattr(wanted, name), err_msg=f"{name} {why}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "tokens", "dim", "why"), SHAPES)
def test_equals_the_cpu_kernel(device, m, tokens, dim, why, dtype):
    features, anchor = make_features(m, tokens, dim, dtype), make_anchor(3, tokens, dim)
    rows = make_rows([(i * 2) % 4 - 1 for i in range(m)])
    sums = FeatureSums.zeros(3, tokens, dim, raw=True)
    for per_token in (False, True):
        # The second time sums are added to what is there already.
        got, new = run(device, features, rows, sums, anchor=anchor, per_token=per_token)
        wanted = cpu.cosine_mean(features, rows, sums, anchor=anchor, per_token=per_token)
        np.testing.assert_array_equal(got, wanted, err_msg=why)
        assert_same_sums(new, sums, why)


def test_is_close_to_the_reference(device):
    features, anchor, rows = make_features(3, 2, 40), make_anchor(2, 2, 40), make_rows([1, 0, 1])
    sums = FeatureSums.zeros(2, 2, 40, raw=True)
    got, new = run(device, features, rows, sums, anchor=anchor)
    np.testing.assert_allclose(
        got, reference.cosine_mean(features, rows, sums, anchor=anchor), rtol=1e-12, atol=1e-15
    )
    for name in ("unit", "norm", "count", "raw"):
        np.testing.assert_allclose(getattr(new, name), getattr(sums, name), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "tunings", [(Setting(1, 1), Setting(16, 1)), (Setting(64, 4), Setting(1024, 8)), None]
)
def test_no_block_size_changes_a_bit(device, tunings):
    features, anchor, rows = make_features(4, 3, 70), make_anchor(2, 3, 70), make_rows([1, 0, 1, -1])
    sums = FeatureSums.zeros(2, 3, 70, raw=True)
    got, new = run(device, features, rows, sums, anchor=anchor, tunings=tunings)
    wanted = cpu.cosine_mean(features, rows, sums, anchor=anchor)
    np.testing.assert_array_equal(got, wanted)
    assert_same_sums(new, sums)


def test_neighbours_and_chunks_change_no_bit(device):
    features, anchor, image = make_features(5, 2, 33), make_anchor(2, 2, 33), [0, 1, 1, 0, 1]
    empty = FeatureSums.zeros(2, 2, 33, raw=True)
    scores, whole = run(device, features, make_rows(image), empty, anchor=anchor)
    first, parts = run(device, features[:2], make_rows(image[:2]), empty, anchor=anchor)
    second, parts = run(device, features[2:], make_rows(image[2:]), parts, anchor=anchor)
    np.testing.assert_array_equal(np.concatenate([first, second]), scores)
    assert_same_sums(parts, whole)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -np.inf])
def test_zero_and_non_finite_tokens_are_the_zero_vector(device, value):
    features, anchor = make_features(2, 3, 40), make_anchor(1, 3, 40)
    features[1, 1, slice(None) if value == 0 else 39] = value
    sums, rows = FeatureSums.zeros(1, 3, 40, raw=True), make_rows([0, 0])
    scores, new = run(device, features, rows, sums, anchor=anchor, per_token=True)
    wanted = cpu.cosine_mean(features, rows, sums, anchor=anchor, per_token=True)
    assert scores[1, 1] == 0.5 - 48 * 2.0**-52
    np.testing.assert_array_equal(scores, wanted)
    assert np.isfinite(new.unit).all()
    assert_same_sums(new, sums)


@pytest.mark.parametrize("magnitude", [3e38, 1.5e-45])
def test_huge_and_tiny_tokens_have_exact_directions(device, magnitude):
    # Squares would overflow or vanish in float32; denormal numbers must not be flushed to zero.
    features = np.full((1, 1, 100), magnitude, np.float32)
    _, sums = run(device, features, make_rows([0]), FeatureSums.zeros(1, 1, 100, raw=True))
    exact = float(features[0, 0, 0])
    np.testing.assert_allclose(sums.unit, 0.1, rtol=1e-12)
    np.testing.assert_allclose(sums.norm, 10 * exact, rtol=1e-12)
    np.testing.assert_array_equal(sums.raw, exact)


def test_scores_never_exceed_the_exact_ones(device):
    # Nearly parallel to the anchor, where a score above 1 would be easiest to get; and opposite to it.
    anchor = make_anchor(1, 3, 37)
    along = (anchor + 1e-7 * np.random.default_rng(3).standard_normal(anchor.shape)).astype(np.float32)
    features = np.concatenate([along, -along])
    unit = to_float32(features).astype(np.longdouble)
    unit /= np.sqrt((unit**2).sum(-1, keepdims=True))
    exact = ((1 + (unit * anchor.astype(np.longdouble)).sum(-1)) / 2).mean(-1)
    scores, _ = run(device, features, make_rows([0, 0]), None, anchor=anchor)
    assert (scores <= exact).all()
    assert (exact - scores <= 2 * (3 * 37 + 8) * 2.0**-52).all()
    axis = np.zeros((1, 3, 37))
    axis[..., 5] = 1
    # The slack would make it negative.
    assert run(device, -axis.astype(np.float32), make_rows([0]), None, anchor=axis)[0].tolist() == [0.0]


def test_padding_is_left_out(device):
    features, anchor = make_features(3, 2, 20), make_anchor(1, 2, 20)
    features[1] = np.nan
    sums = FeatureSums.zeros(1, 2, 20)
    scores, new = run(device, features, make_rows([0, -1, 0]), sums, anchor=anchor)
    assert np.isnan(scores).tolist() == [False, True, False]
    assert new.count.tolist() == [2]
    assert np.isfinite(new.unit).all()
    assert new.raw is None


def test_rows_that_name_no_image_read_nothing(device):
    features = torch.ones(2, 1, 4, device=device)
    rows = RowTensors.from_arrays(make_rows([0, 0]), 1, device)
    rows.image.copy_(torch.tensor([1, -5]))
    sums, anchor = SumTensors.zeros(1, 1, 4, device), torch.ones(1, 1, 4, dtype=torch.float64, device=device)
    assert cuda.cosine_mean(features, rows, sums, anchor=anchor, tunings=SMALL).isnan().all()
    assert not sums.unit.any()
    assert not sums.count.any()


def test_empty_batch(device):
    features, anchor = make_features(0, 3, 4), make_anchor(2, 3, 4)
    scores, sums = run(device, features, make_rows([]), FeatureSums.zeros(2, 3, 4), anchor=anchor)
    assert scores.shape == (0,)
    assert not sums.unit.any()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"features": torch.zeros(2, 3, 4, dtype=torch.float64)}, TypeError, "features"),
        ({"features": torch.zeros(2, 3, 8)[..., ::2]}, ValueError, "contiguous"),
        ({"features": torch.zeros(3, 3, 4)}, ValueError, "features"),
        ({"features": torch.zeros(2, 3, 0)}, ValueError, "dimension"),
        ({"sums": None}, ValueError, "neither"),
        ({"sums": SumTensors.zeros(1, 3, 5, "cpu")}, ValueError, "unit"),
        ({"anchor": torch.zeros(1, 2, 4, dtype=torch.float64)}, ValueError, "anchor"),
        ({"anchor": torch.zeros(1, 3, 4)}, TypeError, "anchor"),
        ({"anchor": torch.zeros(2, 3, 4, dtype=torch.float64)}, ValueError, "count"),
    ],
)
def test_wrong_arguments_are_refused(device, change, error, words):
    change = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in change.items()}
    if isinstance(sums := change.get("sums"), SumTensors):
        change["sums"] = SumTensors.from_arrays(sums.to_arrays(), device)
    arguments = {
        "features": torch.zeros(2, 3, 4, device=device),
        "rows": RowTensors.from_arrays(make_rows([0, 0]), 1, device),
        "sums": SumTensors.zeros(1, 3, 4, device),
    }
    with pytest.raises(error, match=words):
        cuda.cosine_mean(**{**arguments, **change})
