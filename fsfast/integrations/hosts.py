"""The hosts that can embed the encoder, and what of each is usable here: the README's table, `doctor --stack`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, entry_points, version

from fsfast.errors import FsfastError, brief, did_you_mean
from fsfast.installation import pip

# Part → whether it is usable, and a remark.
Findings = dict[str, tuple[bool, str]]


@dataclass(frozen=True)
class Host:
    """A library or server that embeds the encoder.

    Attributes:
        name: as `fsfast doctor --stack` takes it; its page is docs/stacks/<name>.md.
        title: for people.
        package: its distribution.
        module: ours, in fsfast.integrations.
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

    def findings(self) -> Findings:
        """Return what of it is usable here."""
        module = f"fsfast.integrations.{self.module}"
        found = {self.package: _installed(self.package), module: _imported(module)}
        if self.more is not None:
            found |= self.more()
        return found | {"active?": (True, self.active)}


def host(name: str) -> Host:
    """Return a host by its name; raises ValueError where there is none."""
    if name not in HOSTS:
        raise ValueError(f"wanted a stack of {', '.join(HOSTS)}, got {name!r}{did_you_mean(name, HOSTS)}")
    return HOSTS[name]


def _installed(package: str) -> tuple[bool, str]:
    try:
        return True, version(package)
    except PackageNotFoundError:
        return False, f"not installed: {pip('install', package)}"


def _imported(module: str) -> tuple[bool, str]:
    try:
        import_module(module)
    except (FsfastError, ImportError) as error:
        return False, brief(error)
    return True, "can be imported"


def _plugin() -> Findings:
    """Whether vLLM would load the plugin, which lets a model name an engine as its tower."""
    if "fsfast" not in (point.name for point in entry_points(group="vllm.general_plugins")):
        return {
            "plugin": (False, "vLLM finds no entry point of fsfast: it is not installed as a package here")
        }
    allowed = os.environ.get("VLLM_PLUGINS")
    if allowed is not None and "fsfast" not in allowed.split(","):
        return {"plugin": (False, f"VLLM_PLUGINS={allowed} leaves it out; add fsfast to it")}
    return {"plugin": (True, "vLLM loads it at every start")}


HOSTS: dict[str, Host] = {}
