"""Connections: how many there may be, how slow their clients, and what those are told that speak no HTTP."""

from __future__ import annotations

import asyncio
import http
import json
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from latentc.serving.api_error import ApiError
from latentc.serving.request_guard import CROWDED, App, Message, Receive, Send


def protocol(most: int, seconds: float) -> type[H11Protocol]:
    """A protocol for uvicorn that ends connections which take the place of others for too long.

    uvicorn itself waits for ever, and refuses in plain text. The time of a body that is read is
    `latentc.serving.request_guard`'s.

    Args:
        most: connections that are open at once; on more, requests are told to `RequestGuard` as `CROWDED`.
        seconds: until a request's head is whole, from the connection or from the first byte of a further request of
            it; until the rest of a body has come, from the answer that did not wait for it; and until a client that
            does not read has made room for more of an answer.
    """

    class Connection(H11Protocol):
        _head: asyncio.TimerHandle | None = None
        _body: asyncio.TimerHandle | None = None
        _answer: asyncio.TimerHandle | None = None
        _begun = False

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.app: Any = self._counted(self.app)

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

        def send_400_response(self, msg: str) -> None:
            self._refuse(ApiError(400, msg, code="framing"))

        def _counted(self, app: App) -> App:
            async def counted(scope: Message, receive: Receive, send: Send) -> None:
                # Requests that came one behind the other on one connection may be under way together.
                scope["state"][CROWDED] = max(len(self.connections), len(self.tasks)) > most
                await app(scope, receive, send)

            return counted

        def _refuse(self, error: ApiError) -> None:
            """Answers what never became a request, where no answer has begun; as OpenAI's API does, as there is no path
            that names another."""
            if self.transport.is_closing():
                return
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                body = json.dumps(error.openai()).encode("utf-8")
                headers = {
                    "Content-Type": "application/json",
                    "Content-Length": str(len(body)),
                    "Connection": "close",
                }
                head = h11.Response(
                    status_code=error.status,
                    headers=list(headers.items()),
                    reason=http.HTTPStatus(error.status).phrase,
                )
                for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                    self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

        def _later(self, end: Callable[[], None]) -> asyncio.TimerHandle:
            return self.loop.call_later(seconds, end)

        def _end_head(self) -> None:
            if self._begun:
                self._refuse(
                    ApiError(408, f"The request was not whole after {seconds:g} seconds.", code="slow")
                )
            else:
                self.transport.close()

        def _end(self) -> None:
            # What is not sent yet would be waited for.
            self.transport.abort()

    return Connection


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
