"""Images that a request names by URL: fetched from allowed hosts alone, within limits, never from private addresses."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from fsfast.errors import BackendUnavailable, brief
from fsfast.installation import pip_install_extras
from fsfast.serve.errors import NotAllowed, RequestError, TooLarge

if TYPE_CHECKING:
    import httpx

_REDIRECTS = 3


class Remote:
    """Fetches images.

    Args:
        hosts: names of the hosts that may be asked; with a port where it is not the scheme's own.
        max_bytes: of an image file.
        seconds: for one image, redirects included.
        transport: of httpx; for tests.

    Raises:
        BackendUnavailable: httpx is missing.
    """

    def __init__(
        self,
        hosts: Collection[str],
        max_bytes: int = 16_000_000,
        seconds: float = 10.0,
        transport: Any = None,
    ) -> None:
        try:
            import httpx
        except ImportError as error:
            raise BackendUnavailable(
                f"--fetch-from needs httpx ({error}): {pip_install_extras('client')}"
            ) from None
        self._hosts = frozenset(host.lower() for host in hosts)
        self._max_bytes = max_bytes
        self._seconds = seconds
        # Neither proxies of the environment nor redirects that are not looked at here.
        self._client = httpx.AsyncClient(transport=transport, trust_env=False, follow_redirects=False)

    async def fetch(self, url: str) -> bytes:
        """Return the content of a URL.

        Raises:
            NotAllowed: its host, or one that it leads to, is not allowed, or has a private address.
            RequestError, TooLarge: it cannot be fetched, or is too large.
        """
        import httpx

        try:
            return await asyncio.wait_for(self._followed(httpx.URL(url)), self._seconds)
        except asyncio.TimeoutError:
            raise RequestError(f"{brief(url)} did not come within {self._seconds:g} seconds") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise RequestError(f"{brief(url)} cannot be fetched: {brief(error)}") from None

    async def _followed(self, url: httpx.URL) -> bytes:
        """Return the content, after some redirects, each of which is checked as the first URL is."""
        for _ in range(_REDIRECTS + 1):
            request = await self._request(url)
            answer = await self._client.send(request, stream=True)
            try:
                if not answer.has_redirect_location:
                    answer.raise_for_status()
                    return await self._content(answer)
                url = url.join(answer.headers["location"])
            finally:
                await answer.aclose()
        raise RequestError(f"{brief(str(url))} is redirected more than {_REDIRECTS} times")

    async def _request(self, url: httpx.URL) -> httpx.Request:
        """Return the request to an address that was looked at: the name is not resolved again."""
        named = url.netloc.decode("ascii").rpartition("@")[2].lower()
        if url.scheme not in ("http", "https") or named not in self._hosts or url.userinfo:
            raise NotAllowed(
                f"wanted a URL of {', '.join(sorted(self._hosts))}, got the host {brief(named)!r}"
            )
        address = await _public_address(url.host, url.port or (443 if url.scheme == "https" else 80))
        return self._client.build_request(
            "GET",
            url.copy_with(host=address),
            headers={"host": named, "accept": "image/*", "accept-encoding": "identity"},
            extensions={"sni_hostname": url.host},
        )

    async def _content(self, answer: httpx.Response) -> bytes:
        parts, size = [], 0
        async for part in answer.aiter_raw():
            size += len(part)
            if size > self._max_bytes:
                raise TooLarge(f"wanted an image of at most {self._max_bytes:,} bytes behind a URL, got more")
            parts.append(part)
        return b"".join(parts)


async def _public_address(host: str, port: int) -> str:
    """Return an address of a host; raises NotAllowed where any of its addresses is not a public one."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(_is_public(address) for address in addresses):
        raise NotAllowed(f"the host {host!r} has an address that is not public; it is never asked")
    return addresses[0]


def _is_public(address: str) -> bool:
    known = ipaddress.ip_address(address)
    inner = getattr(known, "ipv4_mapped", None) or getattr(known, "sixtofour", None)
    return known.is_global and not known.is_multicast and (inner is None or inner.is_global)
