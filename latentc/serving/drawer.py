"""The process that draws for a server: an artifact's pipelines behind the protocol of `artifacts.worker`.

Jobs: {"do": "open"}, and {"do": "draw", ...} as `latentc.serving.drawing_request.batch_job` writes it, which tells
its steps. The message {"cancel": N} stops batch N within one step, also before it has begun.
"""

from __future__ import annotations

import base64
import io
import json
import signal
import threading
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from artifacts.errors import UsageError
from artifacts.progress import Event
from artifacts.worker_loop import Work, hear, tell
from latentc.pictures import png_text
from latentc.serving.input_pictures import read_picture
from latentc.serving.previews import decode, preview_steps, shows_latents

if TYPE_CHECKING:
    from PIL.Image import Image

    from artifacts.manifest import DimRange
    from runtimes.conditions import Needs
    from runtimes.pipeline import Pipeline


def drawer(artifact: str, options: str) -> Work:
    """What answers a server's jobs.

    Args:
        artifact: its folder.
        options: those of `latentc.serving.engine.LoadOptions`, as JSON.
    """
    # Who asks decides when this process ends, also where a service manager signals both.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return Drawer(artifact, json.loads(options))


class Drawer:
    """Draws one batch after the other."""

    def __init__(self, artifact: str, options: Mapping[str, Any]) -> None:
        """
        Args:
            options: of `runtimes.pipeline.load`.
        """
        self._artifact, self._options = artifact, options
        self._pipelines: dict[str, Pipeline] = {}
        self._needs: dict[str, Needs] = {}
        self._lock = threading.Lock()
        self._cancelled: set[int] = set()
        self._batch = -1
        self._cancel = threading.Event()
        hear(self._hear)

    def __call__(self, line: str) -> Any:
        job = json.loads(line)
        return self._open() if job["do"] == "open" else self._draw(job)

    def _hear(self, message: Mapping[str, int]) -> None:
        with self._lock:
            self._cancelled.add(message["cancel"])
            if message["cancel"] == self._batch:
                self._cancel.set()

    def _begin(self, batch: int) -> threading.Event:
        with self._lock:
            self._batch, self._cancel = batch, threading.Event()
            if batch in self._cancelled:
                self._cancel.set()
            self._cancelled.clear()
        return self._cancel

    def _open(self) -> dict[str, Any]:
        from runtimes.conditions import needs
        from runtimes.pipeline import load

        # How far forecast steps are off is judged by the whole batch: a picture would depend on its neighbours.
        pipeline = load(self._artifact, accelerate="off", **self._options)
        pipeline.open()
        others = [task for task in pipeline.manifest.pipelines if task != pipeline.task]
        self._pipelines = {pipeline.task: pipeline, **{task: pipeline.with_task(task) for task in others}}
        self._needs = {
            task: needs(pipeline.diffusers, pipeline.manifest.sizes)
            for task, pipeline in self._pipelines.items()
        }
        own = pipeline.scheduler
        compatible = {cls.__name__ for cls in getattr(own, "compatibles", ())}
        return {
            "note": pipeline.note,
            "scheduler": type(own).__name__ if own is not None else None,
            "schedulers": sorted(compatible | ({type(own).__name__} if own is not None else set())),
            "previews": shows_latents(pipeline.diffusers),
            "needs": {task: asdict(wanted) for task, wanted in self._needs.items()},
        }

    def _draw(self, job: Mapping[str, Any]) -> dict[str, Any]:
        from runtimes.conditions import condition_arguments

        cancel = self._begin(job["batch"])
        pipeline, pictures = self._pipelines[job["task"]], job["pictures"]
        wanted = self._needs[job["task"]]
        if (lack := wanted.lack(len(job["control_images"]), len(job["ip_adapter_images"]))) is not None:
            raise UsageError(f"{lack[0]}.")
        options = dict(job["options"])
        options["size"] = None if options["size"] is None else tuple(options["size"])
        steps = Steps(
            pipeline.diffusers, job["previews"], options["size"] or _only_size(pipeline.manifest.sizes)
        )
        if (image := _picture(job["image"], "RGB")) is not None:
            options["image"] = image
        if (mask := _picture(job["mask"], "L")) is not None:
            options["mask"] = mask
        controls, looked_at = (
            [_picture(data, "RGB") for data in job[name]] for name in ("control_images", "ip_adapter_images")
        )
        options |= condition_arguments(pipeline.diffusers, controls, looked_at, len(pictures))
        if job["previews"]:
            options["callback_on_step_end"] = steps.show
        alone = len(pictures) == 1
        for name in ("prompt", "negative_prompt"):
            texts = [picture[name] for picture in pictures]
            options[name] = texts[0] if alone or texts[0] is None else texts
        seeds = [picture["seed"] for picture in pictures]
        try:
            result = pipeline.generate(
                seed=seeds[0] if alone else seeds, progress=steps.count, cancel=cancel, **options
            )
        except UsageError as error:
            # The pipeline's own code refuses it, and whether a picture is needed no signature tells.
            if error.__cause__ is not None and wanted.image and job["image"] is None:
                error.hint = "It takes an 'image' to start from, which the request does not bring."
            raise
        if len(result.images) != len(pictures):
            raise UsageError(
                f"the pipeline makes no single pictures, which are all that is served; it made {len(result.images)} "
                f"for {len(pictures)}.",
                "Draw from Python: latentc.load(ARTIFACT).generate(...)",
            )
        answer = []
        for number, (picture, drawn) in enumerate(zip(pictures, result.images, strict=True)):
            own_texts = {n: picture[n] for n in ("prompt", "negative_prompt") if picture[n] is not None}
            own = {**result.parameters, **own_texts, "seed": picture["seed"], "images": 1}
            answer.append(
                {
                    "file": _file(drawn, picture["format"], picture["quality"], own),
                    "size": list(drawn.size),
                    "parameters": own,
                    "flaws": [flaw.kind for flaw in result.flaws if number in flaw.images],
                }
            )
        return {"pictures": answer, "timings": asdict(result.timings)}


