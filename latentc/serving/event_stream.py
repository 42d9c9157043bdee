"""Responses that last: server-sent events, and answers that nobody waits for any more."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import StreamingResponse

from latentc.serving.drawing_job import DrawingJob, Picture
from latentc.serving.service import Service

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def event(name: str, data: Mapping[str, Any]) -> str:
    """One server-sent event."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


def stream(events: AsyncIterator[str]) -> StreamingResponse:
    """A response of events."""
    return StreamingResponse(events, media_type="text/event-stream", headers=HEADERS)


@contextlib.contextmanager
def cancelled_when_left(service: Service, job: DrawingJob) -> Any:
    """Cancels a job that has not ended when the block is left, as that of a closed connection is."""
    try:
        yield
    finally:
        if not job.ended:
            service.cancel(job)


async def pictures(service: Service, job: DrawingJob, request: Request) -> list[Picture]:
    """A job's pictures, for a client that waits; the job is cancelled where it closes its connection.

    Raises:
        ApiError: as `Job.result`.
    """
    with cancelled_when_left(service, job):
        result = asyncio.ensure_future(job.result())
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait({result, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not result.done():
                service.cancel(job)
            return await result
        finally:
            gone.cancel()
            result.cancel()


async def _disconnected(request: Request) -> None:
    # The body has been read: all that can come is the end of the connection.
    while (await request.receive())["type"] != "http.disconnect":
        pass
