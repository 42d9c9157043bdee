"""What all APIs share: requests become drawings, drawings become jobs, and jobs are watched and cancelled."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from artifacts.errors import LatentcError
from latentc.serving.api_error import ApiError
from latentc.serving.dispatch import Dispatcher
from latentc.serving.drawing_job import DrawingJob
from latentc.serving.drawing_request import Drawing, ImageRequest
from latentc.serving.engine import Engine
from latentc.serving.input_pictures import check_picture, mask_of_alpha
from latentc.serving.prometheus_metrics import Metrics
from latentc.serving.queue import DrawQueue
from latentc.serving.request_limits import Limits
from latentc.serving.request_log import log
from runtimes.batches import MAX_SEED
from runtimes.conditions import Needs
from runtimes.generate_options import check_range

# A class and switches of it. Numbers are left out: some of diffusers' options decide how much memory is taken.
_SCHEDULER = re.compile(r"([A-Za-z]\w{0,80})(:\w{1,80}=(true|false)(,\w{1,80}=(true|false)){0,8})?", re.ASCII)


class Service:
    """The served models and their queue. It belongs to the event loop's thread.

    Attributes:
        dispatchers: by the model's name; the first is the one for requests that name none. Where several engines
            draw one model, that of the first of them.
        finished: set when nothing is drawn any more.
    """

    def __init__(self, engines: Sequence[Engine], limits: Limits, log_prompts: bool = False) -> None:
        self.limits = limits
        self.queue = DrawQueue(limits.queue)
        self.metrics = Metrics(lambda: self.queue.waiting)
        self._lanes = [Dispatcher(engine, self.queue, limits.seconds, self.metrics) for engine in engines]
        self.dispatchers: dict[str, Dispatcher] = {}
        for lane in self._lanes:
            self.dispatchers.setdefault(lane.engine.name, lane)
        self._log_prompts = log_prompts
        self.finished = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Whether every model can draw now."""
        return not self.queue.stopping and all(lane.opened is not None for lane in self._lanes)

    async def run(self) -> None:
        """Opens the models, then draws until `stop`.

        Raises:
            LatentcError: a model cannot be opened.
        """
        dispatchers = self._lanes
        try:
            for dispatcher in dispatchers:
                await dispatcher.open()
                note, name = (dispatcher.opened or {}).get("note"), dispatcher.engine.name
                if reason := dispatcher.unservable:
                    log("error", "model_not_servable", model=name, reason=reason)
                else:
                    log("info", "model_ready", model=name, note=note or None)
            if all(dispatcher.unservable for dispatcher in dispatchers):
                model = dispatchers[0]
                raise LatentcError(
                    f"no request can draw with '{model.engine.name}': {model.unservable}.",
                    "Draw from Python: latentc.load(ARTIFACT)",
                )
            await asyncio.gather(*(dispatcher.run() for dispatcher in dispatchers))
        finally:
            self.finished.set()
            for dispatcher in dispatchers:
                await dispatcher.close()

    async def stop(self) -> None:
        """Finishes what is under way and takes nothing more."""
        await self.queue.stop()

    async def submit(self, client: str, request: ImageRequest) -> DrawingJob:
        """Takes a request.

        Raises:
            ApiError: it is wrong, or there is no room.
        """
        drawing = await asyncio.to_thread(self.drawing, request)
        job = await self.queue.submit(client, drawing)
        prompts = {"prompt": request.prompt, "negative_prompt": request.negative_prompt}
        log(
            "info", "job", job=job.id, client=client, model=drawing.model, task=drawing.task,
            pictures=len(drawing.seeds), **(prompts if self._log_prompts else {}),
        )  # fmt: skip
        return job

    def cancel(self, job: DrawingJob) -> None:
        """Ends a job; a batch under way stops within a step where nobody else is in it."""
        self.queue.drop(job)
        job.end("cancelled")
        for lane in self._lanes:
            lane.cancel_abandoned()

    def running(self, client: str) -> list[DrawingJob]:
        """A client's jobs of which pictures are drawn now."""
        jobs = {turn.job.id: turn.job for lane in self._lanes for turn in lane.turns}
        return [job for job in jobs.values() if job.client == client and not job.ended]

    def dispatcher(self, model: str | None) -> Dispatcher:
        """The dispatcher of a model; of the first where none is named.

        Raises:
            ApiError: 404, it is not served.
        """
        if model is None:
            return next(iter(self.dispatchers.values()))
        if model not in self.dispatchers:
            raise ApiError(
                404,
                f"The model '{model[:100]}' is not served (there is: {', '.join(self.dispatchers)}).",
                "model",
                "model_not_found",
            )
        return self.dispatchers[model]

    def drawing(self, request: ImageRequest) -> Drawing:
        """A request's pictures, checked; needs time where it brings some.

        Raises:
            ApiError: it is wrong.
        """
        dispatcher, limits = self.dispatcher(request.model), self.limits
        engine = dispatcher.engine
        _at_most("n", request.pictures, limits.pictures)
        _at_most("steps", request.steps, limits.steps)
        for name, text in (("prompt", request.prompt), ("negative_prompt", request.negative_prompt)):
            if text is not None and len(text) > limits.prompt:
                raise ApiError(
                    400, f"'{name}' may have at most {limits.prompt} characters; it has {len(text)}.", name
                )
        if request.size is not None:
            _check_size(request.size, limits.pixels, engine)
        if request.scheduler is not None:
            self._check_scheduler(request.scheduler, dispatcher)
        if request.previews and dispatcher.opened is not None and not dispatcher.opened["previews"]:
            raise ApiError(400, "This model's unfinished pictures cannot be shown.", "partial_images")
        seed = secrets.randbelow(2**32) if request.seed is None else request.seed
        if seed > MAX_SEED - request.pictures:
            raise ApiError(400, f"'seed' may be at most {MAX_SEED - request.pictures}.", "seed")
        task = dispatcher.task(request.image is not None, request.mask is not None)
        if task not in engine.tasks:
            raise ApiError(
                400,
                f"The model has no task '{task}', which this request needs (it has: {', '.join(engine.tasks)}).",
                "mask" if request.mask is not None else "image",
                "no_such_task",
            )
        self._check_conditions(request, dispatcher.needs(task))
        if request.image is None and (request.mask is not None or request.strength is not None):
            raise ApiError(400, "A mask and a strength need an image.", "image")
        mask = request.mask
        if request.image is not None:
            image = check_picture(request.image, "image", limits.pixels)
            if mask is not None:
                painted = check_picture(mask, "mask", limits.pixels)
                if painted.size != image.size:
                    raise ApiError(
                        400,
                        f"'mask' must be as large as the image, {_x(image.size)}; it is {_x(painted.size)}.",
                        "mask",
                    )
                mask = mask_of_alpha(painted) or mask
        return request.drawing(engine.name, task, seed, mask)

    def _check_conditions(self, request: ImageRequest, needs: Needs | None) -> None:
        brought = {"control_image": request.control_images, "ip_adapter_image": request.ip_adapter_images}
        # Where nothing is known of the model yet, the process that draws says what is missing.
        lack = None if needs is None else needs.lack(*map(len, brought.values()))
        if lack is not None:
            fault, name = lack
            missing = bool(name) and not brought[name]
            where = f" Jobs (POST /v1/jobs) have a field '{name}' for that." if missing else ""
            raise ApiError(
                400,
                f"{fault[:1].upper()}{fault[1:]}.{where}",
                name or None,
                "missing_input" if missing else None,
            )
        for name, files in brought.items():
            for data in files:
                check_picture(data, name, self.limits.pixels)

    def _check_scheduler(self, text: str, dispatcher: Dispatcher) -> None:
        match = _SCHEDULER.fullmatch(text)
        if match is None:
            raise ApiError(
                400,
                "'scheduler' is a class of diffusers, with switches of it: EulerDiscreteScheduler, "
                "DPMSolverMultistepScheduler:use_karras_sigmas=true.",
                "scheduler",
            )
        schedulers = None if dispatcher.opened is None else dispatcher.opened["schedulers"]
        if schedulers is not None and match[1] not in schedulers:
            raise ApiError(
                400,
                f"The model has no scheduler '{match[1]}' (it has: {', '.join(schedulers)}).",
                "scheduler",
            )


