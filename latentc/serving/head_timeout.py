"""Connections whose client is slow to say what it wants."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_ANSWER = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def protocol(seconds: float) -> type[H11Protocol]:
    """A protocol for uvicorn that closes a connection whose request's head is not whole in time.

    uvicorn itself waits for ever, and each such connection takes the place of another. The body's time is
    `latentc.serving.request_guard`'s.

    Args:
        seconds: from the connection, or from the first byte of a further request of it.
    """

    class HeadTimeout(H11Protocol):
        _timer: asyncio.TimerHandle | None = None
        _begun = False

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)  # type: ignore[arg-type]
            self._timer = self.loop.call_later(seconds, self._end)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._begun = self.conn.their_state is h11.IDLE
            if not self._begun:
                self._stop()
            elif self._timer is None:
                self._timer = self.loop.call_later(seconds, self._end)

        def _end(self) -> None:
            if not self.transport.is_closing():
                self.transport.write(_ANSWER if self._begun else b"")
                self.transport.close()

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return HeadTimeout
