"""AUTOMATIC1111's API, as far as pipelines have it; what is not there is an error that names it."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from latentc.pictures import describe
from latentc.serving.api_error import ApiError
from latentc.serving.controlnet_script import control_images
from latentc.serving.dispatch import Dispatcher
from latentc.serving.drawing_request import ImageRequest
from latentc.serving.event_stream import pictures
from latentc.serving.input_pictures import from_base64
from latentc.serving.request_body import Fields, read_json, schema
from latentc.serving.service import Service
from runtimes.batches import MAX_SEED

# Its names of samplers -> diffusers' schedulers.
SAMPLERS = {
    "Euler": "EulerDiscreteScheduler",
    "Euler a": "EulerAncestralDiscreteScheduler",
    "DDIM": "DDIMScheduler",
    "PLMS": "PNDMScheduler",
    "LMS": "LMSDiscreteScheduler",
    "Heun": "HeunDiscreteScheduler",
    "DPM2": "KDPM2DiscreteScheduler",
    "DPM2 a": "KDPM2AncestralDiscreteScheduler",
    "DPM++ 2M": "DPMSolverMultistepScheduler",
    "UniPC": "UniPCMultistepScheduler",
    "LCM": "LCMScheduler",
}

# Its schedules -> the switch of diffusers' schedulers.
SCHEDULES = {
    "automatic": "",
    "karras": "use_karras_sigmas=true",
    "exponential": "use_exponential_sigmas=true",
    "beta": "use_beta_sigmas=true",
}


class TextFields(Fields):
    """What txt2img may say."""

    prompt: str = ""
    negative_prompt: str = ""
    seed: int = Field(-1, ge=-1, le=MAX_SEED)
    steps: int | None = Field(None, ge=1)
    cfg_scale: float | None = Field(None, ge=0, le=1000)
    width: int | None = Field(None, ge=1, le=999_999)
    height: int | None = Field(None, ge=1, le=999_999)
    sampler_name: str | None = None
    sampler_index: str | None = None
    scheduler: str | None = None
    batch_size: int = Field(1, ge=1, le=1000)
    n_iter: int = Field(1, ge=1, le=1000)
    send_images: bool = True
    save_images: bool = False
    do_not_save_samples: bool = True
    do_not_save_grid: bool = True
    alwayson_scripts: dict[str, Any] | None = None
    override_settings: dict[str, Any] | None = None
    override_settings_restore_afterwards: bool = True


class ImageToImageFields(TextFields):
    """What img2img may say."""

    init_images: list[str] = Field(min_length=1, max_length=1, fail_fast=True)
    mask: str | None = None
    denoising_strength: float = Field(0.75, gt=0, le=1)
    include_init_images: bool = False


class OptionFields(Fields):
    """The options that there are."""

    sd_model_checkpoint: str | None = None


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/sdapi/v1")

    async def txt2img(request: Request) -> Response:
        return await _drawn(service, request, await read_json(request, TextFields))

    async def img2img(request: Request) -> Response:
        return await _drawn(service, request, await read_json(request, ImageToImageFields))

    routes.add_api_route(
        "/txt2img", txt2img, methods=["POST"], response_model=None, openapi_extra=schema(TextFields)
    )
    routes.add_api_route(
        "/img2img", img2img, methods=["POST"], response_model=None, openapi_extra=schema(ImageToImageFields)
    )

    @routes.get("/progress")
    async def progress(request: Request) -> Any:
        return _progress(service, request.state.client)

    @routes.post("/interrupt")
    async def interrupt(request: Request) -> Any:
        for job in service.running(request.state.client):
            service.cancel(job)
        return {}

    @routes.get("/samplers")
    async def samplers() -> Any:
        return [
            {"name": n, "aliases": [c], "options": {}} for n, c in _samplers(service.dispatcher(None)).items()
        ]

    @routes.get("/schedulers")
    async def schedulers() -> Any:
        return [{"name": name, "label": name.capitalize()} for name in SCHEDULES]

    @routes.get("/sd-models")
    async def models() -> Any:
        return [
            {
                "title": name,
                "model_name": name,
                "hash": None,
                "sha256": None,
                "filename": name,
                "config": None,
            }
            for name in service.dispatchers
        ]

    @routes.get("/options")
    async def options() -> Any:
        return {"sd_model_checkpoint": service.dispatcher(None).engine.name}

    async def set_options(request: Request) -> Any:
        _check_options(service, await read_json(request, OptionFields))
        return {}

    routes.add_api_route(
        "/options", set_options, methods=["POST"], response_model=None, openapi_extra=schema(OptionFields)
    )
    return routes


def _check_options(service: Service, options: OptionFields) -> None:
    """Options are each request's own; the one that may be set is what it is already."""
    own = service.dispatcher(None).engine.name
    if options.sd_model_checkpoint not in (None, own):
        raise ApiError(
            422,
            f"The model of this API is '{own}'; name another in a request's override_settings.",
            "sd_model_checkpoint",
            "not_there",
        )


