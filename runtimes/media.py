"""What is given as a file: pictures, videos, folders of pictures, sounds, arrays and JSON. They are read here alone.

A value that begins with ``@`` names such a file, wherever values are written as texts (``--arg NAME=@FILE``). So does
each text of a list in JSON: ``[["@1.png", "@2.png"], ["@3.png", null]]`` is a grid of pictures that lacks one.
"""

from __future__ import annotations

import re
import struct
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.errors import LatentcError, UsageError
from artifacts.units import whole_number
from runtimes.generate_options import parse_value, parsed_json

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image

VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")
"""Suffixes of files that ffmpeg reads."""

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""Suffixes of the pictures in a folder of frames; what else is in it is left alone."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""Of pictures, in Pillow's names. What else Pillow reads goes to other programs (EPS), or to decoders that few use."""

MAX_PIXELS = 1 << 28
"""Of all frames of a picture together: 800 MB as RGB."""

EXTRA = "Run: pip install 'latentc[video]'"


def value(text: str, option: str) -> Any:
    """What a text stands for: ``@FILE`` for the file's content, else as `runtimes.generate_options.parse_value`.

    Lists whose texts all begin with ``@`` hold the files that these name, at any depth.

    Raises:
        UsageError: as these.
    """
    if text.startswith("@"):
        return read(Path(text[1:]))
    content = parse_value(text, option)
    texts = [item for item in _items(content) if isinstance(item, str)]
    named = isinstance(content, list) and texts and all(item.startswith("@") for item in texts)
    return _read_all(content) if named else content


def _items(content: Any) -> Iterator[Any]:
    """What lists in each other hold."""
    if isinstance(content, list):
        for item in content:
            yield from _items(item)
    else:
        yield content


def _read_all(content: Any) -> Any:
    if isinstance(content, list):
        return [_read_all(item) for item in content]
    return read(Path(content[1:])) if isinstance(content, str) else content


def is_visual(content: Any) -> bool:
    """Whether `content` is a picture, or a list of pictures."""
    from PIL.Image import Image

    items = content if isinstance(content, list) else [content]
    return bool(items) and all(isinstance(item, Image) for item in items)


