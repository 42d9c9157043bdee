"""Listens, and ends well."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Sequence
from importlib import metadata
from types import FrameType
from typing import Any

import uvicorn

from artifacts.errors import LatentcError
from latentc.serving.app import make_app
from latentc.serving.auth import Keys, is_loopback
from latentc.serving.connections import protocol
from latentc.serving.engine import Engine
from latentc.serving.request_limits import Limits
from latentc.serving.request_log import base_url, libraries_logged, log
from latentc.serving.service import Service

CONNECTIONS = 1000
"""Those that are open at once; requests on more are answered 503."""
# Seconds that answers have to end by themselves once nothing is drawn any more.
_LAST_WORDS = 2.0


class Server(uvicorn.Server):
    """A server that SIGTERM and Ctrl-C end by finishing what is under way; a second Ctrl-C ends it at once.

    Attributes:
        signals: those that came.
        failure: why it ended by itself; None where it did not.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self.signals: list[int] = []
        self.loop: asyncio.AbstractEventLoop | None = None
        self.failure: Exception | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self.servers[0].sockets[0].getsockname()[1]
        return port

    async def startup(self, sockets: object = None) -> None:
        """See uvicorn."""
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started:
            host, port = self.config.host, self.port
            log("info", "listening", host=host, port=port, url=base_url(host, port))

    async def shutdown(self, sockets: Any = None) -> None:
        """See uvicorn. Streams without an end, as a page has one for as long as it is open, are not waited for."""
        closing = asyncio.ensure_future(self._close_streams())
        try:
            await super().shutdown(sockets)
        finally:
            closing.cancel()

    async def _close_streams(self) -> None:
        await self._service.finished.wait()
        await asyncio.sleep(_LAST_WORDS)
        while True:
            for connection in list(self.server_state.connections):
                # A client that still reads a picture gets all of it.
                if not connection.transport.get_write_buffer_size():
                    connection.transport.close()
            await asyncio.sleep(0.1)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See uvicorn. The signal is not raised again at the end: what was asked for has been done."""
        self.signals.append(sig)
        if len(self.signals) > 1 and sig == signal.SIGINT:
            self.force_exit = True
        self.end()

    def end(self) -> None:
        """Takes no new connection and no new request; from any thread."""
        self.should_exit = True
        if self.loop is not None:
            self.loop.call_soon_threadsafe(lambda: asyncio.ensure_future(self._service.stop()))


def has_gradio() -> bool:
    """Whether the page's library is here, in a version that it is written for."""
    try:
        return metadata.version("gradio").partition(".")[0] == "6"
    except metadata.PackageNotFoundError:
        return False


def make_server(
    engines: Sequence[Engine],
    host: str,
    port: int,
    keys: Keys | None = None,
    limits: Limits | None = None,
    log_prompts: bool = False,
    page: bool = False,
    public_url: str = "",
) -> Server:
    """A server that `run` starts.

    Args:
        port: 0 for any free one, which the log names.
        page: whether there is one at `/`; without gradio, the log says that there is none.
        public_url: where browsers reach the server, if a proxy stands before it.
    """
    limits = limits or Limits()
    service = Service(engines, limits, log_prompts)
    if page and not has_gradio():
        log("warning", "no_page", reason="gradio 6 is not here. Run: pip install 'latentc[serve]'")
        page = False

    def on_failure(error: Exception) -> None:
        server.failure = error
        server.end()

    config = uvicorn.Config(
        make_app(service, keys, is_loopback(host), page, public_url, on_failure),
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        h11_max_incomplete_event_size=64 * 1024,
        http=protocol(CONNECTIONS, limits.body_seconds),
    )
    server = Server(config, service)
    return server


def require_address(host: str, port: int) -> None:
    """Raises LatentcError where nobody can listen there: told before models are opened, which takes longer."""
    if not port:
        return
    try:
        for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            socket.create_server(address[:2], family=family).close()
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]
        raise LatentcError(
            f"{host} port {port} cannot be listened at: {reason}.",
            "Another address: latentc serve ARTIFACT --host 127.0.0.1 --port 8189",
        ) from None


def serve(server: Server) -> None:
    """Serves until a signal ends it.

    Raises:
        LatentcError: a model cannot be opened, or the address is not to be had.
        KeyboardInterrupt: Ctrl-C ended it.
    """
    host, port = server.config.host, server.config.port
    require_address(host, port)
    try:
        with libraries_logged():
            server.run()
    except SystemExit:  # Somebody else took it meanwhile.
        require_address(host, port)
        raise LatentcError(f"{host} port {port} cannot be listened at.") from None
    if server.failure is not None:
        raise server.failure
    if signal.SIGINT in server.signals:
        raise KeyboardInterrupt
