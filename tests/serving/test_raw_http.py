"""Bytes that are no request of HTTP, or one that is too large or too slow: each is answered, and the server lives."""

from __future__ import annotations

import contextlib
import json
import socket
import threading

import pytest

from latentc.serving.request_limits import Limits
from tests.serving.pretended import Running, running, until
from tests.serving.test_malformed import GENERATIONS, JOBS, alive

__all__ = ["alive"]  # a fixture


def exchange(server: Running, *parts: bytes, wait: bool = True) -> bytes:
    """What the server says to these bytes."""
    with socket.create_connection(("127.0.0.1", server.server.port), timeout=20) as connection:
        for part in parts:
            connection.sendall(part)
        said = b""
        while wait and (more := connection.recv(65536)):
            said += more
        return said


POST = (
    b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nConnection: close\r\n"
)


def error_of(answer: bytes, status: int, code: str) -> str:
    """What an answer says, which must be an error of the API's."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), head
    assert b"content-type: application/json" in head.lower() and b"connection: close" in head.lower()
    error = json.loads(body)["error"]
    assert error["code"] == code and error["type"] and error["message"]
    return head.decode().lower()


def test_bytes_that_are_no_http_are_refused(served: Running) -> None:
    for garbage in (b"\x16\x03\x01\x02\x00\x01\n\n", b"GET\r\n\r\n"):
        error_of(exchange(served, garbage), 400, "framing")
    # Its connection is reset: the answer may be lost.
    exchange(served, b"GET / HTTP/1.1\r\nX: " + b"y" * 200_000, wait=False)
    exchange(served, b"GET / HT", wait=False)
    exchange(served, POST + b"Content-Length: 100\r\n\r\n{", wait=False)


HEADS = {
    "path-not-utf8": b"GET /v1/jobs/\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "quoted-path-not-utf8": b"GET /v1/jobs/%ff%fe HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "path-of-nulls": b"GET /v1/jobs/%00%00 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "path-up": b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "address": b"GET http://example.org/ HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n",
    "connect": b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n",
    "other-host": b"GET / HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n",
    "host-not-utf8": b"GET / HTTP/1.1\r\nHost: \xff\xfe\r\nConnection: close\r\n\r\n",
    "no-host": b"GET / HTTP/1.1\r\n\r\n",
    "two-hosts": b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: example.org\r\n\r\n",
    "version": b"GET / HTTP/9.9\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "null": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n",
    "header-name": b"GET / HTTP/1.1\r\nHost: localhost\r\nX y: z\r\n\r\n",
    "length-text": POST + b"Content-Length: many\r\n\r\n",
    "length-negative": POST + b"Content-Length: -1\r\n\r\n",
    "length-huge": POST + b"Content-Length: 9" + b"9" * 18 + b"\r\n\r\n",
    "length-twice": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "chunk-size": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "encoding": POST + b"Transfer-Encoding: gzip\r\n\r\n",
    "upgrade": b"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: close, upgrade\r\n\r\n",
    "type-not-utf8": b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: \xff\xfe\r\n"
    b"Connection: close\r\nContent-Length: 2\r\n\r\n{}",
    "two-lengths-of-a-body": POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "no-chunks": POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "gzip": POST + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    "origin-no-address": POST + b"Origin: http://[::1\r\nContent-Length: 2\r\n\r\n{}",
    "origin-not-utf8": POST + b"Origin: \xff\xfe\r\nContent-Length: 2\r\n\r\n{}",
    "large-header": POST + b"X: " + b"y" * 60_000 + b"\r\nContent-Length: 2\r\n\r\n{}",
    "many-headers": POST + b"".join(b"X-%d: y\r\n" % i for i in range(4000)) + b"Content-Length: 2\r\n\r\n{}",
    "http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "boundary-not-utf8": b"POST /v1/images/edits HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: multipart/form-data; boundary=\xff\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
}  # fmt: skip


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_a_wrong_head_is_refused(served: Running, head: bytes) -> None:
    answer = exchange(served, head)
    assert answer.startswith(b"HTTP/1.1 4")
    # What follows may be the answer to the rest.
    said, _ = json.JSONDecoder().raw_decode(answer.partition(b"\r\n\r\n")[2].decode())
    assert said["error"]["message"]


def test_more_connections_than_the_server_keeps_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentc.serving.server.CONNECTIONS", 3)
    get = b"GET %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n"
    with running() as server, contextlib.ExitStack() as stack:
        address = ("127.0.0.1", server.server.port)
        for _ in range(3):
            stack.enter_context(socket.create_connection(address, timeout=20))
        until(lambda: len(server.server.server_state.connections) == 3)
        head = error_of(exchange(server, get % (b"/v1/models", b"")), 503, "too_many_connections")
        assert "retry-after: 1" in head and "x-request-id: " in head
        said = exchange(server, get % (b"/sdapi/v1/options", b""))
        assert json.loads(said.partition(b"\r\n\r\n")[2])["error"] == "too_many_connections"
        assert exchange(server, get % (b"/healthz", b"")).startswith(b"HTTP/1.1 200"), "the server lives"
        stack.close()
        until(lambda: not server.server.server_state.connections)
        alone = exchange(server, get % (b"/v1/models", b"Connection: close\r\n"))
        assert alone.startswith(b"HTTP/1.1 200")


def test_a_wrong_chunk_after_the_answer_ends_the_connection(
    served: Running, caplog: pytest.LogCaptureFixture
) -> None:
    head = b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.server.port), timeout=20) as connection:
        connection.sendall(head)
        said = connection.recv(65536)
        while b"not_there" not in said:
            said += connection.recv(65536)
        connection.sendall(b"zz\r\n{}\r\n0\r\n\r\n")
        while more := connection.recv(65536):
            said += more
    assert said.startswith(b"HTTP/1.1 404") and b"HTTP/1.1 400" not in said
    assert not [record for record in caplog.records if record.name == "asyncio"]


def test_a_body_that_is_too_large_or_too_slow_is_refused() -> None:
    with running(limits=Limits(body=1000, body_seconds=0.3)) as server:
        assert b" 413 " in exchange(server, POST + b"Content-Length: 1001\r\n\r\n")
        chunk = b"200\r\n" + b" " * 512 + b"\r\n"
        assert b" 413 " in exchange(server, POST + b"Transfer-Encoding: chunked\r\n\r\n", chunk, chunk)
        assert b" 408 " in exchange(server, POST + b"Content-Length: 100\r\n\r\n", b"{")
        error_of(exchange(server, POST), 408, "slow")
        assert exchange(server) == b"", "nothing was asked"
        with server.client() as client:
            assert client.post(GENERATIONS, json={"prompt": "a"}).status_code == 200


def test_a_slow_picture_is_waited_for() -> None:
    with running(limits=Limits(body_seconds=0.2)) as server, server.client() as client:
        server.engine.gate.clear()
        job = client.post(JOBS, json={"prompt": "a"}).json()
        threading.Timer(0.5, server.engine.gate.set).start()
        assert client.post(GENERATIONS, json={"prompt": "b"}).status_code == 200
        assert client.get(f"{JOBS}/{job['id']}").json()["status"] == "succeeded"
