"""Takes batches from the queue, has an engine draw them, and tells their jobs."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from artifacts.errors import LatentcError
from artifacts.worker import WorkerEnded
from latentc.serving.api_error import ApiError
from latentc.serving.drawing_job import Picture, Preview
from latentc.serving.drawing_request import batch_job
from latentc.serving.engine import Engine
from latentc.serving.prometheus_metrics import Metrics
from latentc.serving.queue import DrawQueue, Turn
from latentc.serving.request_log import log
from runtimes.conditions import Needs
from runtimes.requested_task import requested_task

# Seconds that a process has to end a batch that was cancelled for its time, before it is ended itself.
GRACE = 10.0
# Seconds between two tries to start a process that does not start.
_PAUSE = 1.0

_batches = itertools.count()


class Dispatcher:
    """Draws with one engine, as long as the server runs.

    Attributes:
        opened: what the engine said of itself; None while it is not ready.
        failure: why it is not; empty where it only needs time.
        turns: the batch under way.
    """

    def __init__(self, engine: Engine, queue: DrawQueue, seconds: float, metrics: Metrics) -> None:
        """
        Args:
            seconds: that one batch may take.
        """
        self.engine = engine
        self.opened: Mapping[str, Any] | None = None
        self.failure = ""
        self.turns: Sequence[Turn] = ()
        self._queue = queue
        self._limit = seconds
        self._metrics = metrics
        self._batch = -1
        self._late = False
        # One thread: an engine does one thing at a time.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"draw-{engine.name}")
        batch = engine.sizes.get("batch")
        self._most = 1 if batch is None else max(1, batch.max)

    async def open(self) -> None:
        """Starts the engine.

        Raises:
            LatentcError: it does not start.
        """
        try:
            self.opened = await self._blocking(self.engine.open)
            self.failure = ""
        except LatentcError as error:
            self.failure = str(error)
            raise

    def needs(self, task: str) -> Needs | None:
        """What requests for a task bring; None while nothing is known of the model."""
        known = {} if self.opened is None else self.opened["needs"]
        return Needs(**known[task]) if task in known else None

    def task(self, image: bool, mask: bool) -> str:
        """The task of a request: that of its pictures, or the first that takes them, where the model has no such task.

        Args:
            image, mask: whether there is a picture to start from, and one of what is to be drawn anew.
        """
        wanted = requested_task(image, mask)
        if image and wanted not in self.engine.tasks:
            for task in self.engine.tasks:
                needs = self.needs(task)
                if needs is not None and needs.image and (needs.mask or not mask):
                    return task
        return wanted

    @property
    def unservable(self) -> str:
        """Why no request can draw with the model; empty where one can, and while nothing is known of it."""
        if self.opened is None:
            return ""
        reasons = [Needs(**needs).other for needs in self.opened["needs"].values()]
        return f"the pipeline {reasons[0]}" if reasons and all(reasons) else ""

    async def run(self) -> None:
        """Draws until the queue stops and is empty."""
        while turns := await self._queue.take(self.engine.name, self._most):
            await self._draw(turns)

    async def close(self) -> None:
        """Ends the engine."""
        await self._blocking(self.engine.close)
        self._thread.shutdown()

    def cancel_abandoned(self) -> None:
        """Stops the batch under way where all of its jobs have ended."""
        if self.turns and all(turn.job.ended for turn in self.turns):
            self.engine.cancel(self._batch)

    async def _draw(self, turns: Sequence[Turn]) -> None:
        """One batch. One that fails is drawn again job by job: what is wrong with one request is no other's."""
        turns = [turn for turn in turns if not turn.job.ended]
        if not turns:
            return
        if self.opened is None:
            await self._reopen()
        try:
            if self.opened is None:
                raise LatentcError(f"the model cannot be opened: {self.failure}")
            self._finish(turns, await self._asked(turns))
        except Exception as error:
            jobs = {turn.job.id for turn in turns}
            if isinstance(error, WorkerEnded):
                await self._reopen()
            if len(jobs) > 1 and not self._late:
                for job in sorted(jobs):
                    await self._draw([turn for turn in turns if turn.job.id == job])
                return
            self._fail(turns, error)

    async def _asked(self, turns: Sequence[Turn]) -> Mapping[str, Any]:
        loop = asyncio.get_running_loop()
        self._batch, self.turns, self._late = next(_batches), turns, False
        job = batch_job(self._batch, [(turn.job.drawing, turn.picture) for turn in turns])
        started = time.monotonic()
        for turn in turns:
            turn.job.step = turn.job.steps = 0
            turn.job.changed()
            self._metrics.waited.observe(max(0.0, time.time() - turn.job.created_at))
        deadline = loop.call_later(self._limit, self._stop_late)
        end = loop.call_later(self._limit + GRACE, self.engine.kill)

        def on_event(event: Any) -> None:
            loop.call_soon_threadsafe(self._on_event, turns, event)

        try:
            answer: Mapping[str, Any] = await self._blocking(self.engine.draw, job, on_event)
        finally:
            self.turns = ()
            deadline.cancel()
            end.cancel()
        self._queue.measured(self.engine.name, (time.monotonic() - started) / len(turns))
        return answer

    def _stop_late(self) -> None:
        self._late = True
        self.engine.cancel(self._batch)

    def _on_event(self, turns: Sequence[Turn], event: Mapping[str, Any]) -> None:
        for number, turn in enumerate(turns):
            if turn.job.ended:
                continue
            if "preview" in event:
                file = event["pictures"][number]
                turn.job.previews.append(Preview(turn.picture, event["preview"], file))
            else:
                turn.job.step, turn.job.steps = event["step"], event["steps"]
            turn.job.changed()

    def _finish(self, turns: Sequence[Turn], answer: Mapping[str, Any]) -> None:
        self._metrics.drawn(self.engine.name, len(turns), answer["timings"])
        for turn, drawn in zip(turns, answer["pictures"], strict=True):
            job = turn.job
            if job.ended:
                continue
            width, height = drawn["size"]
            job.pictures[turn.picture] = Picture(
                drawn["file"], (width, height), drawn["parameters"], tuple(drawn["flaws"])
            )
            job.running.discard(turn.picture)
            if len(job.pictures) == len(job.drawing.seeds):
                job.end("succeeded")
            else:
                job.changed()

    def _fail(self, turns: Sequence[Turn], error: Exception) -> None:
        if self._late:
            failure = ApiError(504, f"The batch took longer than {self._limit:g} seconds.", code="timeout")
        elif isinstance(error, WorkerEnded):
            failure = ApiError(500, f"The engine ended while it drew: {error}", code="engine_ended")
        elif isinstance(error, LatentcError) and error.exit_code == 2:
            failure = ApiError(400, str(error), code="refused")
        else:
            failure = ApiError(500, str(error) or type(error).__name__, code="engine_failed")
        if not all(turn.job.ended for turn in turns):  # else it was cancelled
            self._metrics.errors.labels(failure.code).inc()
            log("error", "draw_failed", model=self.engine.name, code=failure.code, reason=failure.message)
        for turn in turns:
            self._queue.drop(turn.job)
            turn.job.end("failed", failure)

    async def _reopen(self) -> None:
        self.opened = None
        self._metrics.restarts.labels(self.engine.name).inc()
        log("warning", "engine_restarts", model=self.engine.name)
        try:
            await self.open()
        except LatentcError as error:
            log("error", "engine_failed", model=self.engine.name, reason=str(error))
            await asyncio.sleep(_PAUSE)

    async def _blocking(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
