"""What a request asks to be drawn, checked, and how it crosses to the process that draws."""

from __future__ import annotations

import base64
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """How pictures are drawn, in a request and in what is drawn for it; None is left to the pipeline's own default.

    Attributes:
        size: width and height in pixels.
        image, mask: files (PNG, JPEG, WebP); the mask is white where the picture is drawn anew.
        control_images: what each of the model's ControlNets or T2I-Adapters follows: files, as `image`.
        ip_adapter_images: what each of its IP-Adapters looks at.
        previews: how many unfinished pictures of each are wanted.
        file_format: "png", "jpeg" or "webp".
        quality: 0 to 100, of JPEG and WebP.
    """

    prompt: str | None
    negative_prompt: str | None = None
    size: tuple[int, int] | None = None
    steps: int | None = None
    guidance: float | None = None
    scheduler: str | None = None
    strength: float | None = None
    image: bytes | None = None
    mask: bytes | None = None
    control_images: tuple[bytes, ...] = ()
    ip_adapter_images: tuple[bytes, ...] = ()
    previews: int = 0
    file_format: str = "png"
    quality: int | None = None


@dataclass(frozen=True, kw_only=True)
class ImageRequest(PictureOptions):
    """What a request says, in the words of all APIs; None is left to the pipeline or the server."""

    model: str | None = None
    pictures: int = 1
    seed: int | None = None

    def drawing(self, model: str, task: str, seed: int, mask: bytes | None) -> Drawing:
        """The pictures of this request.

        Args:
            seed: of the first picture; each of the others has the one after it.
            mask: white where the picture is drawn anew.
        """
        options = {field.name: getattr(self, field.name) for field in fields(PictureOptions)}
        seeds = tuple(range(seed, seed + self.pictures))
        return Drawing(model=model, task=task, seeds=seeds, **{**options, "mask": mask})


@dataclass(frozen=True, kw_only=True)
class Drawing(PictureOptions):
    """Pictures of one request.

    Attributes:
        model: the name of a served artifact.
        task: one of the artifact's.
        seeds: of each picture.
    """

    model: str
    task: str
    seeds: tuple[int, ...]

    @property
    def input_bytes(self) -> int:
        """Of all pictures that the request brought."""
        files = (self.image or b"", self.mask or b"", *self.control_images, *self.ip_adapter_images)
        return sum(map(len, files))

    @property
    def batch_key(self) -> Hashable:
        """What pictures of one call of a pipeline have in common."""
        return (
            self.model,
            self.task,
            *self.call_options.values(),
            self.image,
            self.mask,
            self.control_images,
            self.ip_adapter_images,
            self.previews,
            self.prompt is None,
            self.negative_prompt is None,
        )

    @property
    def call_options(self) -> dict[str, Any]:
        """Options of `generate` that all pictures of one call share, by its names for them."""
        names = ("size", "steps", "guidance", "scheduler", "strength")
        return {name: getattr(self, name) for name in names}


def batch_job(number: int, pictures: Sequence[tuple[Drawing, int]]) -> dict[str, Any]:
    """One batch as a job of `latentc.serving.drawer`.

    Args:
        number: of the batch, by which it is cancelled.
        pictures: requests of one `batch_key`, each with the number of one of its pictures.
    """
    common = pictures[0][0]
    return {
        "do": "draw",
        "batch": number,
        "task": common.task,
        "options": common.call_options,
        "image": _text(common.image),
        "mask": _text(common.mask),
        "control_images": [_text(data) for data in common.control_images],
        "ip_adapter_images": [_text(data) for data in common.ip_adapter_images],
        "previews": common.previews,
        "pictures": [
            {
                "prompt": drawing.prompt,
                "negative_prompt": drawing.negative_prompt,
                "seed": drawing.seeds[picture],
                "format": drawing.file_format,
                "quality": drawing.quality,
            }
            for drawing, picture in pictures
        ],
    }


def _text(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode("ascii")
