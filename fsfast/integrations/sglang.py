"""SGLang's plugin: a LLaVA in the format of its own repository whose configuration names an engine gets it for a tower.

The entry point `sglang.srt.plugins` calls `register` in each of SGLang's processes, whichever model they serve; so this
imports neither torch nor the engine. SGLang goes on where a plugin fails: what makes it fail closed is the tower's name
in the model's configuration, which is no tower that SGLang could load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from fsfast.errors import EngineError
from fsfast.integrations.packages import host_package

TOWER = "fsfast"
_MODELS = "sglang.srt.models.llava"
_EXAMPLE = f'{{"mm_vision_tower": "{TOWER}", "fsfast": {{"engine": "/engines/llava", "digest": "…"}}}}'
# A model and its weights.
Load = Callable[[Any, Iterable[tuple[str, Any]]], Any]


def register() -> None:
    """Register the hooks with SGLang.

    Raises:
        BackendUnavailable: SGLang is missing.
    """
    hooks = host_package("sglang.srt.plugins.hook_registry", "sglang")
    for model, hook in (
        ("LlavaBaseForCausalLM", load_with_engine),
        ("LlavaForConditionalGeneration", refuse_engine),
    ):
        hooks.HookRegistry.register(f"{_MODELS}.{model}.load_weights", hook, hooks.HookType.AROUND)


def load_with_engine(original: Load, model: Any, weights: Iterable[tuple[str, Any]]) -> Any:
    """Put the engine in before SGLang looks for a tower, and leave the tower's weights out.

    Raises:
        EngineError: the configuration names an engine and another tower; or the engine is missing, has another digest,
            or makes something else than the model reads.
    """
    if model.config.mm_vision_tower != TOWER:
        _check_unnamed(model.config, f"the tower {model.config.mm_vision_tower}")
        return original(model, weights)
    from fsfast.integrations.sglang_tower import engine_tower

    model.vision_tower = engine_tower(model)
    return original(model, ((name, weight) for name, weight in weights if "vision_tower" not in name))


def refuse_engine(original: Load, model: Any, weights: Iterable[tuple[str, Any]]) -> Any:
    """Load a model in transformers' format, which reads its tower elsewhere, unless an engine was asked for."""
    _check_unnamed(model.config, "a model in transformers' format")
    if getattr(model.config, "mm_vision_tower", None) == TOWER:
        raise EngineError(f"wanted a LLaVA in the format of its own repository, got {type(model).__name__}")
    return original(model, weights)


def _check_unnamed(config: Any, got: str) -> None:
    if getattr(config, "fsfast", None) is not None:
        raise EngineError(
            f"the configuration names an engine of fsfast and {got}, which would see without it; for a LLaVA in the "
            f"format of its own repository pass --json-model-override-args '{_EXAMPLE}'"
        )
