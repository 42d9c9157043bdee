"""What every request goes through first: its id, its origin, its key, its size, and its line in the log."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders

from latentc.serving.api_error import ApiError
from latentc.serving.auth import OPEN_PATHS, Keys, check_browser
from latentc.serving.prometheus_metrics import Metrics
from latentc.serving.request_limits import Limits
from latentc.serving.request_log import log, request_id

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

CROWDED = "crowded"
"""The key of a scope's "state" that says whether there are more connections than the server keeps."""

_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class RequestGuard:
    """An ASGI application around another one. It leaves the client's name in `scope["state"]["client"]`."""

    def __init__(
        self,
        app: App,
        refuse: Callable[[Message, ApiError], App],
        keys: Keys | None,
        loopback_only: bool,
        limits: Limits,
        metrics: Metrics,
        public: str = "",
    ) -> None:
        """
        Args:
            public: see `latentc.serving.auth.check_browser`.
            refuse: makes the response to a refused request (its scope), in the form of its API.
            keys: None where everybody may ask.
        """
        self._app = app
        self._refuse = refuse
        self._keys = keys
        self._loopback_only = loopback_only
        self._limits = limits
        self._metrics = metrics
        self._public = public

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, started = Headers(scope=scope), time.monotonic()
        own = headers.get("x-request-id", "")
        number = own if _ID.fullmatch(own) else uuid.uuid4().hex
        token = request_id.set(number)
        status = 0
        state = scope.setdefault("state", {})
        state["client"] = (scope.get("client") or ("unknown",))[0]
        # A proxy may take another end of it than this server: the rest would be the request of somebody else.
        ambiguous = "content-length" in headers and "transfer-encoding" in headers

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = number
                if ambiguous or state.get(CROWDED):
                    MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        try:
            if ambiguous:
                raise ApiError(
                    400, "A request has a Content-Length or a Transfer-Encoding, not both.", code="framing"
                )
            self._admit(scope, headers, state)
            body = _Body(receive, self._limits)
            await self._app(scope, body.receive, answer)
        except ApiError as refused:
            if status:  # The response has begun: all that is left is to end it.
                raise
            await self._refuse(scope, refused)(scope, receive, answer)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requested(scope["method"], route, status)
            log(
                "info",
                "request",
                method=scope["method"][:10],
                route=route,
                status=status,
                seconds=round(time.monotonic() - started, 3),
                client=state["client"],
            )
            request_id.reset(token)

    def _admit(self, scope: Message, headers: Headers, state: dict[str, Any]) -> None:
        if scope["path"] in OPEN_PATHS:
            return
        if state.get(CROWDED):
            raise ApiError(503, "There are too many connections.", code="too_many_connections", retry_after=1)
        check_browser(headers.get("host", ""), headers.get("origin", ""), self._loopback_only, self._public)
        if self._keys is not None:
            state["client"] = self._keys.client(headers.get("authorization", ""))
        length = headers.get("content-length", "0")
        if length.isdecimal() and len(length) < 20 and int(length) > self._limits.body:
            raise _too_large(self._limits.body)


class _Body:
    """Counts the bytes of a request's body, and the seconds until it is whole."""

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self._receive = receive
        self._limits = limits
        self._bytes = 0
        self._deadline = time.monotonic() + limits.body_seconds
        self._whole = False

    async def receive(self) -> Message:
        if self._whole:
            return await self._receive()
        left = max(0.0, self._deadline - time.monotonic())
        try:
            message = await asyncio.wait_for(self._receive(), left)
        except asyncio.TimeoutError:
            raise ApiError(
                408, f"The request was not whole after {self._limits.body_seconds:g} seconds.", code="slow"
            ) from None
        if message["type"] == "http.request":
            self._bytes += len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
        if self._bytes > self._limits.body:
            raise _too_large(self._limits.body)
        return message


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"A request may have at most {limit} bytes.", code="too_large")
