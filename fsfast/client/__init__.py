"""Clients of `fsfast serve`, with the methods of the encoder: `Client`, and `AsyncClient` for asyncio."""

from __future__ import annotations

from fsfast.errors import BackendUnavailable
from fsfast.installation import pip_install_extras

try:
    from fsfast.client.asynchronous import AsyncClient
    from fsfast.client.synchronous import Client
except ImportError as error:
    raise BackendUnavailable(f"the client needs httpx ({error}); {pip_install_extras('client')}") from error

__all__ = ["AsyncClient", "Client"]
