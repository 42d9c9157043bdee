"""Where `latentc generate -o` writes what a pipeline made: pictures, videos, animations, folders of frames, sounds,
arrays."""

from __future__ import annotations

import json
import os
import wave
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from artifacts.errors import LatentcError, UsageError
from artifacts.publish import require_outside
from latentc import pictures
from latentc.whole_file import whole_file
from runtimes.media import require_video

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from runtimes.result import Result

Form = Literal["pictures", "video", "animation", "folder", "sound", "arrays"]

FORMS: Mapping[str, Form] = {
    ".png": "pictures",
    ".mp4": "video",
    ".gif": "animation",
    ".webp": "animation",
    ".wav": "sound",
    ".npz": "arrays",
}

FRAME_RATE = 10.0
"""Frames a second of a video whose pipeline does not say: diffusers' own choice."""


@dataclass(frozen=True)
class Destination:
    """Where to write, checked before any work.

    Attributes:
        form: what is written.
        output: as it was asked for.
        count: of the pictures, videos or sounds that are to be made.
    """

    form: Form
    output: str
    count: int

    @classmethod
    def of(cls, output: str, count: int) -> Destination:
        """Raises:
        UsageError: no form of output has that name, or it names a folder that does not exist, or an artifact's.
        LatentcError: it is a video, and what writes videos is not installed.
        """
        folder = output.endswith(("/", os.sep)) or Path(output).is_dir()
        form: Form | None = "folder" if folder else FORMS.get(Path(output).suffix.lower())
        if form is None:
            raise UsageError(
                f"the output must be one of {', '.join(FORMS)}, or a folder's name that ends with /; "
                f"found '{output}'.",
                "For instance: -o out.png",
            )
        if form == "video":
            require_video()
        destination = cls(form, output.rstrip("/" + os.sep) if folder else output, count)
        template = destination.template(count)
        # What is in a folder lies one below it.
        require_outside(pictures.numbered(template, 0) / ("0.png" if folder else ""))
        return destination

    def template(self, count: int) -> str:
        """What `pictures.numbered` fills in for `count` files; see `pictures.template`."""
        if self.form != "folder":
            return pictures.template(self.output, count, tuple(FORMS))
        return pictures.template(
            self.output, count, ("",) if not Path(self.output).suffix else (Path(self.output).suffix,)
        )


@dataclass(frozen=True)
class Written:
    """One file or folder: which draw of the result it is of, and which of the result's flaws' images it shows."""

    path: Path
    draw: int
    images: tuple[int, ...]


