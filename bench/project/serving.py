"""`python -m bench.project.serving`: `latentc serve` under load, on the built-in model.

Compiles `shapes` for each target, for one picture at a time and for batches, and of each artifact: draws with
`generate` in a loop, asks a server for every request alone, lets clients ask for the same requests all at once for some
minutes, and draws in the loop again. Each client has a key of its own, asks by the API of jobs, and asks anew when its
picture is there. Prints a row for each artifact; ends with status 1 where a picture was lost or is another one than
alone, where memory grew, or where the server made fewer than 0.9 of the pictures of the loop. `--update-docs` writes
the table into docs/serve.md.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import io
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from artifacts import worker
from artifacts.errors import LatentcError
from artifacts.manifest import DimRange
from bench import markdown_tables
from bench.environment import processor

if TYPE_CHECKING:
    import httpx

PROMPTS = (
    "a large red circle at the left on a blue background",
    "a small yellow cross at the top on a black background",
    "a large green triangle at the right on a white background",
    "a small purple square at the bottom on a pink background",
)
SEEDS = 4
TOLERANCE = 1
"""Levels of 255 by which a picture of a batch may differ from the same alone: kernels round otherwise."""
RATIO = 0.9
GROWTH = 8_000_000
"""Bytes within which memory counts as still: an allocator's pages come and go."""
PAGE = Path(__file__).resolve().parents[2] / "docs" / "serve.md"
BEGIN, END = "<!-- Written by `python -m bench.project.serving --update-docs`. -->", "<!-- End. -->"
TARGETS = ("openvino", "onnxruntime")
_START = 600.0


@dataclass(frozen=True)
class Request:
    """One of the pictures that clients ask for."""

    prompt: str
    seed: int
    steps: int

    @property
    def fields(self) -> dict[str, Any]:
        """As the server's APIs take it."""
        return {"prompt": self.prompt, "seed": self.seed, "steps": self.steps}


