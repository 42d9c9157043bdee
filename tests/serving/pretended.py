"""Engines that pretend: pictures of one colour, at once or when a test says so, and servers around them."""

from __future__ import annotations

import base64
import contextlib
import io
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from PIL import Image

from artifacts.manifest import DimRange
from artifacts.worker import WorkerEnded, WorkerError
from latentc.serving.auth import Keys
from latentc.serving.request_limits import Limits
from latentc.serving.server import Server, make_server

STEPS = 4


def picture(seed: int, side: int = 8, file_format: str = "png") -> str:
    """A file in base64, whose colour is the seed's."""
    written = io.BytesIO()
    Image.new("RGB", (side, side), (seed % 256, 0, 0)).save(written, format=file_format)
    return base64.b64encode(written.getvalue()).decode("ascii")


@dataclass
class PretendedEngine:
    """Draws what it is asked for; "crash" and "refuse" in a prompt are taken at their word.

    Attributes:
        gate: a batch waits at each step until it is set.
        batches: the prompts of each batch that was begun.
        cancelled: batches that were stopped.
        needs: what its call needs, beside pictures to start from; see `runtimes.conditions.Needs`.
        starts: how often it was opened.
    """

    name: str = "pretended"
    tasks: tuple[str, ...] = ("text-to-image", "image-to-image", "inpaint")
    sizes: Mapping[str, DimRange] = field(
        default_factory=lambda: {
            "width": DimRange(min=8, max=64),
            "height": DimRange(min=8, max=64),
            "batch": DimRange(min=1, max=4),
        }
    )
    gate: threading.Event = field(default_factory=threading.Event)
    batches: list[list[str]] = field(default_factory=list)
    jobs: list[Mapping[str, Any]] = field(default_factory=list)
    needs: dict[str, Any] = field(default_factory=dict)
    cancelled: set[int] = field(default_factory=set)
    starts: int = 0
    killed: bool = False

    def open(self) -> Mapping[str, Any]:
        self.starts += 1
        self.killed = False
        each = {"image": False, "mask": False, "controls": 0, "ip_adapters": 0, "other": ""} | self.needs
        needs = {task: dict(each) for task in self.tasks}
        schedulers = ["DDIMScheduler", "EulerDiscreteScheduler"]
        return {
            "note": "",
            "scheduler": "DDIMScheduler",
            "schedulers": schedulers,
            "previews": True,
            "needs": needs,
        }

    def draw(self, job: Mapping[str, Any], on_event: Callable[[Any], None]) -> Mapping[str, Any]:
        prompts = [picture["prompt"] for picture in job["pictures"]]
        self.batches.append(prompts)
        self.jobs.append(job)
        if any("crash" in prompt for prompt in prompts):
            raise WorkerEnded("its process was ended by signal 11 (SIGSEGV) before it answered.")
        if any("refuse" in prompt for prompt in prompts):
            raise WorkerError("the pipeline refuses this.", exit_code=2)
        seeds = [picture["seed"] for picture in job["pictures"]]
        for step in range(1, STEPS + 1):
            while not self.gate.wait(0.01):
                self._check(job["batch"])
            self._check(job["batch"])
            on_event({"step": step, "steps": STEPS})
            if job["previews"] and step <= job["previews"]:
                on_event({"preview": step - 1, "pictures": [picture(seed) for seed in seeds]})
        drawn = [
            {
                "file": picture(p["seed"], file_format=p["format"]),
                "size": [8, 8],
                "parameters": {"prompt": p["prompt"], "seed": p["seed"]},
                "flaws": [],
            }
            for p in job["pictures"]
        ]
        timings = {"total": 0.1, "components": {"unet.forward": {"calls": 4, "seconds": 0.1}}}
        return {"pictures": drawn, "timings": timings}

    def _check(self, batch: int) -> None:
        if self.killed:
            raise WorkerEnded("its process was killed.")
        if batch in self.cancelled:
            raise WorkerError("cancelled.", exit_code=130)

    def cancel(self, batch: int) -> None:
        self.cancelled.add(batch)

    def kill(self) -> None:
        self.killed = True

    def close(self) -> None:
        pass


@dataclass
class Running:
    """A server that listens, in a thread of this process."""

    server: Server
    engine: PretendedEngine

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    def client(self, **options: Any) -> httpx.Client:
        # There is nothing to verify, and reading the system's certificates takes time.
        return httpx.Client(base_url=self.url, timeout=20, verify=False, **options)


@contextlib.contextmanager
def running(
    engine: PretendedEngine | None = None,
    keys: Keys | None = None,
    limits: Limits | None = None,
    others: Sequence[PretendedEngine] = (),
    **options: Any,
) -> Iterator[Running]:
    """A server around a pretended engine, whose gate is open, and others."""
    if engine is None:
        engine = PretendedEngine()
        engine.gate.set()
    server = make_server([engine, *others], "127.0.0.1", 0, keys, limits, **options)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started and engine.starts > 0)
        yield Running(server, engine)
    finally:
        engine.gate.set()
        server.end()
        thread.join(30)
    assert not thread.is_alive()


def until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    """Waits for a condition.

    Raises:
        AssertionError: it does not come.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)