def _at_most(name: str, value: int | None, limit: int) -> None:
    if value is not None and value > limit:
        raise ApiError(400, f"'{name}' may be at most {limit}; found {value}.", name, "over_limit")


def _check_size(size: tuple[int, int], pixels: int, engine: Engine) -> None:
    if size[0] * size[1] > pixels:
        raise ApiError(
            400, f"A picture may have at most {pixels} pixels; found {_x(size)}.", "size", "over_limit"
        )
    try:
        for name, value in zip(("width", "height"), size, strict=True):
            check_range(f"a {name} of", value, engine.sizes, name)
    except LatentcError as error:
        raise ApiError(400, error.message[:1].upper() + error.message[1:], "size") from None


def _x(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def job_state(service: Service, job: DrawingJob) -> dict[str, Any]:
    """Where a job is, for clients; without its pictures."""
    state: dict[str, Any] = {
        "id": job.id,
        "object": "job",
        "status": job.state,
        "model": job.drawing.model,
        "created_at": int(job.created_at),
        "ended_at": None if job.ended_at is None else int(job.ended_at),
        "position": service.queue.position(job) if job.state == "queued" else None,
        "step": job.step,
        "steps": job.steps,
        "pictures_done": len(job.pictures),
        "pictures_wanted": len(job.drawing.seeds),
        "seconds_left": service.queue.seconds_left(job),
        "seeds": list(job.drawing.seeds),
    }
    error: Mapping[str, Any] | None = None if job.error is None else job.error.openai()["error"]
    return {**state, "error": error}
