"""What `Pipeline.generate` returns, and how the outputs of several runs become one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runtimes.flaws import Flaw
from runtimes.forecaster import Count
from runtimes.meter import Timings

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image


@dataclass(frozen=True)
class Result:
    """What `Pipeline.generate` made.

    Attributes:
        images: one PIL image for each that was asked for; of a video, its frames, one video after the other.
        frames: of a pipeline that makes videos, the frames of each.
        audio: of a pipeline that makes sound, each as float32 [channels, samples].
        frame_rate: frames a second that the videos were made for; None where the pipeline does not say.
        sample_rate: samples a second of `audio`; None where the pipeline does not say.
        seed: the seed of the first image.
        seeds: the seed of each image or video.
        timings: where the time went.
        parameters: what to pass to make the same again, with the model and the target; JSON-compatible.
        outputs: what the pipeline returned besides PIL images (a prior's "image_embeds", "frames", latents),
            under the pipeline's own names; tensors and arrays of several runs are concatenated.
        flaws: what is wrong with them, or very likely so; see `Flaw`.
        calls: for how many timesteps the denoiser was called, of how many; None where none were to be forecast.
        note: what a user should know of how they were made: why nothing is forecast of an artifact that was tuned;
            mostly nothing.
    """

    images: tuple[PIL.Image.Image, ...]
    seed: int
    seeds: tuple[int, ...]
    timings: Timings
    parameters: Mapping[str, Any]
    outputs: Mapping[str, Any]
    flaws: tuple[Flaw, ...] = ()
    frames: tuple[tuple[PIL.Image.Image, ...], ...] = ()
    audio: tuple[np.ndarray, ...] = ()
    frame_rate: float | None = None
    sample_rate: int | None = None
    calls: Count | None = None
    note: str = ""


def merge(outputs: list[Mapping[str, Any]]) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """The outputs of several runs as one, and the PIL images in them."""
    merged: dict[str, Any] = {}
    pictures: list[Any] = []
    for key in outputs[0]:
        value = _join([o[key] for o in outputs])
        flat = list(_pictures(value))
        if flat and not pictures:
            pictures = flat
        if not flat or key != "images":
            merged[key] = value
    return merged, tuple(pictures)


def _join(values: list[Any]) -> Any:
    if len(values) == 1 or values[0] is None:
        return values[0]
    if isinstance(values[0], (list, tuple)):
        return [item for value in values for item in value]
    import numpy as np
    import torch

    if isinstance(values[0], torch.Tensor):
        return torch.cat(values) if values[0].ndim else values
    return np.concatenate(values) if isinstance(values[0], np.ndarray) and values[0].ndim else values


def _pictures(value: Any) -> Iterator[Any]:
    import PIL.Image

    if isinstance(value, PIL.Image.Image):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _pictures(item)
