"""Values in configuration files: what they may be, and whether the weights say the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}


def activation(name: Any) -> str:
    """Return what transformers calls so as ViTConfig has it."""
    if name not in _ACTIVATIONS:
        raise ValueError(f"wanted hidden_act as one of {', '.join(_ACTIVATIONS)}, got {name!r}")
    return _ACTIVATIONS[name]


def compare(said: Mapping[str, Any], shown: Mapping[str, Any]) -> None:
    """Refuse what weights contradict."""
    for name, value in shown.items():
        if said[name] != value:
            raise ValueError(f"it says {name}={said[name]!r}, and the weights {value!r}")


def whole(value: Any, name: str, least: int = 1) -> int:
    """Return a whole number, or refuse what is none."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"wanted {name} as a whole number of at least {least}, got {value!r}")
    return value


def wholes(value: Any, name: str) -> tuple[int, ...]:
    """Return whole numbers in a list."""
    if not isinstance(value, list):
        raise ValueError(f"wanted {name} as a list of whole numbers, got {value!r}")
    return tuple(whole(each, name, 0) for each in value)


def number(value: Any, name: str) -> float:
    """Return a number, or refuse what is none."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"wanted {name} as a number, got {value!r}")
    return value
