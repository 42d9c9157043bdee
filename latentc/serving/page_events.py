"""What happens on the page: a picture is drawn, watched and cancelled, and its settings are read from it."""

from __future__ import annotations

import base64
import html
import io
import math
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from latentc.serving.api_error import ApiError
from latentc.serving.drawing_job import DrawingJob
from latentc.serving.drawing_request import ImageRequest
from latentc.serving.event_stream import cancelled_when_left
from latentc.serving.page_files import PageFiles
from latentc.serving.page_settings import Settings
from latentc.serving.service import Service

if TYPE_CHECKING:
    from PIL.Image import Image

PREVIEWS = 4
"""Unfinished pictures that are shown of each."""
SHOWN = 100
"""Pictures of one page that are kept in its gallery."""
_SECONDS = 1.0


@dataclass(frozen=True)
class Shown:
    """A picture of the gallery."""

    file: str
    settings: Settings


class PageEvents:
    """The page's events, around one service."""

    def __init__(self, service: Service, files: PageFiles) -> None:
        self._service = service
        self._files = files

    async def draw(
        self,
        shown: list[Shown],
        model: str,
        prompt: str,
        negative: str,
        pictures: str,
        seed: str,
        width: str,
        height: str,
        steps: str,
        guidance: str,
        scheduler: str | None,
        strength: str,
        canvas: Mapping[str, Any] | None,
        request: gr.Request,
    ) -> AsyncIterator[tuple[Any, Any, Any]]:
        """Draws, and yields the progress, the gallery, and what it shows, at each change.

        Raises:
            gr.Error: the request was refused, or failed.
        """
        image, mask = painted(canvas)
        try:
            sizes = (whole(width, "width"), whole(height, "height"))
            if (sizes[0] is None) != (sizes[1] is None):
                raise ApiError(400, "A width needs a height, and a height a width.")
            job = await self._service.submit(
                request.request.state.client,
                ImageRequest(
                    prompt=prompt,
                    model=model,
                    negative_prompt=negative or None,
                    pictures=whole(pictures, "pictures") or 1,
                    seed=whole(seed, "seed", least=0),
                    size=None if sizes[0] is None or sizes[1] is None else (sizes[0], sizes[1]),
                    steps=whole(steps, "steps"),
                    guidance=number(guidance, "guidance", 1000),
                    scheduler=scheduler or None,
                    strength=number(strength, "strength", 1) if image is not None else None,
                    image=image,
                    mask=mask,
                    previews=PREVIEWS if self._shows(model) else 0,
                ),
            )
            with cancelled_when_left(self._service, job):
                # A page that was closed is seen at the next one.
                async for _ in job.changes(_SECONDS):
                    yield self._progress(job), gr.skip(), gr.skip()
                drawn = await job.result()
        except ApiError as error:
            raise gr.Error(html.escape(error.message), print_exception=False) from None
        new = [
            Shown(
                str(self._files.write(base64.b64decode(picture.file), f"{picture.parameters['seed']}.png")),
                Settings.of(picture.parameters),
            )
            for picture in drawn
        ]
        shown = [*reversed(new), *shown][:SHOWN]
        yield "", gallery(shown), shown

    def _shows(self, model: str) -> bool:
        opened = self._service.dispatcher(model).opened
        return opened is not None and opened["previews"]

    def _progress(self, job: DrawingJob) -> str:
        """A bar, words, and the newest preview of a job, as HTML."""
        if job.state == "queued":
            words, done = f"{self._service.queue.position(job)} before it", 0.0
        else:
            under_way = job.step / job.steps if job.steps else 0.0
            done = (len(job.pictures) + under_way * len(job.running)) / len(job.drawing.seeds)
            words = f"step {job.step} of {job.steps}"
        if seconds := self._service.queue.seconds_left(job):
            words += f", about {seconds:.0f} s left"
        picture = ""
        if job.previews:
            source = f"data:image/png;base64,{job.previews[-1].file}"
            picture = f'<img alt="unfinished picture" src="{source}">'
        return f'<progress value="{done:.3f}"></progress><p>{words}</p>{picture}'


def recall(shown: list[Shown], event: gr.SelectData) -> tuple[Any, ...]:
    """The fields of the gallery's picture that was chosen."""
    return fields(shown[event.index].settings)


def read(data: bytes | None) -> tuple[Any, ...]:
    """The fields of a PNG file that was dropped, and that file's, which is empty again.

    Raises:
        gr.Error: it carries none.
    """
    settings = None if data is None else Settings.read(data)
    if settings is None:
        raise gr.Error("The file is no PNG that carries its settings.", print_exception=False)
    return *fields(settings), None


def fields(settings: Settings) -> tuple[Any, ...]:
    """The page's fields, in the order of `latentc.serving.page.build`: from the prompt to the strength."""
    numbers = (
        settings.seed, settings.width, settings.height, settings.steps, settings.guidance,
    )  # fmt: skip
    texts = (
        "" if value is None else f"{value:g}" if isinstance(value, float) else str(value) for value in numbers
    )
    strength = "" if settings.strength is None else f"{settings.strength:g}"
    return settings.prompt, settings.negative_prompt, *texts, settings.scheduler or "", strength


def gallery(shown: list[Shown]) -> Any:
    """The gallery's pictures, the newest first."""
    return gr.update(value=[(picture.file, f"seed {picture.settings.seed}") for picture in shown])


def painted(canvas: Mapping[str, Any] | None) -> tuple[bytes | None, bytes | None]:
    """The image and the mask of a canvas as PNG files: what was painted over is drawn anew."""
    from PIL import Image, ImageChops

    if canvas is None or canvas["background"] is None:
        return None, None
    image: Image.Image = canvas["background"]
    mask = Image.new("L", image.size)
    for layer in canvas["layers"]:
        alpha = layer.convert("RGBA").getchannel("A").point(lambda value: 255 * (value > 0))
        if alpha.size == mask.size:
            mask = ImageChops.lighter(mask, alpha)
    return _png(image.convert("RGB")), _png(mask) if mask.getbbox() else None


def whole(text: str, name: str, least: int = 1) -> int | None:
    """The whole number in a field; None where it is empty.

    Raises:
        ApiError: it is none, or below `least`.
    """
    text = text.strip()
    if not text:
        return None
    if not re.fullmatch("[0-9]{1,19}", text) or int(text) < least:
        raise ApiError(400, f"'{name}' must be a whole number from {least} on; found '{text[:40]}'.", name)
    return int(text)


def number(text: str, name: str, most: float) -> float | None:
    """The number in a field; None where it is empty.

    Raises:
        ApiError: it is none, below 0 or above `most`.
    """
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= most:
        raise ApiError(
            400, f"'{name}' must be a number from 0 to {most:g}; found '{text.strip()[:40]}'.", name
        )
    return value


def _png(image: Image) -> bytes:
    written = io.BytesIO()
    image.save(written, format="PNG")
    return written.getvalue()
