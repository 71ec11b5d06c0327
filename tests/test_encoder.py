"""SmoothedEncoder: what it computes, that its bits depend on nothing else, and what it refuses."""

from __future__ import annotations

import hashlib
import io
import pickle
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import fsfast
from fsfast.engine.engine import load_engine
from fsfast.errors import BackendUnavailable, CertificateError, EngineError, ImageError
from fsfast.images.grid import to_grid
from fsfast.kernels import noisy_batch, reference
from fsfast.kernels.types import FeatureSums, Rows
from fsfast.models.folded import load_folded
from fsfast.runtime.pipeline import Scores
from fsfast.runtime.sampling import micro_batches

SEED = 0x123456789ABCDEF0


@pytest.fixture(scope="module")
def demo():
    with fsfast.SmoothedEncoder("demo", threads=2) as encoder:
        yield encoder


@pytest.fixture(scope="module")
def pooled(pooled_path):
    with fsfast.SmoothedEncoder(pooled_path) as encoder:
        yield encoder


def by_hand(encoder, pixels, seed, stream, samples):
    """Raw and unit features of every sample by torch and the NumPy reference: [n, L, D] float64."""
    networks = load_folded(load_engine("demo"))
    (rows,) = micro_batches([seed], samples, samples)
    x_t = reference.noisy_batch(pixels[None], rows, stream, encoder._function.pipeline.noise)
    with torch.inference_mode():
        eps = networks["purifier"](torch.from_numpy(x_t)).numpy()
        d = encoder.manifest.denoise
        x0 = np.clip(d.a * x_t.astype(np.float64) - d.b * eps, -1, 1)
        mean, std = (np.array(v).reshape(3, 1, 1) for v in (encoder.manifest.mean, encoder.manifest.std))
        pixels_in = ((x0 + 1) / 2 - mean) / std
        tokens = networks["encoder"](torch.from_numpy(pixels_in.astype(np.float32)))
        raw = networks["mapper"](tokens).numpy().astype(np.float64)
    return raw, raw / np.linalg.norm(raw, axis=-1, keepdims=True)


def test_features_are_the_formula(demo, photograph):
    """encode = mean raw norm × direction of the mean unit feature, over n0 samples of the serving stream."""
    (item,), _ = to_grid(str(photograph), demo.manifest.grid)
    raw, unit = by_hand(demo, item.pixels, SEED, 0, 5)
    out = demo.encode(photograph, 5, seeds=[SEED], raw_mean=True)
    direction = unit.mean(0) / np.linalg.norm(unit.mean(0), axis=-1, keepdims=True)
    np.testing.assert_allclose(out.unit[0], direction, atol=2e-5)
    norm = np.linalg.norm(raw, axis=-1).mean(0)[:, None]
    np.testing.assert_allclose(out.features[0], direction * norm, atol=1e-4 * norm.max())
    np.testing.assert_allclose(out.raw_mean[0], raw.mean(0), atol=1e-4 * norm.max())


def test_scores_are_the_formula(demo, photograph):
    """Scores compare samples of the certification stream with the served direction."""
    (item,), _ = to_grid(str(photograph), demo.manifest.grid)
    certificate = demo.certify(photograph, n=6, seeds=[SEED])
    served = demo.encode(photograph, seeds=[SEED]).unit[0].astype(np.float64)
    _, unit = by_hand(demo, item.pixels, SEED, 1, 6)
    scores = (1 + (unit * served).sum(-1).mean(-1)) / 2
    np.testing.assert_allclose(certificate.scores, scores, atol=1e-5)


def test_bits_do_not_depend_on_threads_batches_or_neighbours(demo, pictures):
    """The promise of the runtime: same seed, same bits, alone or in a batch, with 1 or 2 threads."""
    seeds = [1, 2, 3]
    together = demo.encode(pictures, 5, seeds=seeds)
    with fsfast.SmoothedEncoder("demo", threads=1) as single:
        assert single.function_id == demo.function_id
        for i, picture in enumerate(pictures):
            alone = single.encode(picture, 5, seeds=[seeds[i]])
            np.testing.assert_array_equal(alone.features[0], together.features[i])
        one = single.certify(pictures[1], 50, seeds=[2])
    two = demo.certify(pictures, 50, seeds=seeds)[1]
    np.testing.assert_array_equal(one.scores, two.scores)
    assert one.to_record() | {"image": None} == two.to_record() | {"image": None}


