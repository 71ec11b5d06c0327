"""Engines in the place of transformers' vision towers: text, bits, and no way to lose the protection unnoticed."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace

import numpy as np
import pytest

import fsfast
from fsfast.errors import EngineError, FsfastError, ImageError

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers")
pytest.importorskip("onnx", reason="building an engine needs onnx")

from fsfast.integrations.transformers import attach, detach, handed, level_processor  # noqa: E402
from tests.integrations import small_vlms  # noqa: E402
from tests.integrations.small_vlms import SIZE  # noqa: E402

SECRET = bytes(range(16))
GREEDY = {"max_new_tokens": 8, "do_sample": False}
SLOW = {"gemma3", "idefics3", "smolvlm", "qwen2_5_vl"}
FAMILIES = [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in small_vlms.FAMILIES]
OTHERS = [pytest.param(n, marks=pytest.mark.slow) for n in small_vlms.FAMILIES if n != "llava"]
# In transformers 4 Idefics3 puts patches at other places than SigLIP does, and SmolVLM's processor needs torchvision.
MAJOR = int(hf.__version__.partition(".")[0])


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    """A function: family → its model, and an open encoder of its tower; each is made once."""
    made, encoders = {}, []

    def get(name):
        if MAJOR < 5 and name in ("idefics3", "smolvlm"):
            pytest.skip("transformers 4")
        if name not in made:
            small = small_vlms.FAMILIES[name]()
            path = small_vlms.export_tower(small, tmp_path_factory.mktemp(name))
            encoders.append(fsfast.SmoothedEncoder(path, secret=SECRET))
            made[name] = small, encoders[-1]
        return made[name]

    yield get
    for encoder in encoders:
        encoder.close()


@pytest.fixture
def llava(engines):
    small, encoder = engines("llava")
    yield small, encoder
    place = small.model.model
    while hasattr(place.vision_tower, "plain"):
        detach(small.model)


@pytest.fixture(scope="module")
def images():
    """Two pictures of the size of the grid, which no processor changes."""
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    first = np.stack([x * 7 % 256, y * 5 % 256, (x + y) * 3 % 256], -1).astype(np.uint8)
    return [first, np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)]


def inputs(small, images, processor=None):
    nested = [[image] for image in images] if small.nested else list(images)
    processor = processor or small.processor
    return processor(images=nested, text=[small.prompt] * len(images), return_tensors="pt", padding=True)


class attached:
    """An engine in its place, for the length of a block."""

    def __init__(self, small, encoder, processor=None, **options):
        self.small, self.arguments = small, (small.model, processor or small.processor, encoder)
        self.options = options

    def __enter__(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return attach(*self.arguments, **self.options)

    def __exit__(self, *_):
        detach(self.small.model)


def read_by_the_language_model(small, given):
    """What the model's projector gets of its tower: [B·L, D]."""
    seen = []
    host = small.model.model
    if small.tower == "visual":
        hook = host.visual.register_forward_hook(lambda m, i, out: seen.append(merged_of(out)))
    else:
        projector = host.connector if hasattr(host, "connector") else host.multi_modal_projector
        hook = projector.register_forward_pre_hook(lambda m, i: seen.append(i[0]))
    with torch.no_grad():
        small.model(**given)
    hook.remove()
    (features,) = seen
    return features.flatten(0, -2)


def merged_of(out):
    if isinstance(out, torch.Tensor):
        return out
    merged, taps = (
        out if isinstance(out, tuple) else (out.pooler_output, getattr(out, "deepstack_features", ()))
    )
    # As the engine has them: an image's merged tokens, then its taps'.
    images = len(merged) // ((SIZE // small_vlms.PATCH // 2) ** 2)
    return torch.cat([part.unflatten(0, (images, -1)) for part in (merged, *taps)], 1).flatten(0, 1)


@pytest.mark.parametrize("name", FAMILIES)
def test_clean_text_is_the_models_own(name, engines, images):
    """Greedy and beams token by token, logits within rounding; and a picture matters to them."""
    small, encoder = engines(name)
    given = inputs(small, images)
    with torch.no_grad():
        logits = small.model(**given).logits
        texts = [small.model.generate(**given, **GREEDY, num_beams=beams) for beams in (1, 3)]
        assert (logits[0] - logits[1]).abs().max() > 0.1
        with attached(small, encoder, clean=True):
            torch.testing.assert_close(small.model(**given).logits, logits, rtol=0, atol=1e-4)
            for beams, text in zip((1, 3), texts, strict=True):
                assert torch.equal(small.model.generate(**given, **GREEDY, num_beams=beams), text)
        assert torch.equal(small.model(**given).logits, logits)


