"""The page, in a browser: a picture is typed, drawn, cancelled and recalled, and no request leaves this machine."""

from __future__ import annotations

import base64
import io
import ipaddress
import json
import os
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

from latentc.pictures import png_text
from latentc.serving.auth import Keys
from latentc.serving.server import has_gradio
from tests.serving.pretended import PretendedEngine, Running, running, until

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not has_gradio(), reason="the page needs gradio 6")]

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FIELDS = ("seed", "width", "height", "steps", "guidance", "strength")
# What a browser sends for a file that lies elsewhere.
FILE = {"meta": {"_type": "gradio.FileData"}, "orig_name": "a.png"}

connected: set[str] = set()
"""Hosts that this process, which the server runs in, has connected to."""


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        connected.add(str(arguments[1][0]))


sys.addaudithook(_watch)


@pytest.fixture(scope="module")
def page_server() -> Iterator[Running]:
    engine = PretendedEngine()
    engine.gate.set()
    with running(engine, page=True) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright")
    if CHROMIUM is None:
        pytest.skip("there is no chromium here (Debian: apt install chromium)")
    with playwright.sync_playwright() as driver:
        # As root, as in a container, its sandbox does not start; the editor paints by WebGL.
        arguments = [
            "--no-sandbox",
            "--disable-quic",
            "--no-first-run",
            "--use-angle=swiftshader",
            "--enable-unsafe-swiftshader",
        ]
        started = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield started
        started.close()


@pytest.fixture(scope="module")
def page(browser: Any, page_server: Running) -> Iterator[Any]:
    """The page, opened; at the end it has asked nobody but the server."""
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.set_default_timeout(30_000)
    addresses: list[str] = []
    errors: list[str] = []
    tab.on("request", lambda request: addresses.append(request.url))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(page_server.url)
    # The scheduler's list comes from the model: then the page is alive.
    tab.wait_for_selector("#scheduler input")
    tab.wait_for_function("document.querySelector('#scheduler input').value.includes('DDIMScheduler')")
    yield tab
    asked = {urlsplit(address).netloc for address in addresses if not address.startswith(("data:", "blob:"))}
    assert asked == {urlsplit(page_server.url).netloc}
    assert not errors
    tab.close()
    assert connected and all(ipaddress.ip_address(host).is_loopback for host in connected), connected


def fill(page: Any, prompt: str, negative: str = "", **values: str) -> None:
    page.fill("#prompt textarea", prompt)
    page.fill("#negative textarea, #negative input", negative)
    for name, value in values.items():
        page.fill(f"#{name} textarea, #{name} input", value)


def values(page: Any) -> dict[str, str]:
    """The fields that are not empty."""
    read = {
        name: page.input_value(f"#{name} textarea, #{name} input")
        for name in ("prompt", "negative", *FIELDS[:-1])
    }
    return {name: value for name, value in read.items() if value}


def drawn(page: Any, server: Running) -> dict[str, Any]:
    """Draws, and returns what the engine was asked for."""
    before, shown = len(server.engine.jobs), page.locator("#gallery img").count()
    page.click("#draw")
    until(lambda: len(server.engine.jobs) > before, 60)
    page.wait_for_function(f"document.querySelectorAll('#gallery img').length > {shown}")
    return dict(server.engine.jobs[-1])


def test_a_picture_is_drawn_and_gives_its_settings_again(page: Any, page_server: Running) -> None:
    fill(
        page,
        "a large red circle",
        "blue",
        seed="9007199254740993",
        steps="7",
        guidance="3.5",
        width="16",
        height="24",
    )
    job = drawn(page, page_server)
    assert job["pictures"][0]["prompt"] == "a large red circle"
    assert job["pictures"][0]["negative_prompt"] == "blue"
    assert job["pictures"][0]["seed"] == 9007199254740993
    assert job["options"] == {
        "size": (16, 24), "steps": 7, "guidance": 3.5, "scheduler": None, "strength": None,
    }  # fmt: skip
    assert job["previews"] > 0

    fill(page, "something else", "", seed="1", steps="", guidance="", width="", height="")
    page.locator("#gallery button img").first.click()
    page.wait_for_function("document.querySelector('#prompt textarea').value == 'a large red circle'")
    # The pretended engine's pictures tell no more than that.
    assert values(page) == {"prompt": "a large red circle", "seed": "9007199254740993"}