def test_rows_of_a_micro_batch_do_not_affect_each_other(pictures):
    """With M = 3 rows of different images share a run of the graphs, and padding fills the last one."""
    with fsfast.SmoothedEncoder("demo", micro_batch=3, threads=2) as encoder:
        together = encoder.encode(pictures, 4, seeds=[1, 2, 3])
        for i, picture in enumerate(pictures):
            alone = encoder.encode(picture, 4, seeds=[i + 1])
            np.testing.assert_array_equal(alone.features[0], together.features[i])


def test_another_micro_batch_is_another_function(demo):
    with fsfast.SmoothedEncoder("demo", micro_batch=2) as other:
        assert other.function_id != demo.function_id


def test_sigma_is_in_pixel_units_before_any_normalisation(demo):
    """σ = 0.25 is 63.75 levels of 255 on the grid, whatever mean and std the encoder normalises by."""
    grey = np.full((64, 64, 3), 128, np.uint8)
    noise = np.stack([demo.sample(grey, seed=1, index=i).noisy.astype(float) - 128 for i in range(8)])
    assert noise.std() == pytest.approx(255 * demo.sigma, rel=0.01)
    assert abs(noise.mean()) < 1
    # Every sample is new: no two have noise in common.
    assert abs(np.corrcoef(noise.reshape(8, -1)) - np.eye(8)).max() < 0.05


def test_one_picture_twice_has_noise_of_its_own_each_time(demo, picture):
    out = demo.encode([picture, picture], 1)
    assert len(set(out.seeds.tolist())) == 2
    assert (out.features[0] != out.features[1]).any()
    assert out.grid_sha256[0] == out.grid_sha256[1]


@pytest.mark.parametrize(
    ("pixels", "says"),
    [
        (lambda x: x.astype(np.float32), r"floats in \[0, 1\], got 0 … 255; pass levels 0 … 255 as uint8"),
        (lambda x: (x / 255 - 0.5) / 0.25, r"normalised pixels through fsfast\.from_pixel_values"),
        (lambda x: x / 127.5 - 1, r"got -1 … 1; .*from_pixel_values"),
        (lambda x: x.astype(np.uint16), r"got uint16; .*astype\(np\.uint8\)"),
        # Noise is added here; who hands over noisy floats would get it twice.
        (lambda x: np.clip(x / 255 + 0.1 * np.sin(np.arange(x.size)).reshape(x.shape), 0, 1), "off the grid"),
    ],
    ids=["0 to 255", "normalised", "-1 to 1", "16 bits", "noisy"],
)
def test_pixels_in_other_units_are_refused_with_the_remedy(demo, pixels, says):
    levels = np.arange(64 * 64 * 3).reshape(64, 64, 3) % 256
    for call in (demo.encode, demo.certify, demo.prepare):
        with pytest.raises(ImageError, match=says):
            call(pixels(levels))


def test_rows_that_stay_idle_are_said(picture):
    with fsfast.SmoothedEncoder("demo", micro_batch=8, threads=2) as encoder:
        with pytest.warns(
            UserWarning, match=r"1 image × n0 = 4 leaves 4 of 8 rows idle.* at most 4, or encode more"
        ):
            encoder.encode(picture)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            encoder.encode([picture] * 2)
            encoder.encode(picture, 5)


