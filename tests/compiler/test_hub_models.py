"""Models of the hub, asked of a server on this machine that answers as the hub, a proxy or nobody would."""

from __future__ import annotations

import http.server
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from artifacts.errors import LatentcError
from artifacts.hub import is_hub_id
from compiler.hub_models import license_of
from compiler.source import open_model

COMMIT = "0" * 40
INDEX = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}


class Hub(http.server.ThreadingHTTPServer):
    """Answers every request with `status` and `headers`, and notes the paths that it is asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.status, self.headers, self.paths = 404, dict[str, str](), list[str]()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answers(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        self.send_response(self.server.status)
        for name, value in {**self.server.headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The hub for the library of this process, with an empty cache and no token."""
    with Hub() as answers:
        use(monkeypatch, answers.address, tmp_path)
        yield answers
        answers.shutdown()


def use(monkeypatch: pytest.MonkeyPatch, endpoint: str, cache: Path) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    for name in (
        "HF_TOKEN",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    huggingface_hub.close_session()  # which keeps the proxies that it was made with


@pytest.fixture(autouse=True)
def fresh_session() -> Iterator[None]:
    yield
    huggingface_hub.close_session()


def refused(model: str = "owner/name") -> LatentcError:
    with pytest.raises(LatentcError) as caught:
        open_model(model)
    return caught.value


@pytest.mark.parametrize(
    ("status", "headers", "message", "hint"),
    [
        (
            404,
            {"X-Error-Code": "RepoNotFound"},
            "no model on the hub called 'owner/name'",
            "Check the spelling",
        ),
        (404, {}, "no model on the hub called 'owner/name'", "Check the spelling"),
        (401, {"X-Error-Code": "RepoNotFound"}, "no model on the hub called 'owner/name'", "hf auth login"),
        (
            401,
            {"X-Error-Message": "Invalid credentials in Authorization header"},
            "refuses the token",
            "hf auth login",
        ),
        (403, {"X-Error-Code": "GatedRepo"}, "owner/name is gated", "owner/name, then: hf auth login"),
        (403, {}, "does not let this user read", "hf auth login"),
        (407, {}, "the proxy wants a user and a password", "HTTPS_PROXY"),
        (429, {}, "too many requests", "Wait"),
        (500, {}, "fails when it is asked for 'owner/name' (status 500)", "again later"),
        (503, {}, "status 503", "again later"),
    ],
)
def test_what_the_hub_answers_is_told(
    server: Hub, status: int, headers: dict[str, str], message: str, hint: str
) -> None:
    server.status, server.headers = status, headers
    error = refused()
    assert message in error.message and hint in error.hint
    assert server.paths and all(
        "owner/name" in path for path in server.paths
    )  # and nothing else is asked for


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        use(monkeypatch, f"http://127.0.0.1:{closed.getsockname()[1]}", tmp_path)
    error = refused()
    assert "the hub cannot be reached" in error.message and "Go online" in error.hint


def test_offline_is_said_to_be_that(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    error = refused()
    assert "HF_HUB_OFFLINE is set" in error.message and not server.paths


def test_a_proxy_that_is_not_there(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
    monkeypatch.setenv("HTTP_PROXY", proxy)
    error = refused()
    assert "cannot be reached" in error.message and not server.paths


def test_a_proxy_answers_for_the_hub(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
    monkeypatch.setenv("HTTP_PROXY", server.address)
    server.status = 407
    assert "wants a user and a password" in refused().message
    assert server.paths[0].startswith("http://hub.invalid/")


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "socks4a://127.0.0.1:1", "nonsense://x", "::::"])
def test_proxies_that_cannot_be_used(server: Hub, monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    error = refused()
    assert "'owner/name'" in error.message and error.hint


def test_a_connection_that_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    def untrusted(*_: Any, **__: Any) -> None:
        try:
            raise ssl.SSLCertVerificationError(
                1, "certificate verify failed: unable to get local issuer certificate"
            )
        except ssl.SSLError as error:
            raise OSError("cannot find the snapshot") from error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", untrusted)
    error = refused()
    assert "not trusted (TLS): certificate verify failed" in error.message and "SSL_CERT_FILE" in error.hint


@pytest.mark.parametrize("endpoint", ["ftp://hub.invalid", "hub.invalid", "http://[", ""])
def test_an_endpoint_that_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, endpoint: str) -> None:
    use(monkeypatch, endpoint, tmp_path)
    assert "'owner/name'" in refused().message


@pytest.mark.parametrize("lacking", ["weights", "component", "file"])
def test_a_download_that_was_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lacking: str) -> None:
    use(monkeypatch, "http://hub.invalid", tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "hub" / "models--owner--name"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (snapshot / "model_index.json").write_text(json.dumps(INDEX))
    if lacking != "component":
        (snapshot / "unet").mkdir()
        (snapshot / "unet" / "config.json").write_text("{}")
    if lacking == "file":
        shards = {
            "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
        }
        (snapshot / "unet" / "model.safetensors.index.json").write_text(json.dumps(shards))
        (snapshot / "unet" / "model-00001-of-00002.safetensors").touch()
        with pytest.raises(
            LatentcError, match=r"names the shard .*00002-of-00002.* which is not in"
        ) as caught:
            open_model("owner/name").component("unet").weight_files  # noqa: B018
        assert "hf download owner/name" in caught.value.hint
        return
    error = refused()
    assert "the download of 'owner/name' is not complete" in error.message and "Go online" in error.hint


def test_a_download_that_breaks_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise OSError(
            "Consistency check failed: file should be of size 10 but has size 5 (model.safetensors)."
        )

    monkeypatch.setattr(huggingface_hub, "snapshot_download", broken)
    assert "the connection broke off: Consistency check failed" in refused().message


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", "/cache/hub/blobs/1")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    assert "the disk of /cache/hub/blobs is full" in refused().message


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: apache-2.0\ntags: [x]\n---\n# A model\n", "apache-2.0"),
        ("---\r\ntags:\r\n- x\r\nlicense: 'mit'\r\n---\r\n", "mit"),
        ("---\nlicense:\n- openrail++\n---\n", "openrail++"),
        ("---\nlicense: other\nlicense_name: flux-1-dev\n---\n", "flux-1-dev"),
        ("---\nlicense: other\n---\n", ""),
        ("license: mit\n", ""),
        ("---\ntags: [x]\n---\nlicense: mit\n", ""),
        ("---\nlicense: [a, b]\n---\n", ""),
    ],
)
def test_the_licence_is_what_the_models_card_names(tmp_path: Path, card: str, expected: str) -> None:
    assert license_of(tmp_path) == ""
    (tmp_path / "README.md").write_bytes(card.encode())
    assert license_of(tmp_path) == expected


@pytest.mark.parametrize(
    "name",
    ["", "a", "a/", "/a", "a/b/c", "C:/sd15", "models/my sd15", "a/..", "a/" + "b" * 300, "a/b\0", "ä/ö"],
)
def test_what_no_hub_id_is(name: str) -> None:
    assert not is_hub_id(name)


def test_what_is_a_hub_id() -> None:
    assert all(map(is_hub_id, ("stabilityai/sdxl-turbo", "a/b", "A.b-c_d/E.f-g_h")))