def test_a_drawing_shows_its_steps_and_is_cancelled(page: Any, page_server: Running) -> None:
    engine = page_server.engine
    cancelled = len(engine.cancelled)
    engine.gate.clear()
    try:
        fill(page, "slowly")
        page.click("#draw")
        until(lambda: engine.batches[-1] == ["slowly"], 60)
        page.wait_for_selector("#progress progress")
        page.click("#cancel")
        until(lambda: len(engine.cancelled) > cancelled, 60)
        page.wait_for_selector("#progress progress", state="detached")
    finally:
        engine.gate.set()
    assert drawn(page, page_server)["pictures"][0]["prompt"] == "slowly"


def test_a_file_that_is_dropped_gives_its_settings(page: Any) -> None:
    parameters = {
        "prompt": "ein großer Kreis", "negative_prompt": "b", "seed": 5, "width": 32, "height": 40, "steps": 3,
        "guidance": 2.0, "scheduler": "EulerDiscreteScheduler", "images": 1,
    }  # fmt: skip
    written = io.BytesIO()
    Image.new("RGB", (8, 8)).save(written, format="PNG", pnginfo=png_text(parameters))
    file = {"name": "old.png", "mimeType": "image/png", "buffer": written.getvalue()}
    page.set_input_files("#dropped input[type=file]", file)
    page.wait_for_function("document.querySelector('#prompt textarea').value == 'ein großer Kreis'")
    assert values(page) == {
        "prompt": "ein großer Kreis", "negative": "b", "seed": "5", "width": "32", "height": "40", "steps": "3",
        "guidance": "2",
    }  # fmt: skip
    assert page.input_value("#scheduler input") == "EulerDiscreteScheduler"


def test_what_was_painted_over_is_the_mask(page: Any, page_server: Running) -> None:
    fill(page, "painted", **dict.fromkeys(FIELDS[:-1], ""))
    page.get_by_text("Image and mask").click()
    written = io.BytesIO()
    Image.new("RGB", (64, 64), (0, 0, 255)).save(written, format="PNG")
    file = {"name": "blue.png", "mimeType": "image/png", "buffer": written.getvalue()}
    page.wait_for_selector("#canvas canvas")
    page.set_input_files("#canvas input[type=file]", file)
    canvas = page.locator("#canvas canvas").first
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(1000)  # until the picture is on it
    box = canvas.bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(middle[0] - 10, middle[1])
    page.mouse.down()
    page.mouse.move(middle[0] + 10, middle[1], steps=5)
    page.mouse.up()
    page.wait_for_timeout(500)
    job = drawn(page, page_server)
    assert job["task"] == "inpaint"
    with Image.open(io.BytesIO(base64.b64decode(job["image"]))) as image:
        assert image.size == (64, 64) and image.convert("RGB").getpixel((2, 2)) == (0, 0, 255)
    with Image.open(io.BytesIO(base64.b64decode(job["mask"]))) as mask:
        assert mask.size == (64, 64) and mask.getpixel((32, 32)) == 255 and mask.getpixel((2, 2)) == 0


