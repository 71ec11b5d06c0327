"""From names to directions: tokens as the towers read them, templates averaged, and an engine that predicts."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn.functional import normalize

from export import classes, from_text
from export.texts import Texts
from fsfast.engine.classes import load_classes
from fsfast.engine.engine import load_engine
from fsfast.models import load_text_tower
from tests.models.texts import (
    SMALL_CLIP,
    SMALL_SIGLIP,
    TOKENS,
    as_open_clip,
    random_tower,
    save_transformers,
    write_tokenizer,
)

BEGIN, END = len(TOKENS) - 2, len(TOKENS) - 1


@pytest.fixture
def clip(tmp_path):
    """A small CLIP's directory with a tokenizer, and names."""
    folder = tmp_path / "clip"
    folder.mkdir()
    save_transformers(folder, random_tower(replace(SMALL_CLIP, embed_dim=128)))
    write_tokenizer(folder)
    (tmp_path / "names.txt").write_text("cat\nphoto\n")
    return folder


def run(tmp_path, *arguments):
    names, out = str(tmp_path / "names.txt"), str(tmp_path / "texts.safetensors")
    return from_text.main([*map(str, arguments), "--names", names, "--out", out])


def test_an_engine_predicts_by_names(clip, pooled_path, tmp_path):
    arguments = ("--template", "a {}", "--template", "{}!")
    assert run(tmp_path, clip, *arguments) == 0
    tower, texts = load_text_tower(clip).module, Texts(clip, replace(SMALL_CLIP, embed_dim=128))
    for row, name in zip(
        load_file(tmp_path / "texts.safetensors")["class_features"], ("cat", "photo"), strict=True
    ):
        each = []
        for text in (f"a {name}", f"{name}!"):
            tokens, ends = texts.tokens([text])
            each.append(normalize(tower(torch.tensor(tokens), torch.tensor(ends)), dim=-1))
        np.testing.assert_allclose(row, normalize(torch.cat(each).mean(0), dim=0), atol=1e-6)
    rows = str(tmp_path / "texts.safetensors")
    assert classes.main([str(pooled_path), "--classes", rows, "--out", str(tmp_path / "engine")]) == 0
    engine = load_engine(tmp_path / "engine")
    head = load_classes(engine)
    assert head.names == ("cat", "photo")
    assert head.predict(head.features[::-1]) == ["photo", "cat"]
    source = engine.manifest.record["provenance"][-1]["source"]
    assert "model.safetensors (sha256 " in source
    assert "template 'a {}' and 1 more" in source


def test_clips_tokens(clip):
    """Merged as the file says, small letters, between beginning and end; all rows of one length."""
    texts = Texts(clip, SMALL_CLIP)
    cat = TOKENS.index("cat</w>")
    rows, ends = texts.tokens(["Cat", "cat  cat"])
    assert rows == [[BEGIN, cat, END, END], [BEGIN, cat, cat, END]]
    assert ends == [2, 3]
    pho = [TOKENS.index(token) for token in ("pho", "t", "o</w>")]
    assert texts.tokens(["photo"])[0] == [[BEGIN, *pho, END]]
    # A tokenizer.json may pad, cut, and add tokens of its own.
    whole = Tokenizer.from_str(texts._tokenizer.to_str())
    whole.enable_padding(length=9)
    whole.enable_truncation(2)
    whole.save(str(clip / "tokenizer.json"))
    assert Texts(clip / "tokenizer.json", SMALL_CLIP).tokens(["photo"])[0] == [[BEGIN, *pho, END]]


@pytest.mark.parametrize("version", [1, 2])
def test_siglips_tokens(version, tmp_path):
    """They fill the context, whose last place stands for the text; the first SigLIP drops punctuation."""
    end, pad = ("</s>", "</s>") if version == 1 else ("<eos>", "<pad>")
    words = {"a": 2, "cats": 3, "tail": 4, "'": 5, ".": 6, end: 1} | ({pad: 0} if version == 2 else {})
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=end))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    rows, ends = Texts(tmp_path, SMALL_SIGLIP).tokens(["A  cats' tail."])
    assert rows == [[2, 3, 4, 1, 1, 1, 1, 1] if version == 1 else [2, 3, 5, 4, 6, 1, 0, 0]]
    assert ends == [7]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--template", "a photo"], "one {} for the name"),
        (["--template", "{} {}"], "one {} for the name"),
        (["--template", "{} in a very long text"], "at most 16 tokens"),
        (["--tokenizer", "nowhere"], "give one with --tokenizer"),
        (["--activation", "gelu"], "wanted activation=gelu, got quick_gelu"),
        (["--templates", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_what_cannot_be_read_is_refused(clip, tmp_path, arguments, says, capsys):
    assert run(tmp_path, clip, *arguments) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "texts.safetensors").exists()


def test_a_missing_tokenizers_names_its_extra(clip, tmp_path, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "export.texts")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, clip)
    assert stopped.value.code == 2
    assert "[text]" in capsys.readouterr().err


def test_a_file_that_stands_there_is_kept(clip, tmp_path, capsys):
    (tmp_path / "texts.safetensors").write_bytes(b"mine")
    assert run(tmp_path, clip) == 2
    assert "pass --force" in capsys.readouterr().err
    assert run(tmp_path, clip, "--force") == 0


def test_a_file_of_openais_wants_a_tokenizer(clip, tmp_path, capsys):
    openai = {name: torch.tensor(1) for name in ("input_resolution", "context_length", "vocab_size")}
    path = tmp_path / "openai.safetensors"
    save_file({**as_open_clip(random_tower(SMALL_CLIP)), **openai}, path)
    assert run(tmp_path, path) == 2
    assert "give one with --tokenizer" in capsys.readouterr().err
    assert run(tmp_path, path, "--tokenizer", clip) == 0


def test_a_tokenizer_of_another_tower_is_refused(clip, tmp_path):
    with pytest.raises(ValueError, match=r"wanted tokens below 100, as many as the text tower has, got \d+"):
        Texts(clip, replace(SMALL_CLIP, vocabulary=100)).tokens(["cat"])
    with pytest.raises(ValueError, match="wanted the tokenizer of a SigLIP, got one without <eos>"):
        Texts(clip, SMALL_SIGLIP)
    (clip / "tokenizer.json").write_text(json.dumps({"version": "1.0"}))
    with pytest.raises(ValueError, match="cannot read the tokenizer"):
        Texts(clip, SMALL_CLIP)
