"""Pictures that requests bring: decoded from base64, held to a format and a size before they are unpacked."""

from __future__ import annotations

import base64
import binascii
import io
import re
import warnings
from typing import TYPE_CHECKING

from latentc.serving.api_error import ApiError
from runtimes.media import eight_bit

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP")

_DATA_URL = re.compile(r"data:image/[a-z+.-]{1,20};base64,")


def from_base64(text: str, field: str) -> bytes:
    """The bytes of a field in base64, with or without a `data:` prefix.

    Raises:
        ApiError: it is none.
    """
    prefix = _DATA_URL.match(text)
    try:
        return base64.b64decode(text[prefix.end() if prefix else 0 :], validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(
            400,
            f"'{field}' must be a picture in base64; addresses and paths are not opened.",
            field,
            "invalid_image",
        ) from None


def check_picture(data: bytes, field: str, pixels: int) -> Image:
    """The picture, decoded, and turned as its camera says.

    Args:
        pixels: width times height, at most; the file's header is held to it before anything is decoded.

    Raises:
        ApiError: no PNG, JPEG or WebP, a damaged one, or one that is too large.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > pixels:
                raise ApiError(
                    400,
                    f"'{field}' has {image.width}x{image.height} pixels; at most {pixels} in all are taken.",
                    field,
                    "image_too_large",
                )
            image.load()
            return as_meant(image)
    except ApiError:
        raise
    # Damaged files fail in whatever way the decoder's code does.
    except Exception:
        raise ApiError(
            400, f"'{field}' must be a PNG, JPEG or WebP picture.", field, "invalid_image"
        ) from None


def read_picture(data: bytes, mode: str) -> Image:
    """A picture that `check_picture` has passed, as a pipeline gets it.

    Args:
        mode: Pillow's: "RGB", or "L" for a mask.
    """
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return as_meant(image).convert(mode)


def as_meant(image: Image) -> Image:
    """The picture that a file's pixels stand for, turned as its camera says. Every picture of every request comes
    through here, before its mode is changed."""
    from PIL import ImageOps

    return eight_bit(ImageOps.exif_transpose(image))


def mask_of_alpha(image: Image) -> bytes | None:
    """A mask in our sense, white where a picture is transparent, as a PNG; None where nothing of it is."""
    from PIL import ImageOps

    if "A" not in image.getbands() and "transparency" not in image.info:
        return None
    alpha = image.convert("RGBA").getchannel("A")
    if alpha.getextrema() == (255, 255):
        return None
    written = io.BytesIO()
    ImageOps.invert(alpha).save(written, format="PNG")
    return written.getvalue()
