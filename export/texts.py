"""Names of classes as texts, and texts as the tokens of a CLIP or a SigLIP."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE

from fsfast.errors import brief
from fsfast.models.text import TextConfig

# As CLIP's authors split words.
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
# Of SigLIP 2 and of SigLIP: the end of a text, and what follows it.
_ENDS = (("<eos>", "<pad>"), ("</s>", "</s>"))


class Texts:
    """Texts as a text tower reads them.

    Args:
        path: of a tokenizer.json, or of a folder with one, or with CLIP's vocab.json and merges.txt.
        config: of the tower.

    Raises:
        ValueError: there is no tokenizer, or one of another tower.
    """

    def __init__(self, path: Path, config: TextConfig) -> None:
        self._config, self._path = config, path
        self._tokenizer = _load(path)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        if config.kind == "clip":
            self._begin, self._end = [self._id("<|startoftext|>")], self._id("<|endoftext|>")
            self._pad = self._end
        else:
            ends = next(
                (pair for pair in _ENDS if self._tokenizer.token_to_id(pair[0]) is not None), _ENDS[0]
            )
            self._begin, self._end, self._pad = [], self._id(ends[0]), self._id(ends[1])

    def tokens(self, texts: Sequence[str]) -> tuple[list[list[int]], list[int]]:
        """Return the tokens of texts, all of one length, and the place of the one that stands for each text.

        Raises:
            ValueError: a text is longer than the tower's context, or has tokens that the tower does not know.
        """
        rows = [self._row(text) for text in texts]
        siglip = self._config.kind == "siglip"
        # CLIP's tokens do not see what follows them; SigLIP was trained on texts that fill the context.
        length = self._config.context if siglip else max(map(len, rows))
        ends = [length - 1 if siglip else len(row) - 1 for row in rows]
        return [row + [self._pad] * (length - len(row)) for row in rows], ends

    def _row(self, text: str) -> list[int]:
        if self._config.kind == "siglip":
            text = self._canonical(text)
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        row = [*self._begin, *ids, self._end]
        if len(row) > self._config.context:
            raise ValueError(
                f"wanted texts of at most {self._config.context} tokens, got {len(row)} in {brief(repr(text))}; "
                "shorten the name or the template"
            )
        if max(row) >= self._config.vocabulary:
            raise ValueError(
                f"wanted tokens below {self._config.vocabulary}, as many as the text tower has, got {max(row)} from "
                f"{self._path}; give the tokenizer of the same checkpoint with --tokenizer"
            )
        return row

    def _canonical(self, text: str) -> str:
        """The text as SigLIP's authors prepare it: small letters, single spaces; in the first SigLIP no punctuation."""
        text = text.lower()
        if self._pad == self._end:
            text = text.translate(str.maketrans("", "", string.punctuation))
        return " ".join(text.split())

    def _id(self, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        if found is None:
            kind = "CLIP" if self._config.kind == "clip" else "SigLIP"
            raise ValueError(
                f"{self._path}: wanted the tokenizer of a {kind}, got one without {token}; give that of the same "
                "checkpoint with --tokenizer"
            )
        return int(found)


def templates_of(templates: Sequence[str]) -> list[str]:
    """Return templates of texts, each with one place for the name.

    Raises:
        ValueError: one has no place {} for the name, or several.
    """
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(
                f"wanted templates with one {{}} for the name, as 'a photo of a {{}}.', got {template!r}"
            )
    return list(templates)


def _load(path: Path) -> Tokenizer:
    whole, parts = path, [path / "vocab.json", path / "merges.txt"]
    if path.is_dir():
        whole = path / "tokenizer.json"
    try:
        if whole.is_file():
            return Tokenizer.from_file(str(whole))
        if all(part.is_file() for part in parts):
            return _clip(*map(str, parts))
    # The library raises Exception itself.
    except Exception as error:
        raise ValueError(f"cannot read the tokenizer in {path}: {brief(error)}") from None
    raise ValueError(
        f"wanted a tokenizer.json, or vocab.json and merges.txt, in {path}, found none; give one with --tokenizer "
        "FILE_OR_DIR: every CLIP of OpenAI's and most others have that of openai/clip-vit-base-patch32"
    )


def _clip(vocabulary: str, merges: str) -> Tokenizer:
    """CLIP's tokenizer from its vocabulary and merges, as transformers makes it."""
    model = BPE.from_file(
        vocabulary,
        merges,
        continuing_subword_prefix="",
        end_of_word_suffix="</w>",
        fuse_unk=False,
        unk_token="<|endoftext|>",
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer
