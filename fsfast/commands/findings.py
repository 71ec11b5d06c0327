"""What `fsfast inspect` found, in lines."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

_INDENT = 15


def lines(findings: dict[str, Any]) -> Iterator[str]:
    """The findings for people: a fact a line, and at the end what to type."""
    for name, text in _facts(findings):
        head = f"{name}:" if name else ""
        yield f"{head:<{_INDENT}}{text}"
    if findings.get("recipe"):
        yield f"\ncat > {shlex.quote(findings['recipe_file'])} <<'END'\n{findings['recipe']}END\n{findings['command']}"


def _facts(findings: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "what", findings["what"]
    if findings.get("model"):
        yield "model", f"{findings['model']} (config.json)"
    if findings.get("state_dicts"):
        first, *others = findings["state_dicts"]
        yield "state dicts", ", ".join([f"{first} (this one)" if others else first, *others])
    if findings.get("dtypes"):
        types = " and ".join(findings["dtypes"])
        yield "tensors", f"{findings['tensors']} of {types}, {findings['parameters']:,} parameters"
    for i, (by, values) in enumerate(_by_whom(findings.get("fields", {})).items()):
        yield "" if i else "configuration", f"{_listed(values)} ({by})"
    for by, values in _by_whom(findings.get("preparation", {})).items():
        yield "pictures", f"{_listed(values)} ({by})"
    if outputs := findings.get("outputs"):
        yield "outputs", ", ".join(f"{name} {tokens}×{dim}" for name, (tokens, dim) in outputs.items())
    for name, flag in findings.get("unknown", {}).items():
        yield "unknown", f"{name}; {flag}"
    if near := findings.get("nearest"):
        names = f"{near['family']} in {possessive(near['layout'])} names"
        yield "nearest", f"{names}: {near['fits']} of {near['wanted']} fit"
        from fsfast.models.checkpoints.matching import first_of

        for kind in ("missing", "unexpected"):
            yield kind, first_of(near["differences"][kind]) or "none"
    if findings["problem"]:
        yield "problem", findings["problem"]
    if len(findings.get("recipes", ())) > 1:
        yield "recipes", ", ".join(findings["recipes"])
    if says := findings.get("recipe_says"):
        yield "recipe says", f"{_listed(says)}; the files do not"
    if resized := findings.get("resized"):
        yield "resized", "learned positions, from those of {0}×{0} pixels to {1}×{1}".format(*resized)
    if findings["command"] and not findings.get("recipe"):
        yield "command", findings["command"]


def _by_whom(said: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, each in said.items():
        found.setdefault(each["by"], {})[name] = each["value"]
    return found


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_shown(value)}" for name, value in values.items())


def _shown(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)


def possessive(name: str) -> str:
    """Return the genitive of a library's name."""
    return f"{name}'" if name.endswith("s") else f"{name}'s"
