"""Clients that take their time: none of them holds a connection, or the end of the server, for ever."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from latentc.serving.request_limits import Limits
from latentc.serving.server import has_gradio
from tests.serving.pretended import PretendedEngine, Running, running, until

HEAD = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
SECONDS = 0.5


@pytest.fixture(scope="module")
def hasty() -> Iterator[Running]:
    """A server that waits half a second."""
    with running(limits=Limits(body_seconds=SECONDS)) as server:
        yield server


def connected(server: Running, *sent: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.server.port), timeout=20)
    for data in sent:
        connection.sendall(data)
    return connection


def said(connection: socket.socket) -> bytes:
    """Everything until the server closes."""
    answer = b""
    try:
        while more := connection.recv(65536):
            answer += more
    except ConnectionResetError:
        pass
    return answer


def dribble(connection: socket.socket, data: bytes) -> threading.Thread:
    """Sends a byte now and then, each in less time than the server waits for one, until it closes."""

    def send() -> None:
        for at in range(200):
            try:
                connection.sendall(data[at % len(data) :][:1])
            except OSError:
                return
            time.sleep(SECONDS / 10)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("sent", "more", "answer"),
    [
        (b"", b"GET / HTTP/1.1\r\nX: " + b"y" * 300, b" 408 "),
        (HEAD % b"/v1/jobs" + b"Content-Length: 1000\r\n\r\n", b" ", b" 408 "),
        (HEAD % b"/v1/jobs" + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", b" 408 "),
        # Answered before the body is whole, and never read.
        (HEAD % b"/nothing" + b"Content-Length: 1000\r\n\r\n", b" ", b" 404 "),
        (HEAD % b"/v1/models" + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", b" 405 "),
    ],
    ids=["head", "body", "chunks", "body-of-nothing", "chunks-of-nothing"],
)
def test_one_byte_after_the_other_is_no_way_to_stay(
    hasty: Running, sent: bytes, more: bytes, answer: bytes
) -> None:
    with connected(hasty, sent) as connection:
        started = time.monotonic()
        thread = dribble(connection, more)
        assert answer in said(connection)
        assert time.monotonic() - started < 10 * SECONDS
        thread.join()


def test_a_client_that_does_not_read_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = PretendedEngine()
    engine.gate.set()
    # More than the system's buffers hold.
    monkeypatch.setattr("tests.serving.pretended.picture", lambda *_, **__: "x" * 20_000_000)
    with running(engine, limits=Limits(body_seconds=SECONDS)) as server:
        body = b'{"prompt": "a"}'
        with connected(
            server, HEAD % b"/v1/images/generations" + b"Content-Length: %d\r\n\r\n" % len(body) + body
        ):
            until(lambda: engine.batches)
            until(lambda: server.server.server_state.connections)
            until(lambda: not server.server.server_state.connections)


def test_a_watcher_that_leaves_changes_nothing_and_a_client_that_leaves_cancels() -> None:
    engine = PretendedEngine()
    with running(engine) as server, server.client() as client:
        job = client.post("/v1/jobs", json={"prompt": "watched"}).json()["id"]
        until(lambda: engine.batches == [["watched"]])
        with connected(
            server, b"GET /v1/jobs/%b/events HTTP/1.1\r\nHost: localhost\r\n\r\n" % job.encode()
        ) as left:
            events = b""
            while b"job.progress" not in events:  # The head may come alone.
                part = left.recv(65536)
                assert part, events
                events += part
        body = b'{"prompt": "left", "stream": true, "partial_images": 1, "steps": 2}'
        with connected(
            server, HEAD % b"/v1/images/generations" + b"Content-Length: %d\r\n\r\n" % len(body) + body
        ):
            until(lambda: server.server._service.queue.waiting == 1)
        until(lambda: server.server._service.queue.waiting == 0)
        assert client.get(f"/v1/jobs/{job}").json()["status"] == "running"
        engine.gate.set()
        until(lambda: client.get(f"/v1/jobs/{job}").json()["status"] == "succeeded")
        assert engine.batches == [["watched"]]


@pytest.mark.parametrize("path", ["/v1/jobs", "/"])
def test_there_are_no_websockets(hasty: Running, path: str) -> None:
    upgrade = (
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with connected(hasty, upgrade.encode()) as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 4")


@pytest.mark.skipif(not has_gradio(), reason="the page needs gradio 6")
def test_an_open_page_does_not_keep_a_server_from_its_end() -> None:
    engine = PretendedEngine()
    engine.gate.set()
    heartbeat = b"GET /gradio_api/heartbeat/abc HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with running(engine, page=True) as server, connected(server, heartbeat) as page:
        assert b"ALIVE" in page.recv(65536) + page.recv(65536)
        server.server.end()
        started = time.monotonic()
        said(page)
        assert time.monotonic() - started < 15
