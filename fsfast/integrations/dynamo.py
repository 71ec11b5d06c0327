"""NVIDIA Dynamo whose vLLM worker sees through an engine: a backend for its flag --custom-encoder-class.

>>> class Eyes(SmoothedBackend):
...     settings = Settings("/engines/llava-1.5", digest="…")
...     projector = "/models/llava-1.5-7b-hf"
...     image_token_id = 32000
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fsfast.errors import EngineError, ImageError
from fsfast.images.decoding import refusal
from fsfast.images.grid import GridImage
from fsfast.integrations.llava_reads import LAYERS
from fsfast.integrations.matching import HostReads, check_match
from fsfast.integrations.packages import host_package
from fsfast.integrations.projector import Projector
from fsfast.integrations.settings import Settings
from fsfast.integrations.vllm import image_embeds
from fsfast.models.safetensors_arrays import settings_beside

_contract: Any = host_package("dynamo.vllm.multimodal_utils.custom_encoder", "dynamo")
_Backend: Any = _contract.VisionEncoderBackend


class SmoothedBackend(_Backend):
    """Dynamo's VisionEncoderBackend: images as data URIs in, what the language model reads out.

    A class of your own inherits from it and says which engine; its name goes to the flag. Without one the worker does
    not start. The secret is that of the environment, FSFAST_SECRET.

    Attributes:
        settings: the engine, its digest, n0 and options.
        projector: checkpoint of the LLaVA whose projector stands between engine and language model.
        image_token_id: of the token that stands for an image in the prompt; LLaVA-1.5's is 32000.
        dtype: of the language model.
        max_batch_cost: rows that are encoded together; an image costs n0.
        preprocess_concurrency: threads that decode images.
    """

    settings: Settings
    projector: str
    image_token_id: int
    dtype: str = "float16"
    max_batch_cost = 64
    preprocess_concurrency = 2

    def __init__(self) -> None:
        """Verify the engine.

        Raises:
            EngineError: there is none, it cannot be trusted, or it makes something else than the projector takes.
            CheckpointError: the projector cannot be read.
        """
        missing = [n for n in ("settings", "projector", "image_token_id") if not hasattr(self, n)]
        if missing:
            raise EngineError(
                f"wanted {', '.join(missing)} in the class {type(self).__name__}, got none; inherit from "
                "SmoothedBackend and say which engine stands before the language model"
            )
        manifest = self.settings.load().manifest
        self._projector = Projector.from_checkpoint(self.projector)
        check_match(manifest, _reads(self.projector, self._projector.dim))
        self.n0 = self.settings.n0 or manifest.n0
        # Dynamo refuses an image that costs more than a batch may.
        self.max_batch_cost = max(self.max_batch_cost, self.n0)

    def build(self, model_id: str) -> None:
        """Open the engine; raises EngineError where there is no secret, and as `SmoothedEncoder`."""
        self._encoder = self.settings.open()

    def preprocess(self, raw: str) -> Any:
        """Put an image on the grid, at the cost of n0 rows; raises ImageError, which Dynamo answers with 400."""
        return _contract.Preprocessed(item=self._encoder.prepare(_file(raw)), cost=self.n0)

    def forward_batch(self, items: Sequence[GridImage], target_bucket: int | None = None) -> list[Tensor]:
        """Return [L, hidden] of each image, on the CPU.

        Raises:
            EngineError: the numbers are not finite: no fault of any one request in the batch.
        """
        out = self._encoder.encode(list(items), self.n0, progress=False)
        try:
            embeds = image_embeds(out, self._projector)
        except ValueError as error:
            raise EngineError(f"the engine's features do not reach the language model: {error}") from error
        return [torch.from_numpy(one).to(getattr(torch, self.dtype)) for one in embeds]

    def close(self) -> None:
        """Close the engine, where it was opened."""
        if hasattr(self, "_encoder"):
            self._encoder.close()


def _reads(checkpoint: str, dim: int) -> HostReads:
    """Return what a projector takes, by the configuration beside it; without one LLaVA-1.5's layer."""
    said = settings_beside(checkpoint)
    layer = said.get("vision_feature_layer", said.get("mm_vision_select_layer", -2))
    feature = said.get("vision_feature_select_strategy", said.get("mm_vision_select_feature", "patch"))
    output = LAYERS.get(layer, f"hidden_states[{layer}]") if isinstance(layer, int) else f"layers {layer}"
    return HostReads("the projector", output=output, dim=dim, class_token=feature not in ("patch", "default"))


def _file(uri: str) -> bytes:
    """Return an image file. Whatever is said here the client reads."""
    kind, _, text = uri.partition(",")
    if not (kind.startswith("data:") and kind.endswith(";base64")):
        raise refusal("images as data:image/…;base64,…", "another URI", "nothing is fetched here")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise ImageError("wanted images as data:image/…;base64,…, got something that is no base64") from None