def _image_request(service: Service, fields: TextFields) -> ImageRequest:
    if fields.save_images or not (fields.do_not_save_samples and fields.do_not_save_grid):
        raise ApiError(
            422,
            "Pictures are sent and not saved here: 'save_images' is not there.",
            "save_images",
            "not_there",
        )
    if not fields.send_images:
        raise ApiError(
            422,
            "Pictures are sent and not saved here: 'send_images' must be true.",
            "send_images",
            "not_there",
        )
    model = None
    for name, value in (fields.override_settings or {}).items():
        if name != "sd_model_checkpoint" or not isinstance(value, str):
            raise ApiError(422, f"The setting '{name[:100]}' is not there.", "override_settings", "not_there")
        model = value
    if (fields.width is None) != (fields.height is None):
        raise ApiError(422, "'width' and 'height' are given together.", "width")
    image = mask = None
    strength = None
    if isinstance(fields, ImageToImageFields):
        if fields.include_init_images:
            raise ApiError(422, "'include_init_images' is not there.", "include_init_images", "not_there")
        image = from_base64(fields.init_images[0], "init_images")
        mask = None if fields.mask is None else from_base64(fields.mask, "mask")
        strength = fields.denoising_strength
    return ImageRequest(
        prompt=fields.prompt,
        model=model,
        negative_prompt=fields.negative_prompt or None,
        pictures=fields.batch_size * fields.n_iter,
        seed=None if fields.seed == -1 else fields.seed,
        size=None if fields.width is None or fields.height is None else (fields.width, fields.height),
        steps=fields.steps,
        guidance=fields.cfg_scale,
        scheduler=_scheduler(service.dispatcher(model), fields),
        strength=strength,
        image=image,
        mask=mask,
        **_conditions(service.dispatcher(model), fields, image is not None, mask is not None),
    )


def _conditions(dispatcher: Dispatcher, fields: TextFields, image: bool, mask: bool) -> dict[str, Any]:
    """The pictures of the extension's units: those of ControlNets come first, and then those of IP-Adapters, which are
    units there, too."""
    pictures = control_images(fields.alwayson_scripts or {})
    needs = dispatcher.needs(dispatcher.task(image, mask))
    first = len(pictures) if needs is None or not needs.ip_adapters else needs.controls
    return {"control_images": pictures[:first], "ip_adapter_images": pictures[first:]}


def _scheduler(dispatcher: Dispatcher, fields: TextFields) -> str | None:
    """Its sampler and schedule in diffusers' words."""
    sampler = fields.sampler_name or fields.sampler_index
    schedule = (fields.scheduler or "automatic").lower()
    if schedule not in SCHEDULES:
        raise ApiError(
            422,
            f"The schedule '{schedule[:100]}' is not there (there are: {', '.join(SCHEDULES)}).",
            "scheduler",
            "not_there",
        )
    samplers = _samplers(dispatcher)
    if sampler is not None and sampler not in samplers and sampler not in samplers.values():
        raise ApiError(
            422,
            f"The sampler '{sampler[:100]}' is not there (there are: {', '.join(samplers)}).",
            "sampler_name",
            "not_there",
        )
    own = None if dispatcher.opened is None else dispatcher.opened["scheduler"]
    name = own if sampler is None and SCHEDULES[schedule] else samplers.get(sampler or "", sampler)
    if name is None:
        return None
    return f"{name}:{SCHEDULES[schedule]}" if SCHEDULES[schedule] else name


def _samplers(dispatcher: Dispatcher) -> dict[str, str]:
    """The model's samplers, by its names and, where it has none, by diffusers'."""
    if dispatcher.opened is None:
        return dict(SAMPLERS)
    classes = dispatcher.opened["schedulers"]
    named = {name: cls for name, cls in SAMPLERS.items() if cls in classes}
    return named | {cls: cls for cls in classes if cls not in named.values()}


async def _drawn(service: Service, request: Request, fields: TextFields) -> Response:
    job = await service.submit(request.state.client, _image_request(service, fields))
    drawn = await pictures(service, job, request)
    texts = [describe(picture.parameters) for picture in drawn]
    seeds = [picture.parameters["seed"] for picture in drawn]
    info = {
        "prompt": fields.prompt,
        "all_prompts": [fields.prompt] * len(drawn),
        "negative_prompt": fields.negative_prompt,
        "seed": seeds[0],
        "all_seeds": seeds,
        "width": drawn[0].size[0],
        "height": drawn[0].size[1],
        "batch_size": fields.batch_size,
        "infotexts": texts,
    }
    sent = fields.model_dump(exclude={"init_images", "mask", "alwayson_scripts"})
    return JSONResponse({"images": [p.file for p in drawn], "parameters": sent, "info": json.dumps(info)})


def _progress(service: Service, client: str) -> dict[str, Any]:
    """Where the client's job under way is."""
    job = next(iter(service.running(client)), None)
    done = 0.0
    if job is not None:
        under_way = job.step / job.steps if job.steps else 0.0
        done = (len(job.pictures) + under_way * len(job.running)) / len(job.drawing.seeds)
    return {
        "progress": done,
        "eta_relative": 0.0 if job is None else service.queue.seconds_left(job) or 0.0,
        "state": {
            "skipped": False,
            "interrupted": False,
            "job": "" if job is None else job.id,
            "job_count": 0 if job is None else len(job.drawing.seeds),
            "job_no": 0 if job is None else len(job.pictures),
            "sampling_step": 0 if job is None else job.step,
            "sampling_steps": 0 if job is None else job.steps,
        },
        "current_image": None,
        "textinfo": None,
    }
