"""`fsfast demo` as its users meet it, and the samples that it shows."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import fsfast
from fsfast.certificates.reading import parse_certificate
from fsfast.certificates.wording import show_bound
from fsfast.cli import main
from fsfast.engine.engine import load_engine
from fsfast.images.grid import to_grid_image
from fsfast.installation import pip_install_extras
from fsfast.kernels import noisy_batch, reference
from fsfast.models.folded import load_folded
from fsfast.report.examples import load_examples
from fsfast.runtime.sampling import Stream, micro_batches

SEED = 0x123456789ABCDEF0


@pytest.fixture
def demo(capsys, monkeypatch, tmp_path):
    """Run `fsfast demo` with the small engine in an empty folder; return (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fsfast.report.gather.LATENCY_N0", (1, 2))
    monkeypatch.setattr("fsfast.report.gather.LATENCY_RUNS", 1)

    def call(*args):
        try:
            code = main(["demo", "--engine", "demo", *map(str, args)])
        except SystemExit as stop:
            code = stop.code
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


@pytest.fixture
def few_examples(monkeypatch):
    """Two of the examples: what is tried does not depend on how many there are."""
    monkeypatch.setattr("fsfast.report.examples.load_examples", lambda engine: load_examples(engine)[:2])


@pytest.fixture
def photos(tmp_path, picture):
    """Two readable pictures and one that is not."""
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray(picture[::-1]).save(tmp_path / "b.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 this is no picture")
    return [tmp_path / name for name in ("a.png", "broken.jpg", "b.jpg")]


def certificates_in(folder):
    lines = (folder / "certificates.jsonl").read_text(encoding="utf-8").splitlines()
    return [parse_certificate(json.loads(line)) for line in lines]


def test_the_examples(demo, tmp_path, capsys):
    code, out, err = demo("--n", 40)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 100
    for text in ("bit-equal", "certificate: same", "under attack", "first feature", "samples/s", "next: "):
        assert text in out
    kept = tmp_path / "demo-output"
    assert {path.name for path in kept.iterdir()} == {
        "demo.html",
        "features.safetensors",
        "certificates.jsonl",
    }
    examples = load_examples()
    features = fsfast.load_features(kept / "features.safetensors")
    certificates = certificates_in(kept)
    assert len(features) == len(certificates) == len(examples)
    page = (kept / "demo.html").read_text(encoding="utf-8")
    for example, certificate in zip(examples, certificates, strict=True):
        assert example.name in out
        assert certificate.n == 40
        assert show_bound(certificate.cosine(0.25)) in out
        assert show_bound(certificate.cosine(0.25)) in page
    # What was kept can be replayed.
    assert main(["verify", str(kept / "certificates.jsonl"), str(examples[0].image)]) == 0
    assert capsys.readouterr().out == "same\n"


def test_it_shows_photographs_where_nothing_else_is_said(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("fsfast.report.examples.load_examples", lambda engine: load_examples(engine)[:1])
    assert main(["demo", "-n", "5", "--no-page", "-o", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "photo: purifier → encoder on a 224×224 grid" in out
    assert out.count("goldfish") >= 4
    assert "next: " in out
    assert "certify photo YOUR-PHOTO.jpg" in out
    (certificate,) = certificates_in(tmp_path)
    assert certificate.engine == "photo"


@pytest.mark.parametrize("engine", ["demo", "photo"])
def test_examples_are_on_the_engines_grid_and_attacked_by_16_levels(engine):
    grid = load_engine(engine).manifest.grid
    for example in load_examples(engine):
        clean, attacked = (to_grid_image(path, grid) for path in (example.image, example.attacked))
        assert np.array_equal(np.asarray(Image.open(example.image)), clean.pixels)
        change = np.abs(clean.pixels.astype(int) - attacked.pixels)
        assert change.max() == 16
        assert example.label != example.target


def test_json(demo, few_examples, tmp_path):
    code, out, err = demo("--n", 20, "--json", "-o", "kept")
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert record["verify"] == "same"
    assert record["bit_equal_replay"] is True
    assert record["no_page"] is None
    assert record["random_weights"] is False
    for image, certificate in zip(record["images"], certificates_in(tmp_path / "kept"), strict=True):
        assert image["score_lower_bound"] == certificate.score_lower_bound
        assert [b["cosine"] for b in image["bounds"]] == [
            certificate.cosine(b["epsilon"]) for b in image["bounds"]
        ]
    assert len(record["kept"]) == 3


def test_no_page(demo, few_examples, tmp_path):
    code, out, _ = demo("--n", 20, "--no-page")
    assert code == 0
    assert "matplotlib" not in out
    assert "ms per sample" in out
    assert {path.name for path in (tmp_path / "demo-output").iterdir()} == {
        "features.safetensors",
        "certificates.jsonl",
    }


@pytest.mark.parametrize("missing", ["matplotlib", "matplotlib.figure"])
def test_without_matplotlib(demo, few_examples, tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    for name in ("page", "sections", "charts", "svg"):
        monkeypatch.delitem(sys.modules, f"fsfast.report.{name}", raising=False)
    code, out, err = demo("--n", 20)
    assert (code, err) == (0, "")
    assert "no page: " in out
    assert pip_install_extras("plot") in out
    assert not (tmp_path / "demo-output" / "demo.html").exists()
    assert len(certificates_in(tmp_path / "demo-output")) == 2
    assert pip_install_extras("plot") in json.loads(demo("--n", 5, "--json")[1])["no_page"]


def test_images_of_ones_own(demo, photos, tmp_path):
    code, out, err = demo("--image", *photos, "--n", 20)
    assert code == 1
    assert err.count("\n") == 1
    assert "broken.jpg" in err
    page = (tmp_path / "demo-output" / "demo.html").read_text(encoding="utf-8")
    for text in (out, page):
        assert "a.png" in text
        assert "b.jpg" in text
        # Tables show names, not where the files lie.
        assert str(photos[0]) not in text
        # Not only digits may come; the text says what the classes are worth.
        assert "knows only the classes 0, 1, 2" in " ".join(text.split())
    assert "under attack" not in out.lower()
    assert "Under attack" not in page
    assert "plain" in out
    assert [c.image_name for c in certificates_in(tmp_path / "demo-output")] == [
        str(photos[0]),
        str(photos[2]),
    ]


def test_no_readable_image(demo, photos, tmp_path):
    code, out, err = demo("--image", photos[1])
    assert (code, out) == (2, "")
    assert "broken.jpg" in err
    assert not (tmp_path / "demo-output").exists()


def test_another_engine_shows_a_photograph(demo, few_examples, random_path):
    code, out, _ = demo("--engine", random_path, "--n", 20)
    assert code == 0
    assert "cat.jpg" in out
    assert "random weights" in out
    assert "digit" not in out.replace("demo-output", "")


def test_an_engine_without_classes(demo, few_examples, pooled_path):
    code, out, _ = demo("--engine", pooled_path, "--n", 20)
    assert code == 0
    assert "plain" not in out
    assert "radius for cos ≥ 0.5" in out


def test_stages(demo, few_examples):
    record = json.loads(demo("--stages", "encoder,mapper", "--n", 20, "--json")[1])
    assert record["stages"] == ["encoder", "mapper"]
    assert [v["stages"] for v in record["variants"]] == [["encoder"], ["encoder", "mapper"]]


def test_seeds_come_from_the_secret(demo, few_examples, monkeypatch, tmp_path):
    monkeypatch.setenv("FSFAST_SECRET", "a secret of many characters")
    assert demo("--n", 5, "--no-page")[0] == 0
    assert {c.seed_origin for c in certificates_in(tmp_path / "demo-output")} == {"secret"}


@pytest.mark.parametrize("args", [("--alpha", 2), ("--n", 0), ("--image",), ("--stages", "mapper")], ids=str)
def test_wrong_use(demo, args, tmp_path):
    code, out, err = demo(*args)
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert not (tmp_path / "demo-output").exists()


@pytest.mark.parametrize("name", ["demo.html", "features.safetensors", "certificates.jsonl"])
def test_files_are_tried_before_the_work(demo, tmp_path, monkeypatch, name):
    monkeypatch.setattr("fsfast.report.gather.gather", None)
    (tmp_path / "demo-output" / name).mkdir(parents=True)
    code, out, err = demo()
    assert (code, out) == (2, "")
    assert name in err


@pytest.fixture(scope="module")
def encoder():
    with fsfast.SmoothedEncoder("demo") as opened:
        yield opened


@pytest.fixture(scope="module")
def image(encoder):
    return to_grid_image(load_examples()[0].image, encoder.manifest.grid)


@pytest.mark.parametrize("index", [0, 3, 2**32 - 1])
def test_a_sample_is_the_image_and_the_integer_noise_of_its_seed(encoder, image, index):
    sample = encoder.sample(image, SEED, index)
    thresholds = load_engine("demo").thresholds
    noise = reference.noise(SEED, index, Stream.SERVING, image.pixels.size, thresholds)
    wanted = image.pixels + noise.reshape(3, 64, 64).transpose(1, 2, 0)
    assert sample.noisy.dtype == np.int16
    np.testing.assert_array_equal(sample.noisy, wanted)


def test_a_sample_is_what_the_networks_get(encoder, image):
    """The networks' input in floats, brought back to levels, is the sample; the purifier by hand agrees."""
    (rows,) = micro_batches([SEED], 3, 3)
    x_t = noisy_batch(image.pixels[None], rows, Stream.SERVING, encoder._function.pipeline.noise)
    denoise = encoder.manifest.denoise
    with torch.inference_mode():
        eps_hat = load_folded(load_engine("demo"))["purifier"](torch.from_numpy(x_t)).numpy()
    for i in range(3):
        sample = encoder.sample(image, SEED, i)
        levels = np.rint((x_t[i].astype(np.float64) - denoise.offset) / denoise.scale)
        np.testing.assert_array_equal(sample.noisy, levels.transpose(1, 2, 0))
        x0 = np.clip(denoise.a * x_t[i].astype(np.float64) - denoise.b * eps_hat[i], -1, 1)
        assert sample.purified.dtype == np.float32
        np.testing.assert_allclose(sample.purified, (x0.transpose(1, 2, 0) + 1) / 2, atol=1e-5)


def test_a_sample_is_among_those_that_encode_averages(encoder, image):
    purified = encoder.sample(image, SEED).purified
    networks = load_folded(load_engine("demo"))
    mean, std = (np.array(v) for v in (encoder.manifest.mean, encoder.manifest.std))
    pixels = ((purified - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)
    with torch.inference_mode():
        raw = networks["mapper"](networks["encoder"](torch.from_numpy(pixels))).numpy()
    unit = raw / np.linalg.norm(raw, axis=-1, keepdims=True)
    served = encoder.encode(image, n0=1, seeds=[SEED]).unit
    assert (unit * served).sum(-1).min() > 0.9999


def test_samples_in_larger_micro_batches(image):
    with fsfast.SmoothedEncoder("demo", micro_batch=3) as three, fsfast.SmoothedEncoder("demo") as one:
        np.testing.assert_array_equal(three.sample(image, SEED, 1).noisy, one.sample(image, SEED, 1).noisy)
        np.testing.assert_allclose(
            three.sample(image, SEED, 1).purified, one.sample(image, SEED, 1).purified, atol=1e-5
        )


def test_without_a_purifier_nothing_is_purified(image):
    with fsfast.SmoothedEncoder("demo", stages=("encoder",)) as encoder:
        sample = encoder.sample(image, SEED)
    assert sample.purified is None
    assert sample.noisy.shape == (64, 64, 3)


def test_samples_without_a_seed_are_fresh(encoder, image):
    assert (encoder.sample(image).noisy != encoder.sample(image).noisy).any()


@pytest.mark.parametrize("options", [{"seed": -1}, {"index": -1}, {"index": 2**32}, {"index": True}], ids=str)
def test_off_samples_are_refused(encoder, image, options):
    with pytest.raises(ValueError, match="wanted"):
        encoder.sample(image, **options)


def test_a_sample_of_several_images_is_refused(encoder, image):
    with pytest.raises(ValueError, match="wanted one image to sample, got 2"):
        encoder.sample([image, image])