def read(path: Path) -> Any:
    """What a file holds, by its suffix.

    Returns:
        A folder, a video or an animation: a list of RGB pictures. ``.json``: the value. ``.wav``: float32 [1, channels,
        samples] from -1 to 1. ``.npy``: the array. Anything else: an RGB picture.

    Raises:
        UsageError: no such file, or it is not what its suffix says.
        LatentcError: it is a video, and the library that reads videos is not installed.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        return folder(path)
    if not path.is_file():
        raise UsageError(
            f"there is no file {path} (@ names a file).",
            "A text that begins with @ is given in quotes as JSON.",
        )
    readers: dict[str, Any] = {".json": _json, ".wav": sound, ".npy": _array, **dict.fromkeys(VIDEOS, video)}
    if suffix in readers:
        return readers[suffix](path)
    frames = animation(path)
    if len(frames) > 1:
        return frames
    return frames[0]


def picture(path: Path, mode: str) -> Image:
    """The picture in a file, upright, in `mode` ("RGB", or "L" for a mask).

    Raises:
        UsageError: no such file, or it is no picture that Pillow reads.
    """
    return eight_bit(next(_pictures(path))).convert(mode)


def animation(path: Path) -> list[Image]:
    """The frames of an animation, RGB; of a still picture, that one.

    Raises:
        UsageError: it is no picture that Pillow reads.
    """
    return [eight_bit(frame).convert("RGB") for frame in _pictures(path)]


def eight_bit(picture: Image) -> Image:
    """The picture with 8 bits a channel.

    Pillow's own conversion cuts grey values of 16 and 32 bits off at 255, so that all of a depth map becomes white;
    here whole numbers are of 16 bits, and fractions from 0 to 1.
    """
    import numpy as np
    from PIL import Image

    most = {"I": 65535.0, "F": 1.0}.get(picture.mode.partition(";")[0])
    if most is None:
        return picture
    grey = np.nan_to_num(np.asarray(picture, np.float32)) / most
    return Image.fromarray(np.rint(grey.clip(0, 1) * 255).astype(np.uint8))


def _pictures(path: Path) -> Iterator[Image]:
    from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is no file of a picture but a folder, a pipe or a device.")
    Image.init()  # Not each build of Pillow has all of them.
    try:
        with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as opened:
            moves = opened.format in ("GIF", "WEBP", "PNG", "AVIF")  # cameras put thumbnails behind a picture
            _check_pixels(path, opened.size, getattr(opened, "n_frames", 1) if moves else 1)
            for frame in ImageSequence.Iterator(opened) if moves else (opened,):
                yield ImageOps.exif_transpose(frame)
    except UnidentifiedImageError:
        raise UsageError(f"{path} is not a picture ({', '.join(FORMATS)}).") from None
    except Image.DecompressionBombError as error:
        raise UsageError(f"{path} is too large to be opened: {error}") from None
    # Damaged files fail in whatever way the decoder's code does: a PNG that is cut off is a SyntaxError.
    except (
        OSError,
        SyntaxError,
        ValueError,
        ArithmeticError,
        LookupError,
        TypeError,
        EOFError,
        struct.error,
    ) as error:
        raise UsageError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None


def _check_pixels(path: Path, size: tuple[int, int], frames: int) -> None:
    """Raises UsageError where a picture, of which only the header was read, has too many pixels."""
    width, height = size
    if width * height * frames > MAX_PIXELS:
        raise UsageError(
            f"{path} has {width}x{height} pixels in {frames} frames; at most {MAX_PIXELS:,} in all are read."
        )


def folder(path: Path) -> list[Image]:
    """The pictures in a folder, RGB, in the order of the numbers in their names.

    Raises:
        UsageError: there is none, or one cannot be read, or they are not of one size.
    """
    files = sorted((file for file in path.iterdir() if file.suffix.lower() in PICTURES), key=_natural)
    if not files:
        raise UsageError(f"the folder {path} holds no pictures ({', '.join(PICTURES)}).")
    frames = [picture(file, "RGB") for file in files]
    for file, frame in zip(files, frames, strict=True):
        if frame.size != frames[0].size:
            raise UsageError(
                f"{file} is {frame.width}x{frame.height}, and {files[0]} {frames[0].width}x{frames[0].height}: "
                "frames are of one size."
            )
    return frames


def _natural(file: Path) -> list[tuple[int, str]]:
    """ "frame-10" after "frame-9"."""
    parts = re.split(r"([0-9]{1,18})", file.name.lower())
    numbers = [whole_number(part) for part in parts]
    return [
        (0, part) if number is None else (number, "") for part, number in zip(parts, numbers, strict=True)
    ]


def video(path: Path) -> list[Image]:
    """The frames of a video, RGB.

    Raises:
        UsageError: it is no video that ffmpeg reads, or has no frame.
        LatentcError: imageio or its ffmpeg is not installed.
    """
    require_video()
    import imageio.v2 as imageio
    from PIL import Image

    try:
        reader: Any
        with imageio.get_reader(path, format="FFMPEG") as reader:
            frames = [Image.fromarray(frame) for frame in reader.iter_data()]
    except Exception as error:  # imageio passes on whatever ffmpeg says, as errors of many classes
        lines = str(error).strip().splitlines()
        raise UsageError(
            f"{path} is no video that ffmpeg reads: {lines[-1] if lines else type(error).__name__}"
        ) from None
    if not frames:
        raise UsageError(f"{path} has no frames.")
    return frames


def require_video() -> None:
    """Raises LatentcError where what reads and writes videos is not installed."""
    from importlib.util import find_spec

    absent = [name for name in ("imageio", "imageio_ffmpeg") if find_spec(name) is None]
    if absent:
        raise LatentcError(f"videos need {' and '.join(absent)}, not installed here.", EXTRA)


def sound(path: Path) -> torch.Tensor:
    """A WAV file of whole numbers as float32 [1, channels, samples] from -1 to 1.

    Raises:
        UsageError: it is no such file.
    """
    import numpy as np
    import torch

    try:
        with wave.open(str(path), "rb") as opened:
            width, channels = opened.getsampwidth(), opened.getnchannels()
            data = opened.readframes(opened.getnframes())
    except (wave.Error, EOFError, OSError) as error:
        raise UsageError(f"{path} is no WAV file of whole numbers: {error}.") from None
    if width == 3:  # NumPy has no type of 24 bits: the low byte of 32 is zero
        data = b"".join(b"\0" + data[at : at + 3] for at in range(0, len(data), 3))
    types = {1: "u1", 2: "<i2", 3: "<i4", 4: "<i4"}
    if width not in types or len(data) % (np.dtype(types[width]).itemsize * channels):
        raise UsageError(
            f"{path} is no WAV file of whole numbers: samples of {width} bytes, or one that is cut off."
        )
    stored = np.dtype(types[width])
    numbers = np.frombuffer(data, stored).astype(np.float32)
    scaled = (numbers - 128) / 128 if width == 1 else numbers / 2 ** (31 if width > 2 else 15)
    return torch.from_numpy(scaled.reshape(-1, channels).T[None].copy())


def _json(path: Path) -> Any:
    try:
        return parsed_json(path.read_text(encoding="utf-8-sig"), f"@{path}")
    except (ValueError, OSError) as error:
        raise UsageError(f"{path} is no JSON: {error}.") from None


def _array(path: Path) -> np.ndarray:
    import numpy as np

    try:
        # A map: a header that says more than the file holds takes no memory, and a zip archive is no array.
        with np.errstate(over="ignore"):  # of a shape's product: what is too large is an error
            return np.array(np.lib.format.open_memmap(path, mode="r"))
    except (ValueError, OverflowError, EOFError, OSError) as error:
        raise UsageError(f"{path} is no array of NumPy's: {error}.") from None
