"""Which engine stands for a served model's vision tower: the entry "fsfast" of its configuration."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from hashlib import sha256
from typing import Any

from fsfast.encoder import SmoothedEncoder
from fsfast.engine.engine import Engine, load_engine
from fsfast.errors import EngineError, did_you_mean

HOST = "vLLM's LLaVA"
_SECRET = "FSFAST_SECRET"
_OPTIONS = ("device", "backend", "precision", "threads", "micro_batch", "graph_threads")
_EXAMPLE = '"fsfast": {"engine": "/engines/llava", "digest": "…"}'


@dataclass(frozen=True)
class Settings:
    """The entry "fsfast" of the model's configuration.

    Attributes:
        engine: directory of the engine.
        digest: that it must have, hex; None: whichever it has.
        n0: samples per image; None: the engine's.
        device, backend, precision, threads, micro_batch, graph_threads: as in `SmoothedEncoder`.
    """

    engine: str
    digest: str | None = None
    n0: int | None = None
    device: str = "auto"
    backend: str = "auto"
    precision: str | None = None
    threads: int | None = None
    micro_batch: int | None = None
    graph_threads: int | None = None

    @classmethod
    def of(cls, hf_config: Any) -> Settings:
        """Read a model's configuration.

        Raises:
            EngineError: it names no engine.
            ValueError: it says something else, too.
        """
        said = getattr(hf_config, "fsfast", None)
        if not isinstance(said, Mapping) or not isinstance(said.get("engine"), str):
            raise EngineError(
                f"this architecture wants an engine in the place of the vision tower, got {said!r}; add {_EXAMPLE} to "
                "the model's config.json, or to --hf-overrides (vLLM) or --json-model-override-args (SGLang)"
            )
        known = [field.name for field in fields(cls)]
        if unknown := [name for name in said if name not in known]:
            near = did_you_mean(unknown[0], known)
            raise ValueError(f"wanted {', '.join(known)} in the entry fsfast, got {unknown[0]!r}{near}")
        return cls(**said)

    def load(self) -> Engine:
        """Return the engine, verified; once per process.

        Raises:
            EngineError: it cannot be trusted, or has another digest.
        """
        return _load(self.engine, self.digest)

    def open(self) -> SmoothedEncoder:
        """Return the engine, ready to serve, with the secret of the environment.

        Servers may compute the features of an image again, at any time, in several processes: where a cache was full,
        half of an image's tokens come from the one and half from the other. A secret makes all of them the same.

        Raises:
            EngineError: as `load`, or there is no secret.
            BackendUnavailable, ValueError: as `SmoothedEncoder`.
        """
        secret = os.fsencode(os.environ.get(_SECRET, ""))
        if not secret:
            raise EngineError(
                f"wanted a secret in {_SECRET}, got none: servers compute an image again when they like to, and noise "
                f"must then be the same; export {_SECRET}=$(openssl rand -hex 32), the same for all processes"
            )
        self.load()
        options = {name: getattr(self, name) for name in _OPTIONS}
        return SmoothedEncoder(self.engine, secret=secret, **options)

    def cache_prefix(self) -> str:
        """Return what makes names in vLLM's caches those of this engine (its digest fixes σ), n0 and options."""
        engine = self.load()
        facts = {name: getattr(self, name) for name in _OPTIONS}
        facts |= {
            "digest": engine.digest,
            "sigma": engine.manifest.sigma,
            "n0": self.n0 or engine.manifest.n0,
        }
        named = sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return f"fsfast-s{engine.manifest.sigma:g}-n{facts['n0']}-{named[:32]}"


@cache
def _load(path: str, digest: str | None) -> Engine:
    engine = load_engine(path)
    if digest not in (None, engine.digest):
        raise EngineError(
            f"wanted the engine with digest {digest}, {path} has {engine.digest}; name that engine, or this digest "
            "where you trust it"
        )
    return engine
