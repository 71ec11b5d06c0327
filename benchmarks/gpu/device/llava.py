"""The paper's Table S.8: seconds per sample of LLaVA-1.5-7B behind a smoothed encoder, weights random.

The language model has LLaVA-1.5-7B's shapes (Vicuna-7B, a projector of two layers), reads 576 image tokens and a
short question, and writes a short answer greedily. What the words are does not change how long they take.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.device.encode import N0, SEED, Study
from benchmarks.gpu.device.networks import case_of, function_of, random_modules
from benchmarks.gpu.device.place import Place
from fsfast.runtime.gpu.function import GpuFunction

PAPER = Path(__file__).parents[2] / "paper" / "table_s8.csv"
PURIFIERS = ("adm256", "unet-light")
QUESTION_TOKENS = 32
ANSWER_TOKENS = 8
# Vicuna-7B with LLaVA's added tokens.
VICUNA = {
    "vocab_size": 32064,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
}
# An answer takes a quarter of a second, and there are ten pairs of a purifier and n0.
_SHORT: dict[str, Any] = {"seconds": 0.3, "runs": 5}
_SMALL = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
}


@dataclass(frozen=True)
class LlavaRow:
    """One line of a results file.

    Attributes:
        model: the language model.
        purifier: of the encoder.
        n0: samples.
        encode_ms, answer_ms: medians of the two parts, each from its launch to its end.
        seconds_per_sample: median of both together.
        paper_seconds: what Table S.8 says, measured on an RTX 4090.
        memory_mb: the most that torch held.
    """

    model: str
    purifier: str
    n0: int
    encode_ms: float
    answer_ms: float
    seconds_per_sample: float
    paper_seconds: float | None
    memory_mb: float | None


def paper_seconds() -> dict[tuple[str, int], float]:
    """Return (purifier, n0) → seconds per sample on an RTX 4090, quoted from Table S.8 (arXiv 2601.16200v1)."""
    with open(PAPER, newline="", encoding="utf-8") as handle:
        return {(r["purifier"], int(r["n0"])): float(r["seconds_per_sample"]) for r in csv.DictReader(handle)}


class LanguageModel:
    """A projector and a language model with random weights in bfloat16.

    Args:
        place: where; a rehearsal has a small model.
        dim: D of the encoder's features.

    Raises:
        ImportError: transformers is not installed.
    """

    def __init__(self, place: Place, dim: int):
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        sizes: dict[str, Any] = _SMALL if place.rehearsed else VICUNA
        width, before = sizes["hidden_size"], torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            with place.device:
                self._model = LlamaForCausalLM(LlamaConfig(**sizes, attn_implementation="sdpa")).eval()
                layers = (nn.Linear(dim, width), nn.GELU(), nn.Linear(width, width))
                self._projector = nn.Sequential(*layers).eval()
        finally:
            torch.set_default_dtype(before)
        self.name = "small, rehearsed" if place.rehearsed else "LLaVA-1.5-7B, random"
        self._question = torch.arange(QUESTION_TOKENS, device=place.device)[None] % sizes["vocab_size"]

    @torch.no_grad()
    def answer(self, features: Tensor) -> Tensor:
        """Return the answer to the question about an image, [ANSWER_TOKENS] token numbers.

        Args:
            features: [L, D] smoothed features on the device.
        """
        image = self._projector(features.bfloat16())[None]
        question = self._model.get_input_embeddings()(self._question)
        embeddings = torch.cat([image, question], dim=1)
        out = self._model(inputs_embeds=embeddings, use_cache=True, logits_to_keep=1)
        words = [out.logits[:, -1].argmax(-1, keepdim=True)]
        while len(words) < ANSWER_TOKENS:
            out = self._model(input_ids=words[-1], past_key_values=out.past_key_values, use_cache=True)
            words.append(out.logits[:, -1].argmax(-1, keepdim=True))
        return torch.cat(words, dim=1)[0]


def encoded(function: GpuFunction, images: Tensor, n0: int) -> Tensor:
    """Return the features [L, D] of one image, which never leave the device."""
    with function.pipeline.lane.beside_caller(images) as hand_out:
        features = function.served_tensors(images, [SEED], n0)[0]
        hand_out(features)
    return features[0]


def table_s8(
    place: Place, purifiers: tuple[str, ...] = PURIFIERS, numbers: tuple[int, ...] = N0
) -> Iterator[LlavaRow]:
    """Answer one question about one image for every purifier and n0, with M = n0."""
    stated = paper_seconds()
    encoder = case_of(purifiers[0], place).encoder
    model = LanguageModel(place, encoder.width)
    # Neither n0 nor the purifier changes what the language model reads.
    features = torch.zeros((encoder.patches, encoder.width), device=place.device)
    answer = place.measure(partial(model.answer, features), **_SHORT).p50
    for purifier in purifiers:
        case = case_of(purifier, place)
        modules = random_modules(case, place.device)
        images = torch.from_numpy(Study.of(place, case).item.pixels).to(place.device)[None]
        for n0 in numbers:
            function = function_of(case, modules, place, "bfloat16", n0)
            encode = partial(encoded, function, images, n0)
            whole = partial(_whole, model, encode)
            parts = [place.measure(call, **_SHORT).p50 for call in (encode, whole)]
            yield LlavaRow(
                model=model.name,
                purifier=purifier,
                n0=n0,
                encode_ms=parts[0] * 1e3,
                answer_ms=answer * 1e3,
                seconds_per_sample=parts[1],
                paper_seconds=stated.get((purifier, n0)),
                memory_mb=place.memory_mb(whole),
            )
            function.pipeline.close()


def _whole(model: LanguageModel, encode: partial[Tensor]) -> Tensor:
    return model.answer(encode())