def write(
    result: Result,
    to: Destination,
    already: int,
    about: Callable[[int], Mapping[str, Any]],
    rate: float | None,
) -> Iterator[Written]:
    """Writes what one `generate` made, and yields each file when it is there.

    Args:
        already: how many files were written for the prompts before.
        about: number of a draw -> the parameters that make it again.
        rate: frames a second; None for what the pipeline says.

    Raises:
        LatentcError: the pipeline made something else, or a file cannot be written.
    """
    frames = max(1, len(result.images) // max(1, len(result.seeds)))
    if to.form == "pictures" and result.images:
        # Of a video, each frame is a picture.
        template = to.template(max(to.count, to.count // len(result.seeds) * len(result.images)))
        for at, picture in enumerate(result.images):
            path = pictures.numbered(template, already + at)
            pictures.write(picture, path, about(at // frames))
            yield Written(path, at // frames, (at,))
    elif to.form == "sound" and result.audio:
        for at, samples in enumerate(result.audio):
            path = pictures.numbered(to.template(to.count), already + at)
            sound(samples, result.sample_rate, path)
            yield Written(path, at, ())
    elif to.form in ("video", "animation", "folder") and result.frames:
        for at, clip in enumerate(result.frames):
            path = pictures.numbered(to.template(to.count), already + at)
            _clip(clip, path, to.form, rate or result.frame_rate or FRAME_RATE, about(at))
            if at < len(result.audio):
                sound(result.audio[at], result.sample_rate, path.with_suffix(".wav"))
            yield Written(path, at, tuple(range(at * frames, (at + 1) * frames)))
    elif to.form == "arrays" and (values := _arrays(result)):
        for at in range(len(result.seeds)):
            path = pictures.numbered(to.template(to.count), already + at)
            _save({name: value[at] for name, value in values.items()}, path, about(at))
            yield Written(path, at, ())
    else:
        raise _something_else(result, to)


def _arrays(result: Result) -> dict[str, np.ndarray]:
    """What the pipeline returned as numbers, by its own names: float or integer arrays [draws, ...]."""
    import numpy as np

    values = {
        name: value.detach().float().cpu().numpy() if hasattr(value, "detach") else value
        for name, value in result.outputs.items()
    }
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, np.ndarray)
        and value.dtype.kind in "fiub"
        and value.shape[:1] == (len(result.seeds),)
    }


def _save(values: Mapping[str, np.ndarray], path: Path, parameters: Mapping[str, Any]) -> None:
    """A file that `numpy.load` reads, with the parameters as JSON under "parameters"."""
    import numpy as np

    with whole_file(path) as partial, partial.open("wb") as file:
        arrays: dict[str, Any] = {**values, "parameters": np.array(json.dumps(dict(parameters)))}
        np.savez_compressed(file, **arrays)


def _something_else(result: Result, to: Destination) -> LatentcError:
    medium = "videos" if result.frames else "pictures" if result.images else "sound" if result.audio else ""
    fits = {"videos": "clip.mp4", "pictures": "out.png", "sound": "out.wav"}
    if not medium:
        return LatentcError(
            f"the pipeline returned no {'numbers' if to.form == 'arrays' else 'pictures, videos or sound'} "
            f"(it returned: {', '.join(result.outputs)}).",
            "Write its numbers as: -o out.npz"
            if _arrays(result)
            else "Use it from Python, where they are in the result's outputs: latentc.load(ARTIFACT).generate(...)",
        )
    return LatentcError(
        f"the pipeline makes {medium}, which {to.output} cannot hold.", f"Write them as: -o {fits[medium]}"
    )


def _clip(clip: Sequence[Image], path: Path, form: Form, rate: float, parameters: Mapping[str, Any]) -> None:
    if form == "folder":
        try:
            path.mkdir(exist_ok=True)
        except OSError as error:
            raise _cannot(path, error) from None
        digits = len(str(len(clip) - 1))
        for number, frame in enumerate(clip):
            pictures.write(frame, path / f"{number:0{digits}}.png", parameters)
        return
    writer = _video if form == "video" else _animation
    with whole_file(path) as partial:
        writer(clip, partial, rate, parameters)


def _video(clip: Sequence[Image], path: Path, rate: float, parameters: Mapping[str, Any]) -> None:
    """H.264, as diffusers exports it."""
    from diffusers.utils import export_to_video

    # Sides of whole pixels of colour, which are 2x2; diffusers' own 16 would stretch other pictures.
    export_to_video(list(clip), str(path), fps=rate, macro_block_size=2)


def _animation(clip: Sequence[Image], path: Path, rate: float, parameters: Mapping[str, Any]) -> None:
    options: dict[str, Any] = {
        "duration": 1000 / rate,
        "loop": 0,
        "save_all": True,
        "append_images": clip[1:],
    }
    if path.suffix.lower() == ".webp":
        clip[0].save(path, quality=90, **options)
    else:
        clip[0].save(path, comment=json.dumps(dict(parameters)).encode("ascii"), **options)


def sound(samples: np.ndarray, rate: int | None, path: Path) -> None:
    """Writes float32 [channels, samples] from -1 to 1 as a WAV file of 16 bits.

    Raises:
        LatentcError: the pipeline does not say how many samples a second are, or the file cannot be written.
    """
    import numpy as np

    if rate is None:
        raise LatentcError(
            "the pipeline does not say how many samples a second its sound has.",
            "Use it from Python: latentc.load(ARTIFACT).generate(...).audio",
        )
    whole = np.rint(np.nan_to_num(samples).clip(-1, 1) * 32767).astype("<i2")
    with whole_file(path) as partial, wave.open(str(partial), "wb") as opened:
        opened.setnchannels(whole.shape[0])
        opened.setsampwidth(2)
        opened.setframerate(rate)
        opened.writeframes(whole.T.tobytes())


def _cannot(path: Path, error: OSError) -> LatentcError:
    return LatentcError(f"{path} cannot be written: {error.strerror or error}.")