def test_many_threads_may_share_an_encoder(demo, pictures):
    wanted = demo.encode(pictures, 3, seeds=[1, 2, 3]).features
    found: list[np.ndarray] = []

    def serve():
        for _ in range(4):
            found.append(demo.encode(pictures, 3, seeds=[1, 2, 3]).features)

    threads = [threading.Thread(target=serve) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert len(found) == 24
    assert all(np.array_equal(features, wanted) for features in found)


def test_a_large_batch_is_the_same_in_groups(pooled):
    images = np.random.default_rng(0).integers(0, 256, (37, 64, 64, 3), dtype=np.uint8)
    out = pooled.encode(images, 1, seeds=list(range(37)))
    assert out.features.shape == (37, pooled.manifest.dim)
    last = pooled.encode(images[36], 1, seeds=[36])
    np.testing.assert_array_equal(last.features[0], out.features[36])


def test_fresh_seeds_give_fresh_noise(demo, picture):
    a, b = demo.encode(picture), demo.encode(picture)
    assert a.seeds[0] != b.seeds[0]
    assert not np.array_equal(a.features, b.features)
    assert a.seed_origins == ("os",)
    assert np.array_equal(demo.encode(picture, seeds=a.seeds).features, a.features)


def test_a_secret_gives_no_free_redraw(picture, tmp_path):
    """The same pixels get the same noise, however the file is encoded; other pixels get other noise."""
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray(picture).save(tmp_path / "b.bmp")
    with fsfast.SmoothedEncoder("demo", secret="correct horse battery") as encoder:
        a, b, c = (encoder.encode(x) for x in (tmp_path / "a.png", tmp_path / "b.bmp", picture[::-1]))
        certificate = encoder.certify(picture, 5)
    assert a.seeds[0] == b.seeds[0] != c.seeds[0]
    assert a.seed_origins == ("secret",)
    assert certificate.seed != int(a.seeds[0])
    assert certificate.seed_origin == "secret"


def test_under_a_secret_the_served_direction_is_the_one_that_is_certified(picture):
    from fsfast.certificates.statement import anchor_hash

    with fsfast.SmoothedEncoder("demo", secret=b"x" * 32) as encoder:
        served = encoder.encode(picture)
        assert encoder.certify(picture, 5).anchor.sha256 == anchor_hash(served.unit[0])


def test_under_a_secret_certification_noise_is_fresh_for_every_anchor_and_setting(picture):
    """A certificate shows its seed: nothing certified later may use noise that is known by then."""
    with fsfast.SmoothedEncoder("demo", secret=b"x" * 32) as encoder:
        other = encoder.encode(picture, 2, seeds=[5])
        certificates = [
            encoder.certify(picture, 4),
            encoder.certify(picture, 5),
            encoder.certify(picture, 4, 1e-2),
            encoder.certify(picture, 4, method="product"),
            encoder.certify(picture, 4, anchor="clean"),
            encoder.certify(picture, 4, n0=2),
            encoder.certify(picture, 4, served=other),
        ]
        assert len({c.seed for c in certificates}) == len(certificates)
        assert encoder.certify(picture, 4).seed == certificates[0].seed


def test_one_image_of_a_batch(demo, pictures):
    served = demo.encode(pictures, 2, raw_mean=True)
    for i, picture in enumerate(pictures):
        one = served[i]
        assert len(one) == 1
        np.testing.assert_array_equal(one.features[0], served.features[i])
        assert demo.certify(picture, 5, served=one).anchor.seed == int(served.seeds[i])
    assert served[-1].grid_sha256 == served[2].grid_sha256
    with pytest.raises(IndexError):
        served[3]


def test_a_closed_encoder_says_so_every_time(picture):
    encoder = fsfast.SmoothedEncoder("demo", threads=2)
    encoder.encode(picture, 2)
    encoder.close()
    encoder.close()
    for _ in range(5):
        for call in (encoder.encode, encoder.clean, lambda x: encoder.certify(x, 3)):
            with pytest.raises(fsfast.FsfastError, match="closed"):
                call(picture)


def test_a_closed_encoder_says_nothing_else(demo, picture):
    """Whatever else is wrong with a call; and what it was can still be asked for."""
    encoder = fsfast.SmoothedEncoder("demo", threads=1)
    certificate = demo.certify(picture, 70)
    encoder.close()
    calls = {
        "encode": lambda: encoder.encode("missing.png", 0),
        "encode_tensors": lambda: encoder.encode_tensors(picture),
        "clean": lambda: encoder.clean(None),
        "sample": lambda: encoder.sample([]),
        "prepare": lambda: encoder.prepare(picture),
        "certify": lambda: encoder.certify("missing.png", 0),
        "verify": lambda: encoder.verify(certificate, picture),
        "certify_anew": lambda: encoder.certify_anew(certificate, picture),
        "with": encoder.__enter__,
    }
    for name, call in calls.items():
        with pytest.raises(fsfast.FsfastError) as caught:
            call()
        assert str(caught.value) == "the encoder is closed; open a new SmoothedEncoder", name
    assert encoder.closed
    assert repr(encoder).endswith("σ = 0.25, n0 = 4, 64×64 → 64×128, closed)")
    assert encoder.device == "cpu"


def test_what_an_encoder_is_can_be_asked_for(demo, pooled):
    assert (demo.n0, demo.tokens, demo.dim, demo.grid.size) == (4, 64, 128, (64, 64))
    assert (demo.precision, demo.backend, demo.device, demo.closed) == (
        "float32",
        "onnxruntime",
        "cpu",
        False,
    )
    assert repr(demo).endswith("σ = 0.25, n0 = 4, 64×64 → 64×128, float32, onnxruntime on cpu)")
    assert demo.encode(np.zeros((64, 64, 3), np.uint8)).features.shape == (1, demo.tokens, demo.dim)
    assert pooled.tokens == 1


def test_a_torch_device_is_a_device(demo):
    with fsfast.SmoothedEncoder("demo", device=torch.device("cpu"), threads=1) as encoder:
        assert encoder.function_id == demo.function_id
        assert pickle.loads(pickle.dumps(encoder)).device == "cpu"
    with pytest.raises(ValueError, match="got 'mps'"):
        fsfast.SmoothedEncoder("demo", device=torch.device("mps"))
    with pytest.raises(BackendUnavailable, match="cuda"):
        fsfast.SmoothedEncoder("demo", device=torch.device("cuda:99"))


def test_prepare_gives_what_is_encoded(demo, photograph, picture):
    one = demo.prepare(photograph)
    assert one.pixels.shape == (64, 64, 3)
    assert one.name == str(photograph)
    assert one.source["steps"][-1].endswith("the middle 64×64 kept, bicubic")
    assert one.grid_sha256 == demo.encode(photograph, 1).grid_sha256[0]
    several = demo.prepare([photograph, picture])
    assert [item.source["kind"] for item in several] == ["file", "array"]
    wanted = demo.encode([photograph, picture], 1, seeds=[1, 2]).features
    np.testing.assert_array_equal(demo.encode(several, 1, seeds=[1, 2]).features, wanted)


def test_bytes_and_open_files_are_certified_as_the_file(demo, photograph):
    data = photograph.read_bytes()
    made = demo.certify(io.BytesIO(data), 70, seeds=[1])
    assert made.source["kind"] == "stream"
    assert made.source["sha256"] == hashlib.sha256(data).hexdigest()
    assert demo.verify(made, data)
    with open(photograph, "rb") as file:
        assert demo.encode([data, file], 1, seeds=[1, 1]).grid_sha256 == (made.grid_sha256,) * 2


def test_closing_while_others_compute(picture):
    """Who is in the middle of an encode gets its result or the error; nobody waits for ever."""
    encoder = fsfast.SmoothedEncoder("demo", threads=2)
    outcomes: list[str] = []

    def serve():
        try:
            for _ in range(50):
                encoder.encode(picture, 8)
        except fsfast.FsfastError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=serve) for _ in range(3)]
    for thread in threads:
        thread.start()
    encoder.close()
    for thread in threads:
        thread.join(timeout=60)
    assert len(outcomes) == 3
    assert all("closed" in outcome for outcome in outcomes)


