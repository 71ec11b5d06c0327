"""What transformers answers to the pictures, and to embeddings."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration

import fsfast
from fsfast.integrations.projector import Projector
from fsfast.integrations.vllm import image_embeds
from tests.integrations.with_vllm.tiny_llava import CLIP, IMAGE_TOKEN, NEW_TOKENS, PROMPT, pictures


class Reference:
    """The checkpoint in transformers."""

    def __init__(self, llava: Path) -> None:
        self.model = LlavaForConditionalGeneration.from_pretrained(llava).eval()
        self.processor = AutoProcessor.from_pretrained(llava)
        self.projector = Projector.from_checkpoint(llava)
        self.inputs = [self.processor(images=one, text=PROMPT, return_tensors="pt") for one in pictures()]

    def texts(self) -> list[list[int]]:
        """The tokens that follow each picture."""
        return [self._generate(**inputs)[inputs["input_ids"].shape[1] :] for inputs in self.inputs]

    def texts_of(self, embeds: np.ndarray) -> list[list[int]]:
        """The tokens that follow embeddings [B, L, hidden] in the place of the pictures."""
        found = []
        for inputs, one in zip(self.inputs, torch.from_numpy(embeds), strict=True):
            ids = inputs["input_ids"]
            words = self.model.get_input_embeddings()(ids)
            places = (ids == IMAGE_TOKEN)[..., None].expand_as(words)
            found.append(
                self._generate(
                    inputs_embeds=words.masked_scatter(places, one), attention_mask=inputs["attention_mask"]
                )
            )
        return found

    def embeddings(self, engine: Path) -> tuple[fsfast.SmoothedFeatures, np.ndarray]:
        """Features of the pictures by an engine, and what the language model reads of them."""
        pixels = torch.cat([inputs["pixel_values"] for inputs in self.inputs])
        with fsfast.SmoothedEncoder(engine, secret=os.environ["FSFAST_SECRET"]) as encoder:
            out = encoder.encode(fsfast.from_pixel_values(pixels, CLIP["mean"], CLIP["std"]))
        return out, image_embeds(out, self.projector)

    def _generate(self, **inputs: torch.Tensor) -> list[int]:
        tokens = self.model.generate(
            **inputs, max_new_tokens=NEW_TOKENS, do_sample=False, suppress_tokens=[IMAGE_TOKEN]
        )
        return tokens[0].tolist()
