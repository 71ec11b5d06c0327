"""The hosts that can embed the encoder, and what of each is usable here: the README's table, `doctor --stack`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec

from fsfast.errors import FsfastError, brief, did_you_mean
from fsfast.installation import pip

# Part → whether it is usable, and a remark.
Findings = dict[str, tuple[bool, str]]


@dataclass(frozen=True)
class Host:
    """A library or server that embeds the encoder.

    Attributes:
        name: as `fsfast doctor --stack` takes it.
        title: for people.
        package: its distribution.
        module: ours, in fsfast.integrations unless it says so.
        how: the hook that is used, in a few words.
        tested: against what, and by which command.
        active: how a program that uses it sees that its features are smoothed.
        more: further findings.
    """

    name: str
    title: str
    package: str
    module: str
    how: str
    tested: str
    active: str
    more: Callable[[], Findings] | None = None

    @property
    def page(self) -> str:
        """Its page, from docs/."""
        return "ray.md" if self.name == "ray" else f"stacks/{self.name}.md"

    def findings(self) -> Findings:
        """Return what of it is usable here."""
        module = self.module if self.module.startswith("fsfast.") else f"fsfast.integrations.{self.module}"
        found = {self.package: _installed(self.package), module: _imported(module)}
        if self.more is not None:
            found |= self.more()
        return found | {"in use": (True, self.active)}


def host(name: str) -> Host:
    """Return a host by its name; raises ValueError where there is none."""
    if name not in HOSTS:
        raise ValueError(f"wanted a stack of {', '.join(HOSTS)}, got {name!r}{did_you_mean(name, HOSTS)}")
    return HOSTS[name]


def _installed(package: str) -> tuple[bool, str]:
    try:
        return True, version(package)
    except PackageNotFoundError:
        # A clone on the path has no distribution.
        if find_spec(package.replace("-", "_")) is not None:
            return True, "can be found"
        return False, f"not installed: {pip('install', package)}"


def _imported(module: str) -> tuple[bool, str]:
    try:
        import_module(module)
    except (FsfastError, ImportError) as error:
        return False, brief(error)
    return True, "can be imported"


def _plugin(group: str, variable: str) -> Findings:
    """Whether a server would load the plugin, which lets a model name an engine as its tower."""
    if "fsfast" not in (point.name for point in entry_points(group=group)):
        return {"plugin": (False, f"no entry point {group} of fsfast: it is not installed as a package here")}
    allowed = os.environ.get(variable)
    if allowed is not None and "fsfast" not in allowed.split(","):
        return {"plugin": (False, f"{variable}={allowed} leaves it out; add fsfast to it")}
    return {"plugin": (True, "loaded at every start")}


_PRINT = "print(model) shows the tower with the engine's digest; handed(model) has what the last call got"

HOSTS: dict[str, Host] = {
    host.name: host
    for host in (
        Host(
            "transformers",
            "transformers: LLaVA, PaliGemma, Gemma 3, SmolVLM, Qwen-VL",
            "transformers",
            "transformers",
            "`attach(model, processor, encoder)`",
            "small models of nine kinds, 4.57 to 5.24; `make integrations`",
            _PRINT,
        ),
        Host(
            "vllm",
            "vLLM: LLaVA",
            "vllm",
            "vllm",
            "embeddings for a server without a tower, or a plugin",
            "its server and engine on a CPU, 0.32; `make vllm`",
            "a server without a tower answers a picture with 400; the plugin's log names the engine and its digest",
            partial(_plugin, "vllm.general_plugins", "VLLM_PLUGINS"),
        ),
        Host(
            "llava",
            "LLaVA's repository",
            "llava",
            "llava",
            "`attach(model, encoder)`, `build_engines(encoder)`",
            "a clone of it: factory, loading, tiles, generate",
            "print(model.get_vision_tower()) names the engine and its digest",
        ),
        Host(
            "openflamingo",
            "OpenFlamingo",
            "open_flamingo",
            "open_flamingo",
            "`attach(model, encoder, layer=…)`",
            "the package's factory, generate and caches, 2.0.1",
            "print(model.vision_encoder) names the engine and its digest",
        ),
        Host(
            "open-clip",
            "open_clip",
            "open_clip_torch",
            "open_clip",
            "`attach(model, encoder)`",
            "the package, 3.3, small model; `make integrations`",
            "print(model.visual) names the engine and its digest",
        ),
        Host(
            "dynamo",
            "NVIDIA Dynamo",
            "ai-dynamo",
            "dynamo",
            "a class for `--custom-encoder-class`",
            "its driver, batcher and adapter, 1.6.1; no worker was run",
            "the worker's log names the class; there is no tower to which it could fall back",
        ),
        Host(
            "sglang",
            "SGLang: LLaVA",
            "sglang",
            "sglang",
            "a plugin; the model's configuration names the engine",
            "its plugin loader, hooks and LLaVA class, 0.5.23; no server was run",
            "the server's log names the engine and its digest",
            partial(_plugin, "sglang.srt.plugins", "SGLANG_PLUGINS"),
        ),
        Host(
            "sentence-transformers",
            "sentence-transformers",
            "sentence-transformers",
            "sentence_transformers",
            "`SentenceTransformer(modules=[SmoothedImages(encoder)])`",
            "the package, 6.2; `make integrations`",
            "print(model) shows SmoothedImages with the engine and its digest",
        ),
        Host(
            "langchain",
            "LangChain",
            "langchain-core",
            "langchain",
            "`SmoothedEmbeddings(encoder)`",
            "langchain-core 1.8; `make integrations`",
            "embeddings.encoder names the engine and its digest",
        ),
        Host(
            "vector-stores",
            "Arrow, Parquet, FAISS, LanceDB",
            "pyarrow",
            "parquet",
            "`parquet_rows(path)`, `certified_neighbour(…)`",
            "pyarrow 26, faiss 1.15, lancedb 0.40; `make integrations`",
            "a file names the engine's digest and the function, and holds one",
        ),
        Host(
            "hub",
            "Hugging Face Hub",
            "huggingface_hub",
            "fsfast.engine.hub",
            '`SmoothedEncoder("hf://owner/name")`, `fsfast push`',
            "huggingface_hub 2.4 and a stand-in, not the Hub itself",
            "fsfast info hf://owner/name shows the digest",
        ),
        Host(
            "ray",
            "Ray Serve, Ray Data",
            "ray",
            "ray.serve",
            "`deployment(engine)`, `encode_dataset(…)`",
            "the package, 2.60, two nodes of one machine; `make ray`",
            "answers and files name the engine's digest and the function",
        ),
    )
}