def test_an_encoder_survives_a_fork(photograph):
    """Servers load first and fork then: threads are gone in the child, the encoder makes new ones."""
    code = (
        "import fsfast, os\n"
        "e = fsfast.SmoothedEncoder('demo', threads=2)\n"
        f"a = e.encode({str(photograph)!r}, seeds=[1]).features\n"
        "pid = os.fork()\n"
        f"same = (e.encode({str(photograph)!r}, seeds=[1]).features == a).all()\n"
        "if pid == 0: os._exit(0 if same else 1)\n"
        "assert same and os.waitpid(pid, 0)[1] == 0\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_the_choice_can_be_asked_for(demo):
    assert str(demo.choice) == "onnxruntime, named by FSFAST_BACKEND"
    assert demo.choice.backend == demo.profile.backend


def test_the_chosen_back_end_is_logged(caplog):
    with caplog.at_level("INFO", "fsfast"), fsfast.SmoothedEncoder("demo"):
        assert "onnxruntime" in caplog.text


def test_progress_is_shown_on_demand(demo, picture, capsys):
    demo.encode(picture, 2)
    assert capsys.readouterr().err == ""
    demo.certify(picture, 4, progress=True)
    assert "certify" in capsys.readouterr().err


def test_shapes_of_all_kinds_of_input(demo, pooled, picture):
    tokens, dim = demo.manifest.tokens, demo.manifest.dim
    batch = np.stack([picture, picture])
    assert demo.encode(picture, 1).features.shape == (1, tokens, dim)
    assert demo.encode(batch, 1).features.shape == (2, tokens, dim)
    assert demo.encode([picture, picture[:20]], 1).unit.shape == (2, tokens, dim)
    assert demo(torch.from_numpy(picture), 1).features.dtype == np.float32
    assert pooled.encode(picture).features.shape == (1, pooled.manifest.dim)
    assert pooled.clean(batch).shape == (2, pooled.manifest.dim)
    assert (
        demo.encode(picture.astype(np.float32) / 255, 1, seeds=[1]).grid_sha256
        == demo.encode(picture, 1).grid_sha256
    )


def test_pixel_values_of_a_clip_processor_give_the_same_bits(demo):
    manifest = demo.manifest
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    mean, std = np.array(manifest.mean, np.float32), np.array(manifest.std, np.float32)
    values = ((pixels.astype(np.float32) / 255 - mean) / std).transpose(2, 0, 1)[None]
    back = fsfast.from_pixel_values(torch.from_numpy(values), manifest.mean, manifest.std)
    a, b = demo.encode(back, 2, seeds=[5]), demo.encode(pixels, 2, seeds=[5])
    np.testing.assert_array_equal(a.features, b.features)


def test_clean_is_the_encoder_alone(demo, photograph):
    (item,), _ = to_grid(str(photograph), demo.manifest.grid)
    mean, std = np.array(demo.manifest.mean), np.array(demo.manifest.std)
    pixels = ((item.pixels / 255 - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)
    with torch.inference_mode():
        wanted = load_folded(load_engine("demo"))["encoder"](torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(demo.clean(photograph), wanted, atol=1e-4)


def test_a_grid_that_is_not_the_encoders_input(resized_path, picture):
    """40×56 pixels are purified, then resized to 64×64 inside the pipeline."""
    with fsfast.SmoothedEncoder(resized_path) as encoder:
        out = encoder.encode(picture, seeds=[1])
        clean = encoder.clean(picture)
    assert out.features.shape == clean.shape == (1, encoder.manifest.tokens, encoder.manifest.dim)
    assert np.isfinite(out.features).all()


@pytest.mark.parametrize(
    "stages", [("encoder",), ("encoder", "mapper"), ("purifier", "encoder")], ids="+".join
)
def test_stages_can_be_left_out(demo, stages, picture):
    """Ablations of one engine are functions of their own."""
    with fsfast.SmoothedEncoder("demo", stages=stages) as encoder:
        out = encoder.encode(picture, seeds=[1])
        assert encoder.profile.stages == stages
        assert encoder.function_id != demo.function_id
    assert not np.array_equal(out.features, demo.encode(picture, seeds=[1]).features)


def test_the_encoder_alone_sees_the_noisy_picture(demo, picture):
    """Without purifier and mapper the features are those of `clean` on integer-noisy pixels."""
    with fsfast.SmoothedEncoder("demo", stages=("encoder",)) as encoder:
        out = encoder.encode(picture, 1, seeds=[9], raw_mean=True)
        (item,), _ = to_grid(picture, encoder.manifest.grid)
        rows = Rows(np.zeros(1, np.int32), np.array([9], np.uint64), np.zeros(1, np.uint32))
        noisy = noisy_batch(item.pixels[None], rows, 0, encoder._function.pipeline.noise)
        tokens = np.empty_like(out.features)
        encoder._function.pipeline._graphs["encoder"].run(noisy, tokens)
    np.testing.assert_allclose(out.raw_mean, tokens, rtol=1e-6)


def test_a_token_that_is_not_finite_counts_as_zero(demo, picture):
    """A network that overflows on some noise lowers the score; it never poisons the sums."""
    pipeline = demo._function.pipeline
    sums = FeatureSums.zeros(1, demo.manifest.tokens, demo.manifest.dim)
    anchor = np.zeros((1, demo.manifest.tokens, demo.manifest.dim))
    anchor[..., 0] = 1.0

    class Overflowing:
        def run(self, x, out):
            out[...] = np.nan

    real = pipeline._graphs["mapper"]
    pipeline._graphs["mapper"] = Overflowing()
    try:
        (item,), _ = to_grid(picture, demo.manifest.grid)
        scores = Scores.blank(anchor, 2)
        pipeline.run(item.pixels[None], micro_batches([1], 2, 1), 1, sums, scores=scores)
    finally:
        pipeline._graphs["mapper"] = real
    assert sums.unit.any() == False  # noqa: E712
    assert all(0.49 < s <= 0.5 for s in scores.values)


def test_an_error_inside_a_stage_reaches_the_caller_and_the_encoder_lives_on(demo, picture):
    class Failing:
        def run(self, x, out):
            raise RuntimeError("out of order")

    wanted = demo.encode(picture, seeds=[1]).features
    real = demo._function.pipeline._graphs["encoder"]
    demo._function.pipeline._graphs["encoder"] = Failing()
    try:
        for _ in range(5):
            with pytest.raises(RuntimeError, match="out of order"):
                demo.encode(picture, 8)
    finally:
        demo._function.pipeline._graphs["encoder"] = real
    np.testing.assert_array_equal(demo.encode(picture, seeds=[1]).features, wanted)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"device": "tpu"}, ValueError, "device"),
        ({"backend": "magic"}, BackendUnavailable, "onnxruntime"),
        ({"precision": "int8"}, ValueError, "float32"),
        ({"threads": 0}, ValueError, "threads"),
        ({"threads": 10**6}, ValueError, "at most 1024"),
        ({"micro_batch": 10**9}, ValueError, "micro_batch in 1…"),
        ({"micro_batch": 0}, ValueError, "micro_batch"),
        ({"stages": ("mapper",)}, ValueError, "encoder"),
        ({"stages": ("encoder", "magic")}, ValueError, "magic"),
        ({"secret": "short"}, ValueError, "16 bytes"),
        ({"secret": 5}, TypeError, "secret"),
        ({"engine": "nowhere"}, EngineError, "nowhere"),
    ],
    ids=str,
)
def test_bad_options(options, error, says):
    with pytest.raises(error, match=says):
        fsfast.SmoothedEncoder(**{"engine": "demo", **options})


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda e, x: e.encode(x, 0), ValueError, "n0 ≥ 1"),
        (lambda e, x: e.encode(x, seeds=[1, 2]), ValueError, "one seed per image"),
        (lambda e, x: e.encode(x, seeds=[-1]), ValueError, "seed"),
        (lambda e, x: e.encode([]), ImageError, "image"),
        (lambda e, x: e.encode(x.astype(np.float32)), ImageError, "255"),
        (lambda e, x: e.encode("missing.jpg"), ImageError, r"missing\.jpg"),
        (lambda e, x: e.certify(x, 0), ValueError, "n ≥ 1"),
        (lambda e, x: e.certify(x, 5, 0.0), ValueError, "alpha"),
        (lambda e, x: e.certify(x, 5, 1.0), ValueError, "alpha"),
        (lambda e, x: e.certify(x, 5, anchor="other"), ValueError, "anchor"),
        (lambda e, x: e.certify(x, 5, method="guess"), ValueError, "method"),
        (lambda e, x: e.certify(x, 5, "x"), ValueError, "alpha"),
        (lambda e, x: e.certify(x, 5, served="x"), TypeError, "served"),
        (lambda e, x: e.certify(x, 5, n0=3, served=e.encode(x, 2)), ValueError, "n0"),
        (lambda e, x: e.encode(x, seeds=5), ValueError, "list of seeds"),
        (lambda e, x: e.verify("c.json", x), TypeError, "load_certificate"),
    ],
    ids=range(16),
)
def test_bad_input(demo, picture, call, error, says):
    with pytest.raises(error, match=says):
        call(demo, picture)