@pytest.mark.parametrize("name", FAMILIES)
def test_smoothed_features_reach_the_language_model_bit_for_bit(name, engines, images):
    small, encoder = engines(name)
    grids = []
    for processor in (small.processor, level_processor(small.processor, encoder)):
        with attached(small, encoder, processor, n0=3):
            got = read_by_the_language_model(small, inputs(small, images, processor))
            served = handed(small.model)
        wanted = encoder.encode(served.images, 3)
        assert torch.equal(got, torch.from_numpy(wanted.features).flatten(0, 1))
        np.testing.assert_array_equal(served.features.seeds, wanted.seeds)
        grids.append(served.images)
        (certificate,) = encoder.certify(served.images[-1:], n=20, served=served.features[-1])
        assert certificate.anchor.sha256 == encoder.certify(served.images[-1], n=20, n0=3).anchor.sha256
    np.testing.assert_array_equal(*grids)
    # Idefics3 and SmolVLM enlarge pictures before they cut them.
    if small.tower != "vision_model":
        assert {image.tobytes() for image in images} <= {image.tobytes() for image in grids[0]}


@pytest.mark.parametrize("name", FAMILIES)
def test_batches_equal_single_runs(name, engines, images):
    small, encoder = engines(name)
    with attached(small, encoder):
        together = read_by_the_language_model(small, inputs(small, images))
        alone = [read_by_the_language_model(small, inputs(small, [image])) for image in images]
        texts = small.model.generate(**inputs(small, images), **GREEDY)
        for image, text in zip(images, texts, strict=True):
            single = small.model.generate(**inputs(small, [image]), **GREEDY)[0]
            # What ends earlier is padded in a batch.
            assert text.tolist() == single.tolist() + [0] * (len(text) - len(single))
    assert torch.equal(torch.cat(alone), together)


@pytest.mark.parametrize("name", ["llava", *OTHERS])
def test_the_text_of_almost_no_noise_is_the_models_own(name, engines, images, tmp_path):
    small, _ = engines(name)
    given = inputs(small, images)
    texts = [small.model.generate(**given, **GREEDY, num_beams=beams) for beams in (1, 3)]
    path = small_vlms.export_tower(small, tmp_path, sigma=2.2e-4)
    with fsfast.SmoothedEncoder(path) as encoder, attached(small, encoder, n0=4):
        for beams, text in zip((1, 3), texts, strict=True):
            assert torch.equal(small.model.generate(**given, **GREEDY, num_beams=beams), text)


def test_every_tile_has_a_certificate(engines, images):
    """LLaVA-NeXT cuts a picture of twice the size into four tiles, and adds the whole."""
    small, encoder = engines("llava_next")
    picture = np.concatenate([np.concatenate(images, 1), np.concatenate(images[::-1], 1)])
    with attached(small, encoder):
        small.model.generate(**inputs(small, [picture]), **GREEDY)
        served = handed(small.model)
    np.testing.assert_array_equal(served.images[1:], np.stack([*images, *images[::-1]]))
    certificates = encoder.certify(served.images, n=20, served=served.features)
    assert len(certificates) == 5
    assert [c.grid_sha256 for c in certificates] == list(served.features.grid_sha256)


