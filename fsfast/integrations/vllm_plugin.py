"""vLLM's plugin: it makes the architecture of a LLaVA known whose vision tower is an engine of fsfast.

The entry point `vllm.general_plugins` calls `register` in each of vLLM's processes, whichever model they serve; so this
imports neither torch nor the model.
"""

from __future__ import annotations

from fsfast.integrations.packages import host_package

ARCHITECTURE = "FsfastLlavaForConditionalGeneration"
_CLASS = "fsfast.integrations.vllm_llava:FsfastLlava"


def register() -> None:
    """Make the architecture known to vLLM; called again it does nothing new.

    Raises:
        BackendUnavailable: vLLM is missing.
    """
    registry = host_package("vllm", "vllm").ModelRegistry
    if ARCHITECTURE not in registry.get_supported_archs():
        registry.register_model(ARCHITECTURE, _CLASS)
