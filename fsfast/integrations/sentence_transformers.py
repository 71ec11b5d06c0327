"""Smoothed features of images as the embeddings of a SentenceTransformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fsfast.encoder import SmoothedEncoder
from fsfast.errors import EngineError
from fsfast.integrations.packages import host_package
from fsfast.runtime.sampling import check_samples

host_package("sentence_transformers.base.modules", "sentence-transformers")

import torch  # noqa: E402
from sentence_transformers.base.modules import InputModule  # noqa: E402


class SmoothedImages(InputModule):
    """The first module of a SentenceTransformer for images: `SentenceTransformer(modules=[SmoothedImages(encoder)])`.

    `encode` takes images as that of SmoothedEncoder does, and `n0=`; texts are refused. An embedding is the image's
    `features`, [D]; `normalize_embeddings=True` gives its direction, of which certificates speak, `output_value=None`
    the SmoothedFeatures of the batch under "smoothed".

    A saved model holds no weights: it names the engine and its digest, and loads where that engine is found, by
    `SentenceTransformer(path, trust_remote_code=True, model_kwargs={"secret": …})` with options of SmoothedEncoder, and
    "engine" where it has moved.

    Args:
        encoder: open, of an engine with pooled features.
        n0: samples per image; None: the engine's.

    Raises:
        EngineError: the engine has tokens, which are no single vector.
        TypeError, ValueError: another argument is off.
    """

    config_file_name = "fsfast.json"
    forward_kwargs = {"n0"}  # noqa: RUF012 - declared so above
    save_in_root = False

    def __init__(self, encoder: SmoothedEncoder, n0: int | None = None) -> None:
        super().__init__()
        if not isinstance(encoder, SmoothedEncoder):
            raise TypeError(f"wanted an open fsfast.SmoothedEncoder, got {type(encoder).__name__}")
        if not encoder.manifest.pooled:
            raise EngineError(
                f"wanted an engine with one vector per image, {encoder.manifest.name} has {encoder.tokens} tokens; "
                "export it with --output pooled"
            )
        self.encoder, self.n0 = encoder, None if n0 is None else check_samples(n0, "n0")
        # Moves with the model, and says where and in which type it wants embeddings.
        self.register_buffer("_like", torch.zeros(()), persistent=False)

    @property
    def modalities(self) -> list[Any]:
        """What can be embedded."""
        return ["image"]

    def get_embedding_dimension(self) -> int:
        """Return D."""
        return self.encoder.dim

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Put images on the engine's grid; errors as `SmoothedEncoder.prepare`, and ValueError for a prompt."""
        if prompt:
            raise ValueError(f"wanted images, which take no prompt, got {prompt!r}; pass prompt=''")
        images = [image["image"] if isinstance(image, dict) else image for image in inputs]
        return {"images": self.encoder.prepare(images)}

    def forward(self, features: dict[str, Any], n0: int | None = None) -> dict[str, Any]:
        """Smooth the images of `preprocess`: adds "sentence_embedding" [B, D], and "smoothed"."""
        out = self.encoder.encode(features["images"], self.n0 if n0 is None else n0, progress=False)
        embeddings = torch.from_numpy(out.features).to(self._like)
        return features | {"sentence_embedding": embeddings, "smoothed": out}

    def get_config_dict(self) -> dict[str, Any]:
        """Return what a saved model says: engine, digest, n0, and whether there was a secret, but not the secret."""
        encoder = self.encoder
        return {
            "engine": encoder.engine_reference,
            "engine_digest": encoder.engine_digest,
            "n0": self.n0,
            "secret": encoder.has_secret,
        }

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write what `get_config_dict` says, and no weights."""
        self.save_config(output_path)

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        model_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> SmoothedImages:
        """Open the engine that a saved model names, with options of SmoothedEncoder in `model_kwargs`.

        Raises:
            EngineError: it is missing, or another one.
            ValueError: the saved one had a secret, and none is given.
        """
        hub = {key: kwargs.get(key) for key in ("token", "cache_folder", "revision", "local_files_only")}
        said, options = cls.load_config(model_name_or_path, subfolder, **hub), dict(model_kwargs or {})
        if said["secret"] and not options.get("secret"):
            raise ValueError(
                "the saved model had a secret; pass model_kwargs={'secret': …}, or seeds are random"
            )
        encoder = SmoothedEncoder(options.pop("engine", said["engine"]), **options)
        if encoder.engine_digest != said["engine_digest"]:
            encoder.close()
            raise EngineError(
                f"wanted the engine with digest {said['engine_digest']}, {encoder.engine_path} has "
                f"{encoder.engine_digest}; name the right one by model_kwargs={{'engine': …}}"
            )
        return cls(encoder, said["n0"])
