"""`latentc serve` as users start it: a process of its own, with a process that draws, on `shapes`."""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import psutil
import pytest
from PIL import Image

import latentc
from artifacts.worker import command
from latentc.pictures import JSON_KEY
from tests.serving.pretended import until

pytestmark = pytest.mark.slow

PROMPT = "a large red circle at the left on a blue background"
OPTIONS = {"prompt": PROMPT, "steps": 4}


@dataclass
class Process:
    """The server's process, and what it logged."""

    popen: subprocess.Popen[str]
    artifact: Path
    lines: list[dict[str, Any]] = field(default_factory=list)

    def event(self, name: str, seconds: float = 300) -> dict[str, Any]:
        def said() -> list[dict[str, Any]]:
            return [line for line in self.lines if line.get("event") == name]

        until(lambda: said() or self.popen.poll() is not None, seconds)
        assert said(), self.lines
        return said()[0]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.event('listening')['port']}"

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=120, verify=False)

    def drawer(self) -> psutil.Process:
        [child] = psutil.Process(self.popen.pid).children()
        return child


@contextlib.contextmanager
def started(artifact: Path, *options: str) -> Iterator[Process]:
    start = command("latentc.cli:main", "serve", str(artifact), *options)
    popen = subprocess.Popen(start, stderr=subprocess.PIPE, text=True, encoding="utf-8")
    process = Process(popen, artifact)

    def read() -> None:
        assert popen.stderr is not None
        for line in popen.stderr:
            process.lines.append(json.loads(line) if line.startswith("{") else {"text": line})

    threading.Thread(target=read, daemon=True).start()
    try:
        yield process
    finally:
        popen.kill()
        popen.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    artifact = tmp_path_factory.mktemp("serve") / "shapes"
    latentc.compile("shapes", artifact, target="onnxruntime", check="none", batch="1..2")
    with started(artifact, "--port", "0") as process:
        process.event("model_ready")
        yield process


@pytest.fixture
def client(server: Process) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120)


def opened(text: str | None) -> Image.Image:
    assert text is not None
    return Image.open(io.BytesIO(base64.b64decode(text)))


def pixels(text: str | None) -> np.ndarray:
    return np.asarray(opened(text)).astype(int)


def test_pictures_are_those_of_the_python_api(client: openai.OpenAI, server: Process) -> None:
    answer = client.images.generate(prompt=PROMPT, n=2, extra_body={"seed": 7, "steps": 4})
    with latentc.load(server.artifact) as pipeline:
        expected = [pipeline.generate(PROMPT, seed=seed, steps=4).images[0] for seed in (7, 8)]
    assert answer.data is not None and len(answer.data) == 2
    for drawn, picture in zip(answer.data, expected, strict=True):
        # Drawn as one batch there, and alone here.
        assert np.abs(pixels(drawn.b64_json) - np.asarray(picture).astype(int)).max() <= 1
    about = json.loads(opened(answer.data[1].b64_json).info[JSON_KEY])
    assert (about["seed"], about["prompt"], about["steps"]) == (8, PROMPT, 4)


def test_a_stream_nears_its_picture(client: openai.OpenAI) -> None:
    body = {"seed": 5, "steps": 6}
    events = list(client.images.generate(prompt=PROMPT, stream=True, partial_images=2, extra_body=body))
    assert [event.type.partition(".")[2] for event in events] == ["partial_image"] * 2 + ["completed"]
    *parts, last = (pixels(event.b64_json) for event in events)
    first, second = (np.abs(part - last).mean() for part in parts)
    assert first > second > 0


def test_a_batch_is_of_several_clients_requests_and_each_is_drawn_as_alone(server: Process) -> None:
    with server.client() as client:
        alone = [
            client.post("/v1/images/generations", json={**OPTIONS, "seed": seed}).json() for seed in (1, 2)
        ]
        # While this one is drawn, the two wait, and are the next batch.
        client.post("/v1/jobs", json={**OPTIONS, "steps": 20})
        jobs = [client.post("/v1/jobs", json={**OPTIONS, "seed": seed}).json()["id"] for seed in (1, 2)]
        for number, before in zip(jobs, alone, strict=True):
            until(lambda number=number: client.get(f"/v1/jobs/{number}").json()["status"] == "succeeded", 60)
            drawn = client.get(f"/v1/jobs/{number}").json()["data"][0]["b64_json"]
            assert np.abs(pixels(drawn) - pixels(before["data"][0]["b64_json"])).max() <= 1