def test_a_browser_is_asked_for_the_key() -> None:
    with (
        running(keys=Keys({"ann": "a-key-of-sixteen-letters"}), page=True) as server,
        server.client() as client,
    ):
        for path in ("/", "/config", "/theme.css", "/gradio_api/queue/data?session_hash=a"):
            refused = client.get(path)
            assert refused.status_code == 401 and refused.headers["WWW-Authenticate"].startswith("Basic ")
        assert client.get("/v1/models").headers["WWW-Authenticate"] == "Bearer"
        assert client.post("/gradio_api/upload", files={"files": b"x"}).status_code == 401
        shown = client.get("/", auth=("ann", "a-key-of-sixteen-letters"))
        assert shown.status_code == 200 and "default-src 'self'" in shown.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gradio_api/proxy=http://127.0.0.1:1/x"),
        ("GET", "/gradio_api/file=http://127.0.0.1:1/x.png"),
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("GET", "/gradio_api/file=/etc/../etc/passwd"),
        ("GET", "/gradio_api/file=latentc-page/../../etc/passwd"),
        ("GET", "/gradio_api/info"),
        ("GET", "/gradio_api/runs"),
        ("GET", "/gradio_api/custom_component/a/client/component/index.js"),
        ("POST", "/gradio_api/run/predict"),
        ("POST", "/gradio_api/call/draw"),
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/gradio_api/vibe-edit"),
        ("POST", "/login"),
        ("GET", "/monitoring"),
        ("GET", "/gradio_api/mcp/sse"),
        ("GET", "/v1/nothing"),
        ("GET", "/static/..%2f..%2fblocks.py"),
    ],
)
def test_what_the_page_does_not_need_is_not_there(page_server: Running, method: str, path: str) -> None:
    with page_server.client() as client:
        answer = client.request(method, path, json={})
    assert answer.status_code == 404 and answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "path", ["http://127.0.0.1:9/a.png", "https://example.org/a.png", "/etc/passwd", "file:///a"]
)
def test_no_address_or_path_of_a_request_is_opened(
    page_server: Running, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    async def fetch(url: str, *_: Any, **__: Any) -> str:
        opened.append(url)
        return url

    monkeypatch.setattr("gradio.processing_utils.async_ssrf_protected_download", fetch)
    canvas = {"background": {**FILE, "path": path}, "layers": [], "composite": None}
    with page_server.client() as client:
        config = client.get("/config").json()
        by_id = {part["id"]: part for part in config["components"]}
        for number, event in enumerate(config["dependencies"]):
            kinds = [by_id[part]["type"] for part in event["inputs"]]
            if not {"file", "imageeditor"} & set(kinds):
                continue
            sent_values = {"file": {**FILE, "path": path}, "imageeditor": canvas, "state": None}
            body = {
                "data": [sent_values.get(kind, "pretended" if kind == "dropdown" else "1") for kind in kinds],
                "fn_index": number, "session_hash": f"s{number}",
            }  # fmt: skip
            client.post("/gradio_api/queue/join", json=body).raise_for_status()
            said = client.get("/gradio_api/queue/data", params={"session_hash": f"s{number}"}).text
            assert '"success":false' in said and "root:" not in said
    assert opened == []


def test_what_the_engine_refuses_is_said(page: Any) -> None:
    fill(page, "refuse", **dict.fromkeys(FIELDS[:-1], ""))
    page.click("#draw")
    page.wait_for_selector("text=the pipeline refuses this")


JUNK: dict[str, Any] = {
    "no-event": {"event_data": None},
    "event-list": {"event_data": [1]},
    "event-index": {"event_data": {"index": 10**9, "value": None}},
    "event-text": {"event_data": {"index": "a", "value": None}},
    "no-data": {"data": []},
    "other-data": {"data": [{"a": [1]}] * 13},
    "trigger": {"trigger_id": 10**9},
}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
def test_what_no_browser_sends_leaves_a_line_in_the_log(
    page_server: Running, junk: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    with page_server.client() as client:
        config = client.get("/config").json()
        failed = 0
        for number, event in enumerate(config["dependencies"]):
            data = [None] * len(event["inputs"])
            body = {"data": data, "fn_index": number, "session_hash": f"junk{number}", **junk}
            if client.post("/gradio_api/queue/join", json=body).is_success:
                said = client.get("/gradio_api/queue/data", params={"session_hash": f"junk{number}"}).text
                failed += '"success":false' in said
    assert failed
    lines = [line for line in capfd.readouterr().err.splitlines() if line]
    events = [json.loads(line)["event"] for line in lines]
    assert "page_failed" in events


def test_without_gradio_the_server_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    with running(page=True) as server, server.client() as client:
        assert client.get("/").status_code == 404
        assert client.post("/v1/images/generations", json={"prompt": "a"}).status_code == 200
    assert "pip install 'latentc[serve]'" in capsys.readouterr().err
