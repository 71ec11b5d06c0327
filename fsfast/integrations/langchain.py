"""Smoothed directions of images as LangChain's embeddings."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fsfast.encoder import SmoothedEncoder
from fsfast.errors import EngineError, ImageError, brief
from fsfast.integrations.packages import host_package

if TYPE_CHECKING:
    from fsfast.client import Client

host_package("langchain_core.embeddings", "langchain")

from langchain_core.embeddings import Embeddings  # noqa: E402


class SmoothedEmbeddings(Embeddings):
    """Embeds image files, named by their paths where other embeddings take texts; texts themselves are refused.

    A vector is the image's direction `unit`, [D] of norm 1, of which certificates speak. Without a secret (of the
    encoder, or of the server) an image that is embedded twice has two slightly different vectors.

    Methods that begin with `a` are for asyncio; they embed in a thread.

    Args:
        encoder: an open encoder, or a client of a server; the engine has pooled features.
        n0: samples per image; None: the engine's.
    """

    def __init__(self, encoder: SmoothedEncoder | Client, n0: int | None = None) -> None:
        self.encoder, self.n0 = encoder, n0

    def embed_image(self, uris: list[str]) -> list[list[float]]:
        """Return the directions of image files; the method that LangChain's vector stores call to add images.

        Args:
            uris: paths.

        Raises:
            ImageError: a text, which has no smoothed features, or a file that is not an image.
            EngineError: the engine has tokens, which are no single vector.
            ServerError, ReplicasDiffer: as `Client.encode`.
            ValueError: n0 is off.
        """
        for uri in uris:
            if not (isinstance(uri, str) and os.path.isfile(uri)):
                raise ImageError(
                    f"wanted the path of an image file, got {brief(repr(uri))}, which names none; images alone have "
                    "smoothed features, texts have not"
                )
        vectors = []
        for outcome in self.encoder.encode_iter(uris, self.n0, progress=False):
            assert outcome.result is not None, "errors are raised"
            unit = outcome.result.unit
            if unit.ndim != 2:
                raise EngineError(
                    f"wanted an engine with one vector per image, {outcome.result.engine} has {unit.shape[1]} tokens; "
                    "export it with --output pooled"
                )
            vectors.append(unit[0].tolist())
        return vectors

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the directions of image files to be found, as `embed_image`."""
        return self.embed_image(texts)

    def embed_query(self, text: str) -> list[float]:
        """Return the direction of an image file to search with, as `embed_image`."""
        return self.embed_image([text])[0]