def test_certifying_what_was_served(demo, pictures):
    served = demo.encode(pictures, 3)
    certificates = demo.certify(pictures, 20, served=served)
    for i, certificate in enumerate(certificates):
        assert certificate.anchor.seed == int(served.seeds[i])
        assert certificate.anchor.n0 == 3
        assert certificate.seed != certificate.anchor.seed
        assert demo.verify(certificate, pictures[i])


def test_served_features_of_other_images_or_engines_are_refused(demo, pooled, pictures):
    served = demo.encode(pictures, 1)
    with pytest.raises(CertificateError, match="other images"):
        demo.certify(pictures[::-1], 5, served=served)
    with pytest.raises(CertificateError, match="another engine"):
        pooled.certify(pictures, 5, served=served)
    with pytest.raises(ValueError, match="served"):
        demo.certify(pictures, 5, served=served, anchor="clean")


def test_memory_does_not_grow_with_the_number_of_samples(pooled, picture):
    """Per-sample features never outlive their micro-batch: only scores are kept."""
    import tracemalloc

    peaks = []
    for n in (200, 2000):
        tracemalloc.start()
        pooled.certify(picture, n, seeds=[1])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 100 * 1800


def test_importing_and_serving_needs_no_torch(photograph):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import fsfast\n"
        f"out = fsfast.SmoothedEncoder('demo').encode({str(photograph)!r})\n"
        "assert out.features.any()\n"
        "print('scipy' in sys.modules, 'tqdm' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