@dataclass
class Load:
    """What the clients saw.

    Attributes:
        seconds: from the first request to the last picture.
        lost: what became of requests that ended without a picture.
        differences: of each picture, its largest difference from the same alone, in levels of 255.
        waits: seconds from a request to the start of its drawing.
        memory: (seconds since the start, bytes that the server's processes held).
    """

    seconds: float = 0.0
    lost: list[str] = field(default_factory=list)
    differences: list[int] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)

    @property
    def growth(self) -> int:
        """Bytes by which memory grew in the last minute, or in the last half of less than two: the median of its
        second half less that of its first."""
        end = self.memory[-1][0]
        start = end - min(60.0, end / 2)
        last = [memory for seconds, memory in self.memory if seconds >= start]
        half = max(1, len(last) // 2)
        return round(statistics.median(last[half:] or last) - statistics.median(last[:half]))


@dataclass(frozen=True)
class Outcome:
    """One artifact: pictures a minute of `generate` in a loop, before and after, and the load between."""

    target: str
    batch: int
    loop: tuple[float, float]
    load: Load

    @property
    def served(self) -> float:
        """Pictures a minute."""
        return 60 * len(self.load.differences) / self.load.seconds

    @property
    def ratio(self) -> float:
        """Of the server's pictures to the loop's."""
        return self.served / statistics.mean(self.loop)

    @property
    def wrong(self) -> int:
        """Pictures that are not those that the same request gets alone."""
        return sum(difference > TOLERANCE for difference in self.load.differences)

    @property
    def passed(self) -> bool:
        """Whether everything that is claimed holds."""
        return not self.load.lost and not self.wrong and self.ratio >= RATIO and self.load.growth <= GROWTH


class Server:
    """`latentc serve` as a process, for clients with keys."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self._popen = popen
        self._events: dict[str, Mapping[str, Any]] = {}
        self._said: list[str] = []
        self._changed = threading.Condition()
        threading.Thread(target=self._read, args=(popen.stderr,), daemon=True).start()

    def _read(self, lines: IO[str]) -> None:
        for line in lines:
            with self._changed:
                if line.startswith("{"):
                    event = json.loads(line)
                    self._events.setdefault(event["event"], event)
                else:
                    self._said = [*self._said[-20:], line]
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def event(self, name: str) -> Mapping[str, Any]:
        """The first log line of an event.

        Raises:
            LatentcError: the server ended before.
        """
        with self._changed:
            self._changed.wait_for(lambda: name in self._events or self._popen.poll() is not None, _START)
            if name not in self._events:
                raise LatentcError("the server does not start: " + "".join(self._said).strip())
            return self._events[name]

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.event('listening')['port']}"

    def memory(self) -> int:
        """Bytes that its processes hold."""
        import psutil

        process = psutil.Process(self._popen.pid)
        resident = 0
        for part in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                resident += part.memory_info().rss
        return resident


@contextlib.contextmanager
def served(artifact: Path, keys: Mapping[str, str], work: Path) -> Iterator[Server]:
    """A server that is ready, and ended by a signal.

    Raises:
        LatentcError: it does not start, or does not end well.
    """
    file = work / "keys.txt"
    file.write_text("".join(f"{name}: {key}\n" for name, key in keys.items()), encoding="utf-8")
    options = ["--port", "0", "--api-key-file", str(file), "--queue", str(4 * len(keys))]
    command = [*worker.command("latentc.cli:main"), "serve", str(artifact), *options]
    popen = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, encoding="utf-8")
    try:
        server = Server(popen)
        server.event("model_ready")
        yield server
        popen.send_signal(signal.SIGTERM)
        if status := popen.wait(60):
            raise LatentcError(f"the server {worker.ending(status)}.")
    finally:
        popen.kill()
        popen.wait()


def loop(artifact: Path, requests: Sequence[Request], seconds: float) -> float:
    """Pictures a minute of `generate` in a loop, as the server draws: steps are not forecast.

    The artifact is opened in this process, and closed.
    """
    from runtimes import load

    with load(artifact, accelerate="off") as pipeline:
        pipeline.generate(requests[0].prompt, seed=requests[0].seed, steps=requests[0].steps)
        drawn, started = 0, time.monotonic()
        while (took := time.monotonic() - started) < seconds:
            request = requests[drawn % len(requests)]
            pipeline.generate(request.prompt, seed=request.seed, steps=request.steps)
            drawn += 1
    return 60 * drawn / took


def _pixels(file: str) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(file))) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int16)


def _client(server: Server, key: str) -> httpx.AsyncClient:
    import httpx

    headers = {"Authorization": f"Bearer {key}"}
    return httpx.AsyncClient(base_url=server.url, headers=headers, timeout=None, verify=False)


async def _drawn(client: httpx.AsyncClient, request: Request) -> tuple[str, float]:
    """The picture's file, and the seconds until its drawing began.

    Raises:
        LatentcError: it was refused, or failed.
    """
    started, began = time.monotonic(), None
    answer = await client.post("/v1/jobs", json=request.fields)
    if answer.status_code != 202:
        raise LatentcError(f"{answer.status_code}: {answer.text}")
    async with client.stream("GET", f"/v1/jobs/{answer.json()['id']}/events") as events:
        async for line in events.aiter_lines():
            if not line.startswith("data: "):
                continue
            state = json.loads(line.removeprefix("data: "))
            if began is None and state["status"] != "queued":
                began = time.monotonic()
    if state["status"] != "succeeded" or began is None:
        raise LatentcError(f"{state['status']}: {state['error']}")
    return state["data"][0]["b64_json"], began - started


async def _under_load(
    server: Server, keys: Sequence[str], requests: Sequence[Request], seconds: float
) -> Load:
    async with _client(server, keys[0]) as client:
        alone = [_pixels((await _drawn(client, request))[0]) for request in requests]
    load, started = Load(), time.monotonic()

    async def ask(number: int, key: str) -> None:
        async with _client(server, key) as client:
            turn = number
            while time.monotonic() - started < seconds:
                wanted = turn % len(requests)
                # Each client in an order of its own, so that neighbours in a batch change.
                turn += 1 + number % 3
                try:
                    file, wait = await _drawn(client, requests[wanted])
                except Exception as error:
                    load.lost.append(f"{type(error).__name__}: {error}")
                    continue
                load.waits.append(wait)
                load.differences.append(int(np.abs(_pixels(file) - alone[wanted]).max()))

    async def watch() -> None:
        while True:
            load.memory.append((time.monotonic() - started, server.memory()))
            await asyncio.sleep(0.5)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(ask(number, key) for number, key in enumerate(keys)))
    load.seconds = time.monotonic() - started
    watching.cancel()
    return load


def measure(batch: int, clients: int, minutes: float, steps: int, target: str, work: Path) -> Outcome:
    """Compiles `shapes` for up to `batch` pictures at once, and puts the artifact under load.

    Raises:
        LatentcError: it cannot be compiled or served.
    """
    from compiler.build import compile
    from compiler.compile_request import CompileRequest

    artifact = work / f"{target}-{batch}"
    sizes = DimRange(min=1, max=batch)
    compile(CompileRequest(model="shapes", out=artifact, target=target, batch=sizes, force=True))
    requests = [Request(prompt, seed, steps) for prompt in PROMPTS for seed in range(SEEDS)]
    keys = {f"client-{number}": f"a-key-of-client-{number:08}" for number in range(clients)}
    # Half of the time before, half after: what else the machine does changes.
    before = loop(artifact, requests, 15 * minutes)
    with served(artifact, keys, work) as server:
        load = asyncio.run(_under_load(server, list(keys.values()), requests, 60 * minutes))
    return Outcome(target, batch, (before, loop(artifact, requests, 15 * minutes)), load)


def table(outcomes: Sequence[Outcome]) -> str:
    """A Markdown table, which docs/serve.md shows."""
    names = (
        "target", "pictures at once", "`generate` in a loop, a minute", "served, a minute", "ratio", "lost", "wrong",
        "of all", "bit for bit", "memory, growth", "p95 of the queue",
    )  # fmt: skip
    rows = []
    for outcome in outcomes:
        load = outcome.load
        waits = np.quantile(load.waits, 0.95) if load.waits else float("nan")
        rows.append(
            (
                outcome.target,
                str(outcome.batch),
                f"{statistics.mean(outcome.loop):.0f}",
                f"{outcome.served:.0f}",
                f"{outcome.ratio:.2f}",
                str(len(load.lost)),
                str(outcome.wrong),
                str(len(load.differences)),
                str(sum(difference == 0 for difference in load.differences)),
                f"{load.memory[-1][1] / 1e6:.0f} MB, {load.growth / 1e6:+.1f} MB",
                f"{waits:.1f} s",
            )
        )
    return markdown_tables.table(names, rows, right=names[1:])


def about(clients: int, minutes: float, steps: int) -> str:
    """How it was measured, for people."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return (
        f"{clients} clients for {minutes:g} minutes, {steps} steps, on {cores} core{'' if cores == 1 else 's'} of "
        f"{processor()}, which server, clients and loop share:"
    )


