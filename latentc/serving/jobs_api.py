"""The API of jobs: a request is taken, watched and cancelled by its number."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from latentc.serving.api_error import ApiError
from latentc.serving.drawing_job import DrawingJob
from latentc.serving.event_stream import event, stream
from latentc.serving.input_pictures import from_base64
from latentc.serving.openai_images import ImageFields, image_request
from latentc.serving.request_body import read_json, schema
from latentc.serving.service import Service, job_state

KEPT_BYTES = 256_000_000
"""Of pictures that jobs brought and made; those of the oldest that have ended go first."""
KEPT_JOBS = 1000


class JobFields(ImageFields):
    """The fields of a job: those of a request for pictures, and its input pictures in base64."""

    image: str | None = None
    mask: str | None = None
    control_image: str | list[str] | None = None
    ip_adapter_image: str | list[str] | None = None


class JobShelf:
    """Jobs by their numbers, for the clients that sent them."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, DrawingJob] = OrderedDict()

    def add(self, job: DrawingJob) -> None:
        """Keeps a job, and drops the oldest of those that ended where there are too many."""
        self._jobs[job.id] = job
        size = 0
        for count, old in enumerate(reversed(list(self._jobs.values())), start=1):
            size += sum(len(picture.file) for picture in old.pictures.values())
            size += old.drawing.input_bytes
            if old.ended and (count > KEPT_JOBS or size > KEPT_BYTES):
                del self._jobs[old.id]

    def get(self, number: str, client: str) -> DrawingJob:
        """A job of this client.

        Raises:
            ApiError: 404, also for other clients' jobs.
        """
        job = self._jobs.get(number)
        if job is None or job.client != client:
            raise ApiError(404, "There is no such job, or no more.", code="job_not_found")
        return job


def router(service: Service) -> APIRouter:
    """The routes."""
    routes, shelf = APIRouter(), JobShelf()

    async def create(request: Request) -> Response:
        fields = await read_json(request, JobFields)
        if fields.stream:
            raise ApiError(
                400, "A job is watched at /v1/jobs/ID/events; 'stream' is none of its fields.", "stream"
            )
        image = None if fields.image is None else from_base64(fields.image, "image")
        mask = None if fields.mask is None else from_base64(fields.mask, "mask")
        wanted = replace(
            image_request(fields, image, mask),
            control_images=_each(fields.control_image, "control_image"),
            ip_adapter_images=_each(fields.ip_adapter_image, "ip_adapter_image"),
        )
        job = await service.submit(request.state.client, wanted)
        shelf.add(job)
        return JSONResponse(job_state(service, job), 202, {"Location": f"/v1/jobs/{job.id}"})

    routes.add_api_route(
        "/v1/jobs",
        create,
        methods=["POST"],
        response_model=None,
        status_code=202,
        openapi_extra=schema(JobFields),
    )

    @routes.get("/v1/jobs/{number}")
    async def state(number: str, request: Request) -> Any:
        return _whole(service, shelf.get(number, request.state.client))

    @routes.delete("/v1/jobs/{number}")
    async def cancel(number: str, request: Request) -> Any:
        job = shelf.get(number, request.state.client)
        if not job.ended:
            service.cancel(job)
        return job_state(service, job)

    @routes.get("/v1/jobs/{number}/events", response_model=None)
    async def events(number: str, request: Request) -> Response:
        return stream(_events(service, shelf.get(number, request.state.client)))

    return routes


def _each(field: str | list[str] | None, name: str) -> tuple[bytes, ...]:
    """The pictures of a field that holds one or several."""
    texts = [] if field is None else [field] if isinstance(field, str) else field
    return tuple(from_base64(text, name) for text in texts)


async def _events(service: Service, job: DrawingJob) -> AsyncIterator[str]:
    """Its state at each change; the last has the pictures. A watcher that leaves changes nothing."""
    async for _ in job.changes():
        if not job.ended:
            yield event("job.progress", job_state(service, job))
    yield event(f"job.{job.state}", _whole(service, job))


def _whole(service: Service, job: DrawingJob) -> dict[str, Any]:
    drawn = [
        {"b64_json": picture.file, "seed": picture.parameters["seed"], "parameters": dict(picture.parameters)}
        for _, picture in sorted(job.pictures.items())
    ]
    return {**job_state(service, job), "data": drawn}