def test_returned_sequences_see_the_same_features_without_a_secret(llava, images):
    small, encoder = llava
    given = inputs(small, images)
    with fsfast.SmoothedEncoder(encoder.engine_path) as forgetful, attached(small, forgetful):
        for copies, options in ((3, {"do_sample": True, "num_return_sequences": 3}), (1, {"num_beams": 3})):
            assert len(small.model.generate(**given, **options, max_new_tokens=3)) == 2 * copies
            served = handed(small.model)
            pairs = zip(served.images, served.features.seeds, strict=True)
            assert len({(image.tobytes(), int(seed)) for image, seed in pairs}) == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_models_in_short_types(engines, images, dtype):
    (_, encoder), small = engines("llava"), small_vlms.llava()
    wanted = torch.from_numpy(encoder.encode(images).features).flatten(0, 1).to(dtype)
    levels = level_processor(small.processor, encoder)
    small.model.to(dtype)
    with attached(small, encoder):
        assert torch.equal(read_by_the_language_model(small, inputs(small, images)), wanted)
        given = inputs(small, images).to(dtype)
        if dtype == torch.float16:
            assert torch.equal(read_by_the_language_model(small, given), wanted)
        else:
            with pytest.raises(ImageError, match=r"bfloat16.*do_rescale = do_normalize = False"):
                small.model(**given)
    with attached(small, encoder, levels):
        given = {
            k: v.to(dtype) if k == "pixel_values" else v for k, v in inputs(small, images, levels).items()
        }
        assert torch.equal(read_by_the_language_model(small, given), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_pipeline_runs_with_levels(engines, photograph, dtype):
    (_, encoder), small = engines("llava"), small_vlms.llava()
    levels = level_processor(small.processor, encoder)
    small.model.to(dtype)
    with attached(small, encoder, levels):
        pipe = hf.pipeline("image-text-to-text", model=small.model, processor=levels)
        (answer,) = pipe(images=str(photograph), text=small.prompt, generate_kwargs=GREEDY)
        served = handed(small.model)
        assert answer["generated_text"]
        # The grid of the command line, so that certificates of the file are those of the answer.
        assert served.features.grid_sha256 == encoder.encode(str(photograph)).grid_sha256


@pytest.mark.slow
def test_compiled_models(llava, images):
    small, encoder = llava
    given = inputs(small, images)
    with attached(small, encoder), torch.no_grad():
        wanted = small.model(**given).logits
        compiled = torch.compile(small.model, backend="eager")
        torch.testing.assert_close(compiled(**given).logits, wanted, rtol=0, atol=1e-5)
        detach(compiled)
        attach(compiled, small.processor, encoder)
        torch.testing.assert_close(compiled(**given).logits, wanted, rtol=0, atol=1e-5)
    torch.compiler.reset()


def test_models_over_several_places(engines, images, tmp_path):
    """With device_map: the language model comes from the disk, layer by layer."""
    accelerate = pytest.importorskip("accelerate")
    small = small_vlms.llava()
    _, encoder = engines("llava")
    given = inputs(small, images)
    with attached(small, encoder), torch.no_grad():
        wanted = small.model(**given).logits
    parts = {"model.vision_tower": "disk", "model.multi_modal_projector": "cpu", "lm_head": "cpu"}
    parts["model.language_model"] = "disk"
    small = replace(
        small, model=accelerate.dispatch_model(small.model, parts, offload_dir=tmp_path, main_device="cpu")
    )
    with attached(small, encoder), torch.no_grad():
        torch.testing.assert_close(small.model(**given).logits, wanted, rtol=0, atol=1e-5)


# Turning the protection off by mistake.


def test_no_engine_no_start(llava, tmp_path):
    small, _ = llava
    with pytest.raises(EngineError, match="missing"):
        attach(small.model, small.processor, fsfast.SmoothedEncoder(tmp_path / "missing"))
    with pytest.raises(TypeError, match=r"open fsfast\.SmoothedEncoder, got str"):
        attach(small.model, small.processor, str(tmp_path))
    with pytest.raises(FsfastError, match="no engine is attached"):
        handed(small.model)


def test_another_engine_than_the_pinned_one_is_refused(llava):
    small, encoder = llava
    with pytest.raises(EngineError, match="wanted the engine with digest 00"):
        attach(small.model, small.processor, encoder, digest="00" * 32)
    attach(small.model, small.processor, encoder, digest=encoder.engine_digest)


def test_another_layer_is_refused(engines, demo):
    _, encoder = engines("llava")
    for layer, strategy, message in (
        (-1, "default", "layer: wanted tokens, found penultimate; .*--output tokens"),
        (1, "default", r"layer: wanted hidden_states\[1\], found penultimate; engines have"),
        ([-2, -3], "default", r"layer: wanted hidden_states\[\[-2, -3\]\]"),
        (-2, "full", "class token: wanted one, found patch tokens alone"),
    ):
        small = small_vlms.llava()
        small.model.config.vision_feature_layer = layer
        small.model.config.vision_feature_select_strategy = strategy
        with pytest.raises(EngineError, match=message):
            attach(small.model, small.processor, encoder)
    with pytest.raises(
        EngineError, match=r"(?s)layer: wanted penultimate, found tokens\+ln_post.*tokens L: .*channels D"
    ):
        attach(small_vlms.llava().model, small.processor, demo)


def test_a_layer_that_a_call_asks_for_is_refused(llava, images):
    small, encoder = llava
    attach(small.model, small.processor, encoder)
    with pytest.raises(FsfastError, match="leave vision_feature_layer out of the call"):
        small.model(**inputs(small, images), vision_feature_layer=-1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image_mean": [0.5] * 3}, r"mean: wanted \[0.5, 0.5, 0.5\]"),
        ({"image_std": [0.5] * 3}, r"std: wanted \[0.5, 0.5, 0.5\]"),
        ({"rescale_factor": 1 / 127.5}, "rescale factor: wanted 0.00784314"),
        ({"crop_size": {"height": 56, "width": 56}}, "image size: wanted 56×56, found 32×32"),
        ({"do_normalize": False}, "wanted an image processor with both of these steps, or none of them"),
    ],
)
def test_another_preparation_is_refused(changed, message, llava):
    small, encoder = llava
    processor = copy.copy(small.processor)
    processor.image_processor = copy.copy(processor.image_processor)
    for name, value in changed.items():
        setattr(processor.image_processor, name, value)
    with pytest.raises((EngineError, ValueError), match=message):
        attach(small.model, processor, encoder)


