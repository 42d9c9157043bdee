"""OpenAI's images API: /v1/images/generations, /v1/images/edits and /v1/models."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from latentc.serving.api_error import ApiError
from latentc.serving.drawing_job import DrawingJob, Picture
from latentc.serving.drawing_request import ImageRequest
from latentc.serving.event_stream import cancelled_when_left, event, pictures, stream
from latentc.serving.request_body import Fields, read_form, read_json, schema
from latentc.serving.service import Service
from runtimes.batches import MAX_SEED

_FILES = frozenset({"image", "mask"})


class ImageFields(Fields):
    """What a request for pictures may say: OpenAI's fields, and from `seed` on ours."""

    prompt: str
    model: str | None = None
    n: int = Field(1, ge=1)
    size: str | None = Field(None, pattern=r"^(auto|[0-9]{1,6}x[0-9]{1,6})$")
    response_format: Literal["b64_json", "url"] = "b64_json"
    output_format: Literal["png", "jpeg", "webp"] = "png"
    output_compression: int | None = Field(None, ge=0, le=100)
    stream: bool = False
    partial_images: int = Field(0, ge=0, le=3)
    user: str | None = None
    background: Literal["auto", "opaque"] = "auto"
    moderation: Literal["auto", "low"] = "auto"
    quality: Literal["auto", "standard"] = "auto"
    seed: int | None = Field(None, ge=0, le=MAX_SEED)
    steps: int | None = Field(None, ge=1)
    guidance: float | None = Field(None, ge=0, le=1000)
    negative_prompt: str | None = None
    scheduler: str | None = None
    strength: float | None = Field(None, gt=0, le=1)


def image_request(fields: ImageFields, image: bytes | None = None, mask: bytes | None = None) -> ImageRequest:
    """The request in the words of all APIs.

    Raises:
        ApiError: fields that do not go together, or that this server does not have.
    """
    if fields.response_format == "url":
        raise ApiError(
            400,
            "This server keeps no pictures that an address could lead to: ask for response_format b64_json.",
            "response_format",
        )
    if fields.output_compression is not None and fields.output_format == "png":
        raise ApiError(400, "output_compression is of jpeg and webp; png has none.", "output_compression")
    if fields.partial_images and not fields.stream:
        raise ApiError(400, "partial_images are sent where stream is true.", "partial_images")
    return ImageRequest(
        prompt=fields.prompt,
        model=fields.model,
        negative_prompt=fields.negative_prompt,
        pictures=fields.n,
        seed=fields.seed,
        size=parse_size(fields.size),
        steps=fields.steps,
        guidance=fields.guidance,
        scheduler=fields.scheduler,
        strength=fields.strength,
        image=image,
        mask=mask,
        previews=fields.partial_images,
        file_format=fields.output_format,
        quality=fields.output_compression,
    )


def parse_size(size: str | None) -> tuple[int, int] | None:
    """ "512x768" as width and height; None for "auto".

    Raises:
        ApiError: a side is zero.
    """
    if size is None or size == "auto":
        return None
    width, height = map(int, size.split("x"))
    if not width or not height:
        raise ApiError(400, f"'size' must be WIDTHxHEIGHT in pixels; found '{size}'.", "size")
    return width, height


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.get("/v1/models")
    async def models() -> Any:
        return {"object": "list", "data": [_model(service, name) for name in service.dispatchers]}

    @routes.get("/v1/models/{name}")
    async def model(name: str) -> Any:
        return _model(service, service.dispatcher(name).engine.name)

    async def generations(request: Request) -> Response:
        fields = await read_json(request, ImageFields)
        return await _answer(service, request, fields, image_request(fields), "image_generation")

    async def edits(request: Request) -> Response:
        fields, files = await read_form(request, _FILES, ImageFields, service.limits.body)
        if "image" not in files:
            raise ApiError(400, "'image' is required: the picture to edit.", "image")
        return await _answer(
            service, request, fields, image_request(fields, files["image"], files.get("mask")), "image_edit"
        )

    routes.add_api_route(
        "/v1/images/generations", generations, methods=["POST"], response_model=None,
        openapi_extra=schema(ImageFields),
    )  # fmt: skip
    routes.add_api_route(
        "/v1/images/edits", edits, methods=["POST"], response_model=None,
        openapi_extra=schema(ImageFields, "multipart/form-data", tuple(sorted(_FILES))),
    )  # fmt: skip
    return routes


def _model(service: Service, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "latentc"}


async def _answer(
    service: Service, request: Request, fields: ImageFields, wanted: ImageRequest, kind: str
) -> Response:
    job = await service.submit(request.state.client, wanted)
    if fields.stream:
        return stream(_events(service, job, kind))
    drawn = await pictures(service, job, request)
    return JSONResponse(
        {
            "created": int(time.time()),
            "data": [{"b64_json": picture.file, "seed": picture.parameters["seed"]} for picture in drawn],
            **_about(job, drawn[0]),
        }
    )


async def _events(service: Service, job: DrawingJob, kind: str) -> AsyncIterator[str]:
    with cancelled_when_left(service, job):
        shown = 0
        completed: set[int] = set()
        async for _ in job.changes():
            for preview in job.previews[shown:]:
                data = {
                    "type": f"{kind}.partial_image",
                    "b64_json": preview.file,
                    "created_at": int(time.time()),
                    "partial_image_index": preview.index,
                    # Previews are PNG files, whatever the picture is.
                    **_about(job, None),
                }
                yield event(f"{kind}.partial_image", data)
            shown = len(job.previews)
            for number in sorted(job.pictures.keys() - completed):
                picture = job.pictures[number]
                completed.add(number)
                data = {
                    "type": f"{kind}.completed",
                    "b64_json": picture.file,
                    "created_at": int(time.time()),
                    "seed": picture.parameters["seed"],
                    **_about(job, picture),
                }
                yield event(f"{kind}.completed", data)
        error = job.error
        if job.state == "cancelled":
            error = ApiError(409, "The request was cancelled.", code="cancelled")
        if error is not None:
            yield event("error", {"type": "error", **error.openai()})


def _about(job: DrawingJob, picture: Picture | None) -> dict[str, Any]:
    size = job.drawing.size if picture is None else picture.size
    return {
        "size": "auto" if size is None else f"{size[0]}x{size[1]}",
        "quality": "auto",
        "background": "opaque",
        "output_format": "png" if picture is None else job.drawing.file_format,
    }
