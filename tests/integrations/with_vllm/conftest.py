"""A tiny LLaVA, engines of its tower, and what transformers answers: shared by the tests with vLLM."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def _quiet():
    """No network, a small cache, one secret in all processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("VLLM_NO_USAGE_STATS", "1")
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("FSFAST_SECRET", "a secret of the tests")
        yield


@pytest.fixture(scope="session")
def llava(tmp_path_factory) -> Path:
    from tests.integrations.with_vllm.tiny_llava import make_llava

    return make_llava(tmp_path_factory.mktemp("llava") / "llava")


@pytest.fixture(scope="session")
def engines(llava, tmp_path_factory) -> dict[str, Path]:
    """By name: σ = 0.25; one whose noise is always 0; and one of another layer."""
    from tests.integrations.with_vllm.tiny_llava import make_engine

    folder = tmp_path_factory.mktemp("engines")
    return {
        "smoothed": make_engine(folder / "smoothed", llava, 0.25),
        "clean": make_engine(folder / "clean", llava, 0.00022),
        "last": make_engine(folder / "last", llava, 0.25, output="tokens"),
    }


@pytest.fixture(scope="session")
def reference(llava):
    from tests.integrations.with_vllm.reference import Reference

    return Reference(llava)


@pytest.fixture(scope="session")
def embeddings(reference, engines):
    """By name of the engine: features of the pictures, and what the language model reads of them."""
    return {name: reference.embeddings(engines[name]) for name in ("smoothed", "clean")}