def test_pixel_values_of_another_preparation_are_refused(llava, images):
    small, encoder = llava
    attach(small.model, small.processor, encoder)
    given = inputs(small, images)
    for spoiled, message in (
        (given["pixel_values"] * 1.02, "off the grid"),
        (given["pixel_values"][:, :, :24], r"wanted \[B, 3, 32, 32\]"),
        (given["pixel_values"].bfloat16(), "keep pixel values in float32"),
    ):
        with pytest.raises(ImageError, match=message):
            small.model(**given | {"pixel_values": spoiled})


def test_gradients_are_refused(llava, images):
    small, encoder = llava
    attach(small.model, small.processor, encoder)
    given = inputs(small, images)
    given["pixel_values"].requires_grad_()
    with pytest.raises(FsfastError, match="would see none"):
        small.model(**given)


def test_an_engine_of_other_weights_is_refused(engines, images):
    _, encoder = engines("llava")
    small = small_vlms.llava()
    small_vlms.lively(small.plain, seed=1)
    with pytest.raises(EngineError, match=r"computes something else than the tower.*same_weights=False"):
        attach(small.model, small.processor, encoder)
    assert isinstance(small.plain, hf.PreTrainedModel)
    attach(small.model, small.processor, encoder, same_weights=False)
    small.model(**inputs(small, images))


def test_a_closed_encoder_ends_the_model_and_not_the_protection(llava, images):
    small, encoder = llava
    other = fsfast.SmoothedEncoder(encoder.engine_path)
    attach(small.model, small.processor, other)
    other.close()
    with pytest.raises(FsfastError, match="closed"):
        small.model.generate(**inputs(small, images), **GREEDY)


def test_what_is_saved_cannot_be_mistaken_for_the_model(llava, images, tmp_path):
    small, encoder = llava
    kind = type(small.model)
    attach(small.model, small.processor, encoder)
    with pytest.raises(FsfastError, match="detach the engine, save, and attach it again"):
        small.model.save_pretrained(tmp_path / "attached")
    with pytest.raises((OSError, ValueError)):
        kind.from_pretrained(tmp_path / "attached")
    with pytest.raises(TypeError, match="does not copy"):
        copy.deepcopy(small.model)
    with pytest.raises(TypeError, match="does not pickle"):
        torch.save(small.model, tmp_path / "model.pt")
    detach(small.model)
    small.model.save_pretrained(tmp_path / "whole")
    again = kind.from_pretrained(tmp_path / "whole")
    with torch.no_grad():
        torch.testing.assert_close(
            again(**inputs(small, images)).logits, small.model(**inputs(small, images)).logits
        )
    attach(again, small.processor, encoder)


def test_attached_once_and_shown(llava):
    small, encoder = llava
    attach(small.model, small.processor, encoder)
    assert f"digest={encoder.engine_digest[:16]}" in repr(small.model)
    with pytest.raises(FsfastError, match="attached to this model already"):
        attach(small.model, small.processor, encoder)
    detach(small.model)
    with pytest.raises(FsfastError, match="no engine is attached"):
        detach(small.model)


def test_models_without_a_known_tower_are_refused(llava):
    small, encoder = llava
    with pytest.raises(FsfastError, match=r"wanted a model of one of the types llava, .*, got llama"):
        attach(small.model.model.language_model, small.processor, encoder)
    with pytest.raises(TypeError, match="wanted a model of transformers, got str"):
        attach("llava-hf/llava-1.5-7b-hf", small.processor, encoder)
    with pytest.raises(TypeError, match=r"with its image_processor, got .*Token"):
        attach(small.model, small.processor.tokenizer, encoder)
