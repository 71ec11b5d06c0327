"""OpenFlamingo with an engine for a vision encoder: the package's own factory, forward and generate."""

from __future__ import annotations

import pytest

from fsfast.errors import EngineError, FsfastError, ImageError

open_flamingo = pytest.importorskip("open_flamingo")

import open_clip  # noqa: E402
import torch  # noqa: E402
import transformers as hf  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402

from fsfast.integrations.open_flamingo import attach, detach, layer_of  # noqa: E402
from tests.integrations.narrow_engines import IMAGES, MEAN, STD, WEIGHTS  # noqa: E402
from tests.models import published  # noqa: E402

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "a", "cat", "sees", "the", "mat", "on"]


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    """Directory of a small Llama with its tokenizer."""
    path = tmp_path_factory.mktemp("llama")
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    hf.PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(path)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    hf.LlamaForCausalLM(hf.LlamaConfig(vocab_size=len(WORDS), **sizes)).save_pretrained(path)
    return path


@pytest.fixture
def model(language, tmp_path):
    """A Flamingo of the package's own factory whose open_clip tower has the engines' weights."""
    published.write_json(tmp_path / "narrow.json", published.open_clip_config()["model_cfg"])
    open_clip.add_model_config(tmp_path)
    torch.manual_seed(1)
    flamingo, _, words = open_flamingo.create_model_and_transforms(
        "narrow", None, str(language), str(language), decoder_layers_attr_name="model.layers"
    )
    flamingo.vision_encoder.load_state_dict(WEIGHTS)
    # The gates are closed in a new model, and nothing would be seen through them.
    for layer in flamingo.lang_encoder.gated_cross_attn_layers:
        layer.attn_gate.data.fill_(1.0)
        layer.ff_gate.data.fill_(1.0)
    flamingo.words = words
    return flamingo.eval()


@pytest.fixture
def question(model):
    """vision_x [1, 3, 1, 3, H, W] and the words about it."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    pixels = (torch.from_numpy(IMAGES).permute(0, 3, 1, 2) / 255 - mean) / std
    text = model.words(
        ["<image> a cat <|endofchunk|> <image> the mat <|endofchunk|> <image> a"], return_tensors="pt"
    )
    return {
        "vision_x": pixels[None, :, None],
        "lang_x": text["input_ids"],
        "attention_mask": text["attention_mask"],
    }


@pytest.mark.parametrize("beams", [1, 2])
def test_clean_text_is_that_of_the_own_tower(beams, model, question, narrow, clean_is_meant):
    with torch.no_grad():
        logits = model(**question).logits
        wanted = model.generate(**question, max_new_tokens=6, num_beams=beams)
        attach(model, narrow("tokens+ln_post"), clean=True)
        torch.testing.assert_close(model(**question).logits, logits, rtol=0, atol=2e-5)
        assert torch.equal(model.generate(**question, max_new_tokens=6, num_beams=beams), wanted)


def test_smoothed_tokens_are_those_of_the_encoder(model, question, narrow):
    encoder = narrow("tokens+ln_post")
    tower = attach(model, encoder, n0=3)
    seen = []
    model.perceiver.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        logits = model(**question).logits
    # [b, T, F, v, d]
    assert torch.equal(seen[0][0, :, 0], torch.from_numpy(encoder.encode(IMAGES, 3).features))
    assert (tower.handed.images == IMAGES).all()
    detach(model)
    with torch.no_grad():
        assert not torch.allclose(model(**question).logits, logits, atol=1e-3)


def test_media_that_are_cached(model, question, narrow):
    attach(model, narrow("tokens+ln_post"))
    with torch.no_grad():
        logits = model(**question).logits
        model.cache_media(question["lang_x"], question["vision_x"])
        again = model(None, question["lang_x"], question["attention_mask"]).logits
    assert torch.equal(again, logits)


def test_the_layer_of_published_weights(model, question, narrow, clean_is_meant):
    """They were trained with an open_clip that did not normalise tokens; the installed one does."""
    own = model.vision_encoder
    assert layer_of(own) == "tokens+ln_post"
    with pytest.raises(
        EngineError, match=r"hands tokens\+ln_post on, the engine makes tokens, .*layer='tokens' for"
    ):
        attach(model, narrow("tokens"))
    with pytest.raises(EngineError, match=r"layer: wanted tokens, found tokens\+ln_post"):
        attach(model, narrow("tokens+ln_post"), layer="tokens")
    attach(model, narrow("tokens"), layer="tokens", clean=True)
    seen = {}
    own.ln_post.register_forward_pre_hook(lambda module, args: seen.update(tokens=args[0][:, 1:]))
    pixels = question["vision_x"][0, :, 0]
    with torch.no_grad():
        normalised = own(pixels)[1]
        torch.testing.assert_close(model.vision_encoder(pixels)[1], seen["tokens"], rtol=0, atol=2e-5)
    assert not torch.allclose(normalised, seen["tokens"], atol=1e-2)


@pytest.mark.parametrize("output", ["pooled", "penultimate"])
def test_an_engine_of_another_layer_is_refused(output, model, narrow):
    with pytest.raises(EngineError, match=rf"layer: wanted tokens\+ln_post, found {output}"):
        attach(model, narrow(output))


def test_an_engine_of_other_weights_is_refused(model, narrow):
    with torch.no_grad():
        model.vision_encoder.conv1.weight.normal_()
    with pytest.raises(EngineError, match="something else than the tower"):
        attach(model, narrow("tokens+ln_post"))


def test_refusals(model, question, narrow):
    with pytest.raises(ValueError, match=r"one of tokens, tokens\+ln_post, or None, got 'penultimate'"):
        attach(model, narrow("tokens"), layer="penultimate")
    attach(model, narrow("tokens+ln_post"))
    with pytest.raises(FsfastError, match="attached to this model already"):
        attach(model, narrow("tokens+ln_post"))
    with pytest.raises(ImageError, match="bfloat16"):
        model(**question | {"vision_x": question["vision_x"].bfloat16()})
    with pytest.raises(ImageError, match="got shape"):
        model(**question | {"vision_x": question["vision_x"][..., :-1]})