class Steps:
    """Tells the server of the steps of one batch, and shows pictures of them."""

    def __init__(self, pipeline: Any, previews: int, size: tuple[int, int] | None = None) -> None:
        """
        Args:
            size: width and height of the pictures, in pixels; None for the pipeline's own.
        """
        self._pipeline = pipeline
        self._previews = previews
        self._size = size
        self._total = 0

    def count(self, event: Event) -> None:
        """The `Progress` of the batch."""
        if event.unit == "steps":
            self._total = int(event.total or 0)
            tell({"step": int(event.completed), "steps": self._total})

    def show(self, pipeline: Any, step: int, timestep: Any, values: Mapping[str, Any]) -> dict[str, Any]:
        """Diffusers' callback at the end of a step; `step` is counted from 0."""
        wanted = preview_steps(self._total, self._previews)
        if step + 1 in wanted:
            images = decode(self._pipeline, values["latents"], self._size)
            if images:
                files = [_file(image, "png", None) for image in images]
                tell({"preview": wanted.index(step + 1), "pictures": files})
        return {}


def _only_size(sizes: Mapping[str, DimRange]) -> tuple[int, int] | None:
    """Width and height of an artifact that has no others."""
    width, height = sizes.get("width"), sizes.get("height")
    if width is None or height is None or width.min != width.max or height.min != height.max:
        return None
    return width.min, height.min


def _picture(data: str | None, mode: str) -> Image | None:
    return None if data is None else read_picture(base64.b64decode(data), mode)


def _file(image: Image, file_format: str, quality: int | None, about: Mapping[str, Any] | None = None) -> str:
    """A picture's file, in base64; a PNG carries what made it."""
    written = io.BytesIO()
    options: dict[str, Any] = {} if quality is None else {"quality": quality}
    if file_format == "png":
        options = {} if about is None else {"pnginfo": png_text(about)}
    image.save(written, format=file_format, **options)
    return base64.b64encode(written.getvalue()).decode("ascii")
