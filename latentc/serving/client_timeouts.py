"""Connections whose client is slow: to say what it wants, to send what it said, or to read what it asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_ANSWER = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def protocol(seconds: float) -> type[H11Protocol]:
    """A protocol for uvicorn that ends connections which take the place of others for too long.

    uvicorn itself waits for ever. The time of a body that is read is `latentc.serving.request_guard`'s.

    Args:
        seconds: until a request's head is whole, from the connection or from the first byte of a further request of
            it; until the rest of a body has come, from the answer that did not wait for it; and until a client that
            does not read has made room for more of an answer.
    """

    class ClientTimeouts(H11Protocol):
        _head: asyncio.TimerHandle | None = None
        _body: asyncio.TimerHandle | None = None
        _answer: asyncio.TimerHandle | None = None
        _begun = False

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)  # type: ignore[arg-type]
            self._head = self._later(self._end_head)

        def connection_lost(self, exc: Exception | None) -> None:
            for timer in (self._head, self._body, self._answer):
                _stop(timer)
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._begun = self.conn.their_state is h11.IDLE
            if not self._begun:
                _stop(self._head)
                self._head = None
            elif self._head is None:
                self._head = self._later(self._end_head)
            if self.conn.their_state is not h11.SEND_BODY:
                _stop(self._body)
                self._body = None

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.conn.their_state is h11.SEND_BODY and self._body is None:
                self._body = self._later(self._end)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._answer = self._later(self._end)

        def resume_writing(self) -> None:
            super().resume_writing()
            _stop(self._answer)

        def _later(self, end: Callable[[], None]) -> asyncio.TimerHandle:
            return self.loop.call_later(seconds, end)

        def _end_head(self) -> None:
            if not self.transport.is_closing():
                self.transport.write(_ANSWER if self._begun else b"")
                self.transport.close()

        def _end(self) -> None:
            # What is not sent yet would be waited for.
            self.transport.abort()

    return ClientTimeouts


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
