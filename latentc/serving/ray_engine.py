"""An engine whose batches are drawn by replicas of a Ray Serve deployment, on whichever machine they are."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from artifacts.hub_artifacts import located
from artifacts.manifest import DimRange
from artifacts.progress import silent
from artifacts.worker import WorkerEnded, WorkerError
from latentc.serving.dispatch import GRACE
from latentc.serving.engine import ArtifactEngine, LoadOptions
from latentc.serving.request_log import log

TRIES = 3
"""How often a batch is drawn whose replica was lost: it may be the batch that ends them."""


class EngineReplica:
    """A deployment: one artifact in a process of its own, which draws one batch after the other."""

    def __init__(self, artifact: str, options: LoadOptions) -> None:
        """Fetches the artifact unless its node has it, verifies it there, and opens it.

        Args:
            artifact: a folder that every node has, or `owner/name[@REVISION]` of the Hugging Face hub.
        """
        self._engine = ArtifactEngine(Path(located(artifact, silent)), options)
        # None where its process has ended: it is started again when it is asked for something.
        self._opened: Mapping[str, Any] | None = self._engine.open()
        self._free = asyncio.Lock()

    async def about(self) -> dict[str, Any]:
        """What `Engine.open` returns, the artifact's tasks and sizes, and the replica's process.

        Raises:
            WorkerError: the artifact does not open again.
        """
        async with self._free:
            opened = await asyncio.get_running_loop().run_in_executor(None, self._open)
        return {
            "opened": dict(opened),
            "tasks": self._engine.tasks,
            "sizes": dict(self._engine.sizes),
            "pid": os.getpid(),
        }

    async def draw(self, job: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Yields {"event": ...}, as many as the engine tells; last {"answer": ...} or {"failure": ..., "ended": ...}.

        A caller that leaves cancels the batch.
        """
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

        def say(message: dict[str, Any]) -> None:
            loop.call_soon_threadsafe(messages.put_nowait, message)

        drawing = loop.run_in_executor(None, self._drawn, job, say)
        drawing.add_done_callback(lambda _: self._free.release())
        answered = False
        try:
            while not answered:
                message = await messages.get()
                answered = "event" not in message
                yield message
        finally:
            if not answered:
                self._engine.cancel(job["batch"])
                end = loop.call_later(GRACE, self._engine.kill)
                drawing.add_done_callback(lambda _: end.cancel())

    def _open(self) -> Mapping[str, Any]:
        if self._opened is None:
            self._opened = self._engine.open()
        return self._opened

    def _drawn(self, job: Mapping[str, Any], say: Callable[[dict[str, Any]], None]) -> None:
        try:
            self._open()
            reply: dict[str, Any] = {"answer": self._engine.draw(job, lambda event: say({"event": event}))}
        except WorkerError as error:
            ended = isinstance(error, WorkerEnded)
            if ended:
                self._opened = None
            reply = {"failure": [error.message, error.hint, error.exit_code], "ended": ended}
        except Exception as error:  # whatever it is, the caller waits for an answer
            reply = {"failure": [f"{type(error).__name__}: {error}", "", 1], "ended": False}
        say(reply)


class RayEngine:
    """One batch at a time on one of a deployment's replicas; as many of these as batches are drawn side by side."""

    def __init__(self, name: str, handle: Any, about: Mapping[str, Any]) -> None:
        """
        Args:
            name: by which requests ask for the model.
            handle: of the deployment of `EngineReplica`.
            about: what a replica says of itself.
        """
        self.name = name
        self.tasks: tuple[str, ...] = tuple(about["tasks"])
        self.sizes: Mapping[str, DimRange] = about["sizes"]
        self._handle = handle
        self._lock = threading.Lock()
        self._response: Any = None
        self._cancelled: set[int] = set()

    def open(self) -> Mapping[str, Any]:
        """See `Engine.open`."""
        about: Mapping[str, Any] = self._handle.about.remote().result()
        opened: Mapping[str, Any] = about["opened"]
        return opened

    def draw(self, job: Mapping[str, Any], on_event: Callable[[Any], None]) -> Mapping[str, Any]:
        """See `Engine.draw`; a batch whose replica is lost is drawn again by another."""
        from ray.exceptions import RayError, TaskCancelledError
        from ray.serve.exceptions import RequestCancelledError

        for _ in range(TRIES):
            try:
                return self._drawn(job, on_event)
            except (TaskCancelledError, RequestCancelledError):
                break
            except RayError as error:
                if job["batch"] in self._cancelled:
                    break
                log("warning", "replica_lost", model=self.name, reason=type(error).__name__)
        else:
            raise WorkerEnded(f"its replica was lost {TRIES} times.")
        raise WorkerError("cancelled.", exit_code=130)

    def cancel(self, batch: int) -> None:
        """See `Engine.cancel`."""
        with self._lock:
            self._cancelled = {batch}
            response = self._response
        if response is not None:
            response.cancel()

    def kill(self) -> None:
        """See `Engine.kill`: the replica itself ends a process that does not stop when it is told to."""

    def close(self) -> None:
        """See `Engine.close`: replicas are Ray's."""

    def _drawn(self, job: Mapping[str, Any], on_event: Callable[[Any], None]) -> Mapping[str, Any]:
        response = self._handle.options(stream=True).draw.remote(job)
        with self._lock:
            self._response = response
            cancelled = job["batch"] in self._cancelled
        if cancelled:
            response.cancel()
        try:
            for message in response:
                if "event" in message:
                    on_event(message["event"])
                elif "answer" in message:
                    answer: Mapping[str, Any] = message["answer"]
                    return answer
                else:
                    reason, hint, exit_code = message["failure"]
                    raise (WorkerEnded if message["ended"] else WorkerError)(reason, hint, exit_code)
        finally:
            with self._lock:
                self._response = None
        raise WorkerEnded("its replica ended before it answered.")
