"""HTTP/1.1 by h11 for uvicorn, which closes connections whose request does not come."""

from __future__ import annotations

import asyncio
from functools import cache

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


@cache
def impatient(seconds: float) -> type[H11Protocol]:
    """Return the protocol of connections that are closed where the head of a request is not there in time.

    uvicorn itself waits for ever, so that a few thousand silent connections take all that a process may have.

    Args:
        seconds: from the connection, or from the first bytes of a later request.
    """

    class Impatient(H11Protocol):
        """As uvicorn's, with a limit of time for heads; bodies have theirs elsewhere."""

        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._late = self.loop.call_later(seconds, transport.close)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            waiting = self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
            if not waiting and self._late is not None:
                self._late.cancel()
                self._late = None
            elif waiting and self._late is None:
                self._late = self.loop.call_later(seconds, self.transport.close)

        def connection_lost(self, exc: Exception | None) -> None:
            if self._late is not None:
                self._late.cancel()
            super().connection_lost(exc)

    return Impatient
