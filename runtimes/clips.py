"""Videos and sounds in what a pipeline returned: frames as pictures, waveforms as arrays, and their rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

FRAMES = ("frames",)
AUDIO = ("audios", "audio")
"""What pipelines call their outputs."""

FRAME_RATE = ("frame_rate", "fps", "target_fps")
"""What they call the frames a second that they make a video for; one that has none leaves it open."""

SAMPLE_RATE = ("output_sampling_rate", "sampling_rate", "sample_rate")
"""What configs of vocoders and autoencoders call the samples a second, that of the last stage first."""


def videos(outputs: Mapping[str, Any]) -> tuple[tuple[Image, ...], ...]:
    """The frames of each video, as PIL images.

    Args:
        outputs: of the pipeline. Frames are lists of PIL images, arrays [videos, frames, height, width, 3] or tensors
            [videos, frames, 3, height, width], both with values from 0 to 1. Latents are no frames.
    """
    value = next((outputs[name] for name in FRAMES if outputs.get(name) is not None), None)
    if value is None:
        return ()
    if (
        isinstance(value, Sequence)
        and value
        and not isinstance(value[0], Sequence)
        and not _is_array(value[0])
    ):
        value = [value]  # of a pipeline that makes one video
    clips = [_frames(clip) for clip in value]
    return tuple(clips) if all(clips) else ()


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "ndim")


def _frames(clip: Any) -> tuple[Image, ...]:
    """The frames of one video; none where it is something else."""
    import numpy as np
    from PIL import Image

    if isinstance(clip, Sequence):
        return tuple(clip) if all(isinstance(frame, Image.Image) for frame in clip) else ()
    if hasattr(clip, "detach"):
        clip = clip.detach().float().cpu().numpy()
        clip = np.moveaxis(clip, 1, -1) if clip.ndim == 4 else clip
    if not isinstance(clip, np.ndarray) or clip.ndim != 4 or clip.shape[-1] != 3:
        return ()
    pixels = np.rint(np.nan_to_num(clip.astype(np.float32)).clip(0, 1) * 255).astype(np.uint8)
    return tuple(Image.fromarray(frame) for frame in pixels)


def some(count: int, most: int = 6) -> list[int]:
    """Which of `count` frames stand for a video on paper: the first, the last and some between, `most` at most."""
    shown = min(count, most)
    return [round(at * (count - 1) / max(shown - 1, 1)) for at in range(shown)]


def strip(video: Sequence[Image]) -> Image:
    """Some frames of a video side by side."""
    from PIL import Image

    shown = [video[at] for at in some(len(video))]
    width, height = shown[0].size
    row = Image.new("RGB", (width * len(shown), height))
    for number, frame in enumerate(shown):
        row.paste(frame, (number * width, 0))
    return row


def sounds(outputs: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    """Each sound as float32 [channels, samples].

    Args:
        outputs: of the pipeline. Sounds are an array or a tensor [sounds, samples] or [sounds, channels, samples].
    """
    import numpy as np

    value = next((outputs[name] for name in AUDIO if outputs.get(name) is not None), None)
    if value is None:
        return ()
    waves = [
        w.detach().float().cpu().numpy() if hasattr(w, "detach") else np.asarray(w, np.float32) for w in value
    ]
    return (
        tuple(np.atleast_2d(w).astype(np.float32) for w in waves)
        if all(w.ndim in (1, 2) for w in waves)
        else ()
    )


def sample_rate(pipeline: Any) -> int | None:
    """Samples a second of the sounds that a diffusers pipeline makes, as its components' configs say."""
    for key in SAMPLE_RATE:
        for component in pipeline.components.values():
            value = getattr(getattr(component, "config", None), key, None)
            if isinstance(value, int) and value > 0:
                return value
    return None


def frame_rate(parameters: Mapping[str, Any], passed: Mapping[str, Any]) -> float | None:
    """Frames a second that a call makes a video for: what it was passed, or the pipeline's default.

    Args:
        parameters: the parameters of the pipeline's call, by name.
    """
    for name in FRAME_RATE:
        if name in parameters:
            value = passed.get(name, parameters[name].default)
            if isinstance(value, (int, float)) and value > 0:
                return float(value)
    return None
