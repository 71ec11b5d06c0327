"""LangChain's vector stores over smoothed directions, with the real langchain-core."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from PIL import Image

from benchmarks.load.server import Server
from fsfast import Client
from fsfast.errors import EngineError, ImageError

pytest.importorskip("langchain_core", reason="needs langchain-core")

from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore

from fsfast.integrations.langchain import SmoothedEmbeddings


@pytest.fixture(scope="module")
def embeddings(small):
    return SmoothedEmbeddings(small, n0=2)


@pytest.fixture
def paths(tmp_path, picture):
    """Files of three pictures."""
    made = []
    for name, pixels in (("a.png", picture), ("b.png", picture[::-1]), ("c.png", 255 - picture)):
        Image.fromarray(pixels).save(tmp_path / name)
        made.append(str(tmp_path / name))
    return made


def test_vectors_are_the_served_directions(embeddings, small, paths):
    wanted = small.encode(paths, n0=2).unit
    np.testing.assert_array_equal(np.float32(embeddings.embed_documents(paths)), wanted)
    np.testing.assert_array_equal(np.float32(embeddings.embed_image(uris=paths)), wanted)
    np.testing.assert_array_equal(np.float32(embeddings.embed_query(paths[1])), wanted[1])
    assert embeddings.embed_documents([]) == []


def test_with_asyncio_too(embeddings, paths):
    async def both():
        return await asyncio.gather(embeddings.aembed_documents(paths), embeddings.aembed_query(paths[0]))

    documents, query = asyncio.run(both())
    assert documents == embeddings.embed_documents(paths)
    assert query == documents[0]


def test_a_store_finds_images(embeddings, paths):
    store = InMemoryVectorStore(embeddings)
    store.add_documents([Document(page_content=path, metadata={"number": i}) for i, path in enumerate(paths)])
    for i, path in enumerate(paths):
        ((found, score),) = store.similarity_search_with_score(path, k=1)
        assert found.metadata == {"number": i}
        assert score == pytest.approx(1.0, abs=1e-6)


def test_texts_are_refused_before_anything_is_embedded(embeddings, paths, tmp_path):
    for text in ("a photograph of a cat", "", "x" * 5000, "\0", None):
        with pytest.raises(ImageError, match=r"wanted the path of an image file, got .*texts have not"):
            embeddings.embed_documents([*paths, text])
        with pytest.raises(ImageError, match="wanted the path of an image file"):
            embeddings.embed_query(text)
    (tmp_path / "words.txt").write_text("a cat")
    with pytest.raises(ImageError, match=r"words\.txt"):
        embeddings.embed_documents([*paths, str(tmp_path / "words.txt")])


def test_engines_of_tokens_are_refused(demo, paths):
    with pytest.raises(EngineError, match="has 64 tokens; export it with --output pooled"):
        SmoothedEmbeddings(demo, n0=1).embed_query(paths[0])


def test_through_a_server(small, small_path, paths):
    pytest.importorskip("fastapi", reason="the server needs the extra [serve]")
    with Server(str(small_path)) as server, Client(server.url) as client:
        embeddings = SmoothedEmbeddings(client, n0=2)
        vectors = np.float32(embeddings.embed_documents(paths))
        np.testing.assert_array_equal(vectors, client.encode(paths, n0=2).unit)
        assert asyncio.run(embeddings.aembed_query(paths[0])) == embeddings.embed_query(paths[0])