def write_page(section: str, page: Path = PAGE) -> None:
    """Writes a section of docs/serve.md."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise LatentcError(f"{page} has no place for the table.", f"Between two lines: {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n\n{section}\n\n{END}{after}", encoding="utf-8", newline="\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.project.serving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--batch", type=int, action="append", help="pictures at once (default: 1, and 4)")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--target", action="append", help=f"(default: {', and '.join(TARGETS)})")
    parser.add_argument(
        "--update-docs", action="store_true", help="write the table into docs/serve.md, if it passes"
    )
    args = parser.parse_args()
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="latentc-serving-") as work:
        try:
            for target, batch in itertools.product(args.target or TARGETS, args.batch or (1, 4)):
                print(f"{target}, {batch} at once", file=sys.stderr, flush=True)
                outcomes.append(measure(batch, args.clients, args.minutes, args.steps, target, Path(work)))
        except LatentcError as error:
            sys.exit(f"Error: {error}")
    print(table(outcomes))
    for outcome in outcomes:
        for reason in sorted(set(outcome.load.lost)):
            print(f"lost: {reason}", file=sys.stderr)
    passed = all(outcome.passed for outcome in outcomes)
    if passed and args.update_docs:
        write_page(f"{about(args.clients, args.minutes, args.steps)}\n\n{table(outcomes)}")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