def test_a_job_is_cancelled_within_a_step(server: Process) -> None:
    with server.client() as client:
        number = client.post("/v1/jobs", json={**OPTIONS, "steps": 150}).json()["id"]
        until(lambda: client.get(f"/v1/jobs/{number}").json()["step"] > 0, 60)
        client.delete(f"/v1/jobs/{number}")
        client.post("/v1/images/generations", json={**OPTIONS, "steps": 1})
        state = client.get(f"/v1/jobs/{number}").json()
        assert state["status"] == "cancelled" and state["step"] < 149


def test_what_the_pipeline_refuses_is_the_client_s_fault(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="no option 'nothing'"):
        client.images.generate(prompt=PROMPT, extra_body={"scheduler": "DDIMScheduler:nothing=true"})


def replicas(server: Process) -> set[psutil.Process]:
    """Ray's processes that have the artifact open, or open it."""
    running = set()
    for process in psutil.Process(server.popen.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "ServeReplica:latentc:engine-" in " ".join(process.cmdline()):
                running.add(process)
    return running


def drawn_by(server: Process, seed: int, steps: int) -> np.ndarray:
    with server.client() as client:
        fields = {"prompt": PROMPT, "seed": seed, "steps": steps}
        answer = client.post("/v1/images/generations", json=fields)
    assert answer.status_code == 200, answer.text
    return pixels(answer.json()["data"][0]["b64_json"])


@pytest.mark.skipif(sys.platform == "win32", reason="no signals here")
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="pip install 'latentc[ray]'")
def test_ray_draws_the_same_pictures_and_a_replica_that_is_killed_loses_none(server: Process) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    with started(server.artifact, "--ray", "--replicas", "2", "--port", port) as ray:
        ray.event("listening", 900)
        for seed in (7, 8):
            np.testing.assert_array_equal(drawn_by(ray, seed, 4), drawn_by(server, seed, 4))

        before = replicas(ray)
        assert len(before) == 2
        # All at once and for longer, so that both replicas draw when one of them ends.
        with ThreadPoolExecutor() as threads, ray.client() as client:
            pictures = [threads.submit(drawn_by, ray, seed, 100) for seed in range(4)]
            until(lambda: client.get("/sdapi/v1/progress").json()["state"]["sampling_step"] > 0, 60)
            killed = before.pop()
            killed.kill()
            for seed, picture in enumerate(pictures):
                # Drawn as one of a batch there, and alone here.
                assert np.abs(picture.result() - drawn_by(server, seed, 100)).max() <= 1
        until(lambda: any("replica_lost" in line.get("text", "") for line in ray.lines), 300)
        until(lambda: len(replicas(ray) - {killed}) == 2, 300)
        ray.popen.send_signal(signal.SIGTERM)
        assert ray.popen.wait(300) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="no signals here")
def test_an_engine_that_crashes_is_started_again_and_a_stopped_server_finishes(server: Process) -> None:
    with server.client() as client:
        answers: list[httpx.Response] = []

        def ask(steps: int) -> None:
            with server.client() as other:
                answers.append(
                    other.post("/v1/images/generations", json={**OPTIONS, "steps": steps, "seed": 1})
                )

        def begun(steps: int) -> threading.Thread:
            thread = threading.Thread(target=ask, args=(steps,))
            thread.start()
            until(lambda: client.get("/sdapi/v1/progress").json()["state"]["sampling_step"] > 0, 60)
            return thread

        thread = begun(150)
        os.kill(server.drawer().pid, signal.SIGSEGV)
        thread.join()
        assert answers[0].status_code == 500 and "SIGSEGV" in answers[0].json()["error"]["message"]
        until(lambda: client.get("/readyz").status_code == 200, 300)
        assert client.post("/v1/images/generations", json=OPTIONS).status_code == 200

        thread = begun(100)
        queued = client.post("/v1/jobs", json={**OPTIONS, "steps": 2})
        assert queued.status_code == 202
        # A service manager signals both.
        os.kill(server.drawer().pid, signal.SIGTERM)
        server.popen.send_signal(signal.SIGTERM)
        thread.join()
        assert answers[1].status_code == 200
    assert server.popen.wait(60) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url)
