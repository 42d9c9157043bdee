"""Who is answered: keys, other sites' pages, and what the log and the open paths say."""

from __future__ import annotations

import base64
import json
import logging
import warnings
from pathlib import Path

import httpx
import pytest

from artifacts.errors import UsageError
from latentc.serving.auth import Keys, is_loopback
from latentc.serving.request_log import libraries_logged
from tests.serving.pretended import PretendedEngine, Running, running

FIRST, SECOND = "first-key-0123456789", "second-key-0123456789"


def test_a_file_of_keys_is_read(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n\nann: {FIRST}\n bob:{SECOND} \n")
    keys = Keys.read(file)
    assert keys.client(f"Bearer {FIRST}") == "ann"
    assert keys.client(f"bearer {SECOND}") == "bob"
    assert keys.client("Basic " + base64.b64encode(f"x:{SECOND}".encode()).decode()) == "bob"


@pytest.mark.parametrize(
    "text",
    ["", "# nothing\n", "justakey-0123456789\n", "ann: short\n", f"ann: {FIRST}\nann: {SECOND}\n",
     f"ann: {FIRST}\nbob: {FIRST}\n", f"a b: {FIRST}\n"],
)  # fmt: skip
def test_a_wrong_file_of_keys_is_refused_without_its_keys(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(UsageError) as refused:
        Keys.read(file)
    assert FIRST not in str(refused.value) and "short" not in str(refused.value)
    with pytest.raises(UsageError, match="cannot be read"):
        Keys.read(tmp_path / "none")


def test_only_who_has_a_key_is_answered() -> None:
    with running(keys=Keys({"ann": FIRST, "bob": SECOND})) as server, server.client() as client:
        for path in ("/v1/models", "/metrics", "/openapi.json", "/sdapi/v1/options", "/nothing"):
            for header in ("", "Bearer", "Bearer x", f"Bearer {FIRST}x", "Basic ???", f"Token {FIRST}"):
                answer = client.get(path, headers={"Authorization": header})
                assert answer.status_code == 401, (path, header)
                assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert client.get(path, headers={"Authorization": f"Bearer {FIRST}"}).status_code in (200, 404)
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200


def test_a_job_is_its_client_s_alone() -> None:
    with running(keys=Keys({"ann": FIRST, "bob": SECOND})) as server, server.client() as client:
        ann, bob = ({"Authorization": f"Bearer {key}"} for key in (FIRST, SECOND))
        number = client.post("/v1/jobs", json={"prompt": "a"}, headers=ann).json()["id"]
        assert client.get(f"/v1/jobs/{number}", headers=ann).status_code == 200
        for method in ("GET", "DELETE"):
            assert client.request(method, f"/v1/jobs/{number}", headers=bob).status_code == 404


def test_an_interrupt_is_for_the_client_s_own_job_alone() -> None:
    engine = PretendedEngine()
    with running(engine, keys=Keys({"ann": FIRST, "bob": SECOND})) as server, server.client() as client:
        ann, bob = ({"Authorization": f"Bearer {key}"} for key in (FIRST, SECOND))
        number = client.post("/v1/jobs", json={"prompt": "a"}, headers=ann).json()["id"]
        while not engine.batches:
            pass
        client.post("/sdapi/v1/interrupt", headers=bob)
        assert client.get(f"/v1/jobs/{number}", headers=ann).json()["status"] == "running"
        client.post("/sdapi/v1/interrupt", headers=ann)
        assert client.get(f"/v1/jobs/{number}", headers=ann).json()["status"] == "cancelled"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "attacker.example"}, 403),
        ({"Host": "attacker.example:8188"}, 403),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "[::1]:1"}, 200),
        ({"Host": "localhost", "Origin": "https://attacker.example"}, 403),
        ({"Host": "localhost", "Origin": "null"}, 403),
        ({"Host": "localhost:1", "Origin": "http://localhost:1"}, 200),
    ],
)
def test_another_site_s_page_is_not_answered(served: Running, headers: dict[str, str], status: int) -> None:
    with served.client() as client:
        assert client.get("/v1/models", headers=headers).status_code == status


def test_pages_that_came_through_a_proxy_are_answered() -> None:
    with running(public_url="https://Pictures.example.org") as server, server.client() as client:
        for headers, status in (
            ({"Origin": "https://pictures.example.org"}, 200),
            ({"Origin": "https://pictures.example.org", "Host": "pictures.example.org"}, 200),
            ({"Origin": "https://attacker.example"}, 403),
            ({"Origin": "https://pictures.example.org.attacker.example"}, 403),
            ({"Host": "attacker.example"}, 403),
        ):
            assert client.get("/v1/models", headers=headers).status_code == status


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("192.168.1.2", False), ("example.org", False), ("", False)],
)  # fmt: skip
def test_this_machine_s_addresses_are_known(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


def test_the_log_has_requests_and_no_prompts(capfd: pytest.CaptureFixture[str]) -> None:
    with running() as server, server.client() as client:
        answer = client.post(
            "/v1/images/generations", json={"prompt": "a secret wish"}, headers={"X-Request-ID": "mine-1"}
        )
        assert answer.headers["X-Request-ID"] == "mine-1"
        assert client.get("/nothing", headers={"X-Request-ID": "a b\tc"}).headers["X-Request-ID"] != "a b\tc"
        metrics = client.get("/metrics").text
    said = capfd.readouterr().err
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    [request] = [line for line in lines if line["event"] == "request" and line["request_id"] == "mine-1"]
    assert (request["route"], request["status"]) == ("/v1/images/generations", 200)
    assert [line["request_id"] for line in lines if line["event"] == "job"] == ["mine-1"]
    assert "secret" not in said
    assert 'latentc_pictures_total{model="pretended"} 1.0' in metrics
    assert 'latentc_component_calls_total{method="unet.forward",model="pretended"} 4.0' in metrics
    assert 'latentc_requests_total{method="GET",route="other",status="404"} 1.0' in metrics


def test_clients_make_no_labels_of_their_own() -> None:
    key = {"Authorization": f"Bearer {FIRST}"}

    def labels(client: httpx.Client) -> set[str]:
        lines = client.get("/metrics", headers=key).text.splitlines()
        return {line.rpartition(" ")[0] for line in lines if "_created" not in line and "{" in line}

    def ask(client: httpx.Client, word: str) -> None:
        for headers in ({}, key, key | {"Origin": "http://example.org"}):
            client.request(word, f"/{word}", headers=headers)
            client.request(word, f"/v1/jobs/{word}", headers=headers)
            client.get(f"/v1/jobs/{word}?{word}", headers=headers)
            client.post("/v1/images/generations", json={"prompt": "a", "model": word}, headers=headers)

    with running(keys=Keys({"ann": FIRST})) as server, server.client() as client:
        labels(client)
        for word in ("BREW", "GET"):
            ask(client, word)
        known = labels(client)
        for word in ("TRACE", "M1", "M2"):
            ask(client, word)
        assert labels(client) == known
    assert any('method="other"' in label for label in known)


def test_what_libraries_say_is_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    with libraries_logged(), warnings.catch_warnings():
        warnings.simplefilter("always")
        for name in ("uvicorn.error", "asyncio", "gradio"):
            logging.getLogger(name).warning("two\nlines")
        warnings.warn("this too", stacklevel=1)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [line["logger"] for line in lines] == ["uvicorn.error", "asyncio", "gradio", "py.warnings"]
    logging.getLogger("asyncio").warning("later")
    assert '"event"' not in capfd.readouterr().err
