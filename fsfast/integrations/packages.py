"""Packages of hosts: imported when they are needed; where one is missing, the error says how to get it."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from fsfast.errors import BackendUnavailable, brief
from fsfast.installation import pip_install_extras


def host_package(name: str, extra: str) -> ModuleType:
    """Import a package that comes with an extra of fsfast.

    Raises:
        BackendUnavailable: it is missing, or cannot be imported.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise BackendUnavailable(
            f"this integration needs {name}, which cannot be imported here ({brief(error)}); install it with: "
            f"{pip_install_extras(extra)}"
        ) from error
