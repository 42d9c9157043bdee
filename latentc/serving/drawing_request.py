"""What a request asks to be drawn, checked, and how it crosses to the process that draws."""

from __future__ import annotations

import base64
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Drawing:
    """Pictures of one request; None is left to the pipeline's own default.

    Attributes:
        model: the name of a served artifact.
        task: one of the artifact's.
        seeds: of each picture.
        size: width and height in pixels.
        image, mask: files (PNG, JPEG, WebP); the mask is white where the picture is drawn anew.
        previews: how many unfinished pictures of each are wanted.
        file_format: "png", "jpeg" or "webp".
        quality: 0 to 100, of JPEG and WebP.
    """

    model: str
    task: str
    prompt: str | None
    seeds: tuple[int, ...]
    negative_prompt: str | None = None
    size: tuple[int, int] | None = None
    steps: int | None = None
    guidance: float | None = None
    scheduler: str | None = None
    strength: float | None = None
    image: bytes | None = None
    mask: bytes | None = None
    previews: int = 0
    file_format: str = "png"
    quality: int | None = None

    @property
    def batch_key(self) -> Hashable:
        """What pictures of one call of a pipeline have in common."""
        return (
            self.model,
            self.task,
            self.size,
            self.steps,
            self.guidance,
            self.scheduler,
            self.strength,
            self.image,
            self.mask,
            self.previews,
            self.prompt is None,
            self.negative_prompt is None,
        )


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
        "options": {
            "size": common.size,
            "steps": common.steps,
            "guidance": common.guidance,
            "scheduler": common.scheduler,
            "strength": common.strength,
        },
        "image": _text(common.image),
        "mask": _text(common.mask),
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
