"""SmoothedEncoder(device="cuda") against the encoder on the CPU, and what it promises by itself."""

import threading

import numpy as np
import pytest
import torch

import fsfast
from fsfast.errors import FsfastError
from fsfast.kernels import reference
from fsfast.runtime.sampling import micro_batches

# Largest difference of a feature relative to the largest feature, and of a score, from ONNX Runtime's float32. Scores
# are rounded to 2⁻²⁰. Measured: 2e-6 and one unit; 11 bits 2e-3 and 5e-4; 8 bits 2e-2 and 5e-3.
TOLERANCES = {"float32": (1e-5, 3e-6), "float16": (6e-3, 2e-3), "bfloat16": (5e-2, 2e-2)}


@pytest.mark.parametrize("precision", TOLERANCES)
def test_features_and_scores_are_those_of_the_cpu(opened, on_cpu, pictures, close, precision):
    encoder = opened(precision=precision)
    features, scores = TOLERANCES[precision]
    got = encoder.encode(pictures, 5, seeds=[1, 2, 3], raw_mean=True)
    wanted = on_cpu.encode(pictures, 5, seeds=[1, 2, 3], raw_mean=True)
    scale = np.abs(wanted.features).max()
    close(got.features / scale, wanted.features / scale, features, "features")
    close(got.raw_mean / scale, wanted.raw_mean / scale, features, "raw mean")
    served = on_cpu.encode(pictures[0], seeds=[7])
    certificate = encoder.certify(pictures[0], 12, seeds=[7])
    stated = on_cpu.certify(pictures[0], 12, served=served, seeds=[7])
    close(certificate.scores, stated.scores, scores, "scores")


def test_noise_has_the_bits_of_the_reference(opened, on_cpu, picture, close):
    """Of the levels, and of what the first network sees."""
    encoder = opened()
    got, wanted = (e.sample(picture, seed=5, index=3) for e in (encoder, on_cpu))
    np.testing.assert_array_equal(got.noisy, wanted.noisy)
    close(got.purified, wanted.purified, 1e-5)
    encoder.encode(picture, 4, seeds=[9])
    pipeline = encoder._function.pipeline
    (rows,) = micro_batches([9], 4, 4)
    pixels = fsfast.images.grid.to_grid(picture, encoder.manifest.grid)[0][0].pixels
    expected = reference.noisy_batch(pixels[None], rows, 0, pipeline.noise)
    np.testing.assert_array_equal(pipeline._x_t.cpu().numpy(), expected)


def test_certificates_replay_here_and_are_compared_elsewhere(opened, on_cpu, picture, tmp_path, close):
    encoder = opened()
    certificate = encoder.certify(picture, 12, seeds=[3])
    certificate.save(tmp_path / "a.json")
    read = fsfast.load_certificate(tmp_path / "a.json")
    assert encoder.verify(read, picture).verdict == "same"
    elsewhere = on_cpu.verify(read, picture)
    assert elsewhere.verdict == "cannot be checked bit for bit here"
    close(elsewhere.deviation, 0.0, 1e-5)
    assert encoder.function_id != on_cpu.function_id
    back = encoder.verify(on_cpu.certify(picture, 12, seeds=[3]), picture)
    assert back.verdict == "cannot be checked bit for bit here"


def test_bits_do_not_depend_on_neighbours_or_threads(opened, pictures):
    """Rows of three images share micro-batches, the last of which is padded."""
    encoder = opened()
    together = encoder.encode(pictures, 3, seeds=[1, 2, 3])
    found = {}

    def serve(i):
        for _ in range(3):
            found[i] = encoder.encode(pictures[i], 3, seeds=[i + 1]).features[0]

    threads = [threading.Thread(target=serve, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    for i in range(3):
        np.testing.assert_array_equal(found[i], together.features[i])


@pytest.mark.slow
def test_every_kind_of_certificate(opened, on_cpu, picture, close):
    """Single tokens, the clean anchor, sampling that stops, more samples than are read back together."""
    encoder = opened(micro_batch=1)
    tokens = encoder.certify(picture, 20, seeds=[3], per_token=True)
    wanted = on_cpu.certify(picture, 20, seeds=[3], per_token=True)
    close(tokens.token_scores, wanted.token_scores, 1e-5, "token scores")
    clean = encoder.certify(picture, 70, seeds=[3], anchor="clean")
    close(clean.scores, on_cpu.certify(picture, 70, seeds=[3], anchor="clean").scores, 3e-6, "scores")
    close(encoder.clean(picture), on_cpu.clean(picture), 1e-4, "clean")
    stopped = encoder.certify(picture, epsilon=0.1, cosine=0.3, n_max=40, seeds=[3])
    assert stopped.n == on_cpu.certify(picture, epsilon=0.1, cosine=0.3, n_max=40, seeds=[3]).n
    assert encoder.verify(stopped, picture).verdict == "same"


@pytest.mark.parametrize("kind", ["pooled_path", "resized_path", "random_path"])
def test_other_engines(opened, request, pictures, close, kind):
    """Pooled features without a purifier; a grid of another size than the encoder's input; random weights."""
    path = request.getfixturevalue(kind)
    encoder = opened(path)
    with fsfast.SmoothedEncoder(path, threads=1) as other:
        wanted = other.encode(pictures, 3, seeds=[1, 2, 3])
    got = encoder.encode(pictures, 3, seeds=[1, 2, 3])
    assert got.features.shape == wanted.features.shape
    scale = np.abs(wanted.features).max()
    close(got.features / scale, wanted.features / scale, 2e-5)


def test_without_the_purifier(opened, picture, close):
    encoder = opened(stages=("encoder",))
    with fsfast.SmoothedEncoder("demo", threads=1, stages=("encoder",)) as other:
        wanted = other.encode(picture, 4, seeds=[1]).features
        noisy = other.sample(picture, 1).noisy
    close(encoder.encode(picture, 4, seeds=[1]).features, wanted, 1e-4)
    sample = encoder.sample(picture, 1)
    np.testing.assert_array_equal(sample.noisy, noisy)
    assert sample.purified is None


def test_progress_counts_samples_and_a_closed_encoder_says_so(opened, picture):
    encoder = opened()
    encoder.encode(picture, 6, progress=True)
    with pytest.raises(ValueError, match=r"torch\.profiler"):
        encoder.encode(picture, 2, seconds={})
    encoder.close()
    encoder.close()
    with pytest.raises(FsfastError, match="closed"):
        encoder.encode(picture, 2)


@pytest.mark.gpu
@pytest.mark.parametrize("place", [pytest.param("cuda", marks=pytest.mark.gpu)], indirect=True)
def test_the_host_never_waits_inside_an_encode(opened, place):
    encoder = opened()
    images = torch.zeros((2, 64, 64, 3), dtype=torch.uint8, device=place)
    encoder.encode_tensors(images, 5)
    torch.cuda.set_sync_debug_mode("error")
    try:
        encoder.encode_tensors(images, 5)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("place", [pytest.param("cuda", marks=pytest.mark.gpu)], indirect=True)
def test_compiled_networks_compute_the_same(opened, on_cpu, picture):
    """In one precision: compiling takes most of a minute."""
    encoder = opened(precision="bfloat16", backend="torch-compile")
    wanted = on_cpu.encode(picture, 5, seeds=[1]).features
    got = encoder.encode(picture, 5, seeds=[1]).features
    np.testing.assert_allclose(got, wanted, atol=TOLERANCES["bfloat16"][0] * np.abs(wanted).max())
