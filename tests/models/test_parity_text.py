"""Text towers against the libraries that published them, as `test_parity.py` measures image towers; and tokens."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import normalize

from export.texts import Texts
from fsfast.models import load_encoder, load_text_tower
from tests.models.texts import SMALL_CLIP, WORDS, write_tokenizer

# Largest seen: 3.0e-6, of the tower beside ViT-L/14.
LIMIT = 2e-5


@pytest.fixture
def transformers():
    module = pytest.importorskip("transformers")
    module.logging.set_verbosity_error()
    return module


def texts(end, vocabulary=64, context=10):
    """Rows of tokens of several lengths, padded with the end's, and where they end."""
    generator = torch.Generator().manual_seed(2)
    tokens = torch.full((3, context), end)
    ends = torch.tensor([2, 5, context - 1])
    for row, last in zip(tokens, ends, strict=True):
        row[:last] = torch.randint(3, vocabulary - 2, (int(last),), generator=generator)
    return tokens, ends


def assert_near(got, want):
    assert 0.01 < want.std() < 10
    torch.testing.assert_close(got, want, rtol=0, atol=LIMIT)


TEXT = {
    **{"vocab_size": 64, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3},
    **{"num_attention_heads": 4, "max_position_embeddings": 10},
}
VISION = {
    **{"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    **{"image_size": 8, "patch_size": 4},
}


@pytest.mark.parametrize("alone", [False, True], ids=["whole model", "text tower"])
def test_clips_directions_equal_transformers(transformers, alone, randomised, tmp_path):
    text = {**TEXT, "projection_dim": 24, "bos_token_id": 62, "eos_token_id": 63}
    if alone:
        config = transformers.CLIPTextConfig(**text)
        model = randomised(transformers.CLIPTextModelWithProjection(config))
    else:
        config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=24)
        model = randomised(transformers.CLIPModel(config))
    model.save_pretrained(tmp_path)
    tokens, ends = texts(63)
    with torch.no_grad():
        output = model(tokens) if alone else model.get_text_features(tokens)
    want = output.text_embeds if alone else getattr(output, "pooler_output", output)
    assert_near(load_text_tower(tmp_path).module(tokens, ends), want)


@pytest.mark.parametrize("version", ["Siglip", "Siglip2"])
def test_siglips_directions_equal_transformers(transformers, version, randomised, tmp_path):
    vision = VISION | ({"num_patches": 4} if version == "Siglip2" else {})
    config = getattr(transformers, f"{version}Config")(
        text_config={**TEXT, "projection_size": 24}, vision_config=vision
    )
    model = randomised(getattr(transformers, f"{version}Model")(config))
    model.save_pretrained(tmp_path)
    tokens, _ = texts(1)
    with torch.no_grad():
        output = model.get_text_features(tokens)
    want = getattr(output, "pooler_output", output)
    # The last place, whether or not a text fills it.
    assert_near(load_text_tower(tmp_path).module(tokens, torch.full((3,), 9)), want)


@pytest.mark.parametrize("name", ["CLIP", "Siglip"])
def test_cosines_of_pictures_and_texts_equal_transformers(transformers, name, randomised, tmp_path):
    """Both towers of one checkpoint: pooled features and directions lie in one space."""
    width = VISION["hidden_size"]
    text = {**TEXT, "projection_dim": width, "projection_size": width, "eos_token_id": 63}
    sizes = {"projection_dim": width} if name == "CLIP" else {}
    config = getattr(transformers, f"{name}Config")(text_config=text, vision_config=VISION, **sizes)
    model = randomised(getattr(transformers, f"{name}Model")(config))
    model.save_pretrained(tmp_path)
    tokens, ends = texts(63)
    pixels = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        output = model(input_ids=tokens, pixel_values=pixels)
    if name == "Siglip":
        ends = torch.full((3,), 9)
    pooled = normalize(load_encoder(tmp_path).module(pixels)[:, 0], dim=-1)
    directions = normalize(load_text_tower(tmp_path).module(tokens, ends), dim=-1)
    assert_near(pooled @ directions.T, output.image_embeds @ output.text_embeds.T)


@pytest.mark.parametrize(
    ("quick_gelu", "sizes"),
    [
        (True, {"width": 128, "heads": 2, "layers": 3}),
        (False, {"width": 128, "heads": 2, "layers": 3}),
        pytest.param(True, {"width": 768, "heads": 12, "layers": 12}, marks=pytest.mark.slow),
    ],
    ids=["quick_gelu", "gelu", "ViT-L"],
)
def test_clips_directions_equal_open_clips(quick_gelu, sizes, randomised, tmp_path):
    open_clip = pytest.importorskip("open_clip")
    text = {"context_length": 10, "vocab_size": 64, **sizes}
    vision = {"image_size": 8, "layers": 1, "width": 16, "head_width": 8, "patch_size": 4}
    model = randomised(open_clip.model.CLIP(24, vision, text, quick_gelu=quick_gelu))
    record = {
        "model_cfg": {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text, "quick_gelu": quick_gelu}
    }
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps(record))
    # open_clip's ends are the largest token of each text, and it pads with zeros.
    tokens, ends = texts(63)
    tokens[torch.arange(10) > ends[:, None]] = 0
    with torch.no_grad():
        want = model.encode_text(tokens)
    assert_near(load_text_tower(tmp_path).module(tokens, ends), want)
    activation = "quick_gelu" if quick_gelu else "gelu"
    alone = load_text_tower(tmp_path / "open_clip_model.safetensors", activation)
    torch.testing.assert_close(alone.module(tokens, ends), load_text_tower(tmp_path).module(tokens, ends))


def test_clips_tokens_equal_open_clips(tmp_path):
    """OpenAI's own vocabulary, which open_clip brings along; ImageNet's names in all of its templates."""
    open_clip = pytest.importorskip("open_clip")
    theirs = open_clip.SimpleTokenizer()
    merges = [" ".join(pair) for pair in theirs.bpe_ranks]
    # The files that OpenAI published on the Hub have these names in their place.
    renamed = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {renamed.get(token, token): i for token, i in theirs.encoder.items()}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    ours = Texts(tmp_path, replace(SMALL_CLIP, vocabulary=len(theirs.encoder), context=77))
    # open_clip makes typographic quotes plain, by another library.
    names = [*open_clip.IMAGENET_CLASSNAMES, *(word for word in WORDS if "’" not in word)]
    texts = [template(name) for name in names for template in open_clip.OPENAI_IMAGENET_TEMPLATES[::9]]
    rows, ends = ours.tokens(texts)
    for row, end, want in zip(rows, ends, theirs(texts).tolist(), strict=True):
        assert row[: end + 1] == want[: end + 1]
        assert not any(want[end + 1 :])


def test_clips_tokens_equal_transformers(transformers, tmp_path):
    write_tokenizer(tmp_path)
    theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    ours = Texts(tmp_path, SMALL_CLIP)
    for text in WORDS:
        rows, ends = ours.tokens([text])
        assert rows == [theirs(text)["input_ids"]]
        assert ends == [len(rows[0]) - 1]
