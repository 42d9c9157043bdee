"""The one queue: bounded, fair between clients, and drawn from in batches."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from latentc.serving.api_error import ApiError
from latentc.serving.drawing_job import DrawingJob
from latentc.serving.drawing_request import Drawing

# Of a new measurement of how long a picture takes; the rest is that of those before.
_WEIGHT = 0.3


@dataclass(frozen=True)
class Turn:
    """One picture whose turn has come."""

    job: DrawingJob
    picture: int


class DrawQueue:
    """Jobs of all clients, which take turns picture by picture. It belongs to the event loop's thread.

    A client may have as many pictures waiting as are free besides: half of the queue where it is alone, a third where
    two fill it, and so on. So there is always room for one who has none.
    """

    def __init__(self, limit: int) -> None:
        """
        Args:
            limit: pictures that may wait.
        """
        self._limit = limit
        # The first client is the next one.
        self._clients: OrderedDict[str, list[DrawingJob]] = OrderedDict()
        self._seconds: dict[str, float] = {}
        self._arrived = asyncio.Condition()
        self.stopping = False

    @property
    def waiting(self) -> int:
        """Pictures that wait."""
        return sum(len(job.waiting) for job in self.jobs())

    def jobs(self) -> Iterator[DrawingJob]:
        """Jobs with pictures that wait."""
        for jobs in self._clients.values():
            yield from jobs

    async def submit(self, client: str, drawing: Drawing) -> DrawingJob:
        """Takes a request.

        Raises:
            ApiError: 429 where it is full, 503 where the server stops.
        """
        if self.stopping:
            raise ApiError(503, "The server is stopping.", code="stopping")
        own = sum(len(job.waiting) for job in self._clients.get(client, ()))
        if own + len(drawing.seeds) > self._limit - self.waiting:
            raise ApiError(
                429,
                f"The queue has no room for {len(drawing.seeds)} more pictures of this client: {self.waiting} of "
                f"{self._limit} wait, {own} of them its own.",
                code="queue_full",
                retry_after=max(1, math.ceil(self.seconds_of(drawing.model) or 1)),
            )
        job = DrawingJob(client, drawing)
        self._clients.setdefault(client, []).append(job)
        async with self._arrived:
            self._arrived.notify_all()
        return job

    async def take(self, model: str, most: int) -> list[Turn]:
        """Waits for pictures of a model, and takes those of the next batch.

        Args:
            most: pictures of one batch.

        Returns:
            Pictures of one `Drawing.batch_key`; the first is that of the client whose turn it is. Empty where the
            server stops and none is left.
        """
        async with self._arrived:
            await self._arrived.wait_for(lambda: self.stopping or any(self._of_model(model)))
        return self._batch(model, most)

    def drop(self, job: DrawingJob) -> None:
        """Forgets a job's pictures that wait."""
        job.waiting.clear()
        self._sweep()

    async def stop(self) -> list[DrawingJob]:
        """Takes nothing more; the jobs that were not begun are dropped and returned."""
        self.stopping = True
        dropped = [job for job in self.jobs() if job.state == "queued"]
        for job in dropped:
            job.end("failed", ApiError(503, "The server is stopping.", code="stopping"))
        self._sweep()
        async with self._arrived:
            self._arrived.notify_all()
        return dropped

    def position(self, job: DrawingJob) -> int:
        """How many pictures of its model are drawn before the job's next one, at most."""
        own = 0
        for other in self._clients.get(job.client, ()):
            if other is job:
                break
            own += len(other.waiting) if other.drawing.model == job.drawing.model else 0
        others = 0
        for client in self._clients:
            if client != job.client:
                waiting = sum(
                    len(other.waiting)
                    for other in self._clients[client]
                    if other.drawing.model == job.drawing.model
                )
                others += min(own + 1, waiting)
        return own + others

    def measured(self, model: str, seconds: float) -> None:
        """Notes how long one picture took."""
        before = self._seconds.get(model, seconds)
        self._seconds[model] = before + _WEIGHT * (seconds - before)

    def seconds_of(self, model: str) -> float | None:
        """How long a picture takes; None before the first."""
        return self._seconds.get(model)

    def seconds_left(self, job: DrawingJob) -> float | None:
        """About how long the job takes from now; None where nothing was measured yet."""
        seconds = self.seconds_of(job.drawing.model)
        if seconds is None or job.ended:
            return None
        under_way = len(job.running) * (1 - job.step / job.steps if job.steps else 1)
        ahead = self.position(job) + len(job.waiting) if job.waiting else 0
        return round(seconds * (under_way + ahead), 1)

    def _of_model(self, model: str) -> Iterator[DrawingJob]:
        return (job for job in self.jobs() if job.waiting and job.drawing.model == model)

    def _batch(self, model: str, most: int) -> list[Turn]:
        first = next(self._of_model(model), None)
        if first is None:
            return []
        turns = [self._turn(first)]
        key = first.drawing.batch_key
        while len(turns) < most:
            job = next((j for j in self._of_model(model) if j.drawing.batch_key == key), None)
            if job is None:
                break
            turns.append(self._turn(job))
        self._sweep()
        return turns

    def _turn(self, job: DrawingJob) -> Turn:
        picture = job.waiting.popleft()
        job.running.add(picture)
        job.state = "running"
        self._clients.move_to_end(job.client)
        return Turn(job, picture)

    def _sweep(self) -> None:
        for client, jobs in list(self._clients.items()):
            jobs[:] = [job for job in jobs if job.waiting]
            if not jobs:
                del self._clients[client]
