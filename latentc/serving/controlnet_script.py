"""What clients of AUTOMATIC1111's API send to its ControlNet extension, as far as compiled ControlNets have it."""

from __future__ import annotations

from typing import Any

from latentc.serving.api_error import ApiError
from latentc.serving.input_pictures import from_base64
from latentc.serving.request_body import Fields, checked

SCRIPT = "controlnet"
"""The extension's name among `alwayson_scripts`."""

# What the extension does beside following a picture: the values that ask for none of it.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "mask": (None, ""),
    "mask_image": (None, ""),
    "effective_region_mask": (None, ""),
    "module": (None, "", "none", "None"),
    "weight": (1,),
    "guidance_start": (0,),
    "guidance_end": (1,),
    "control_mode": (0, "Balanced"),
}


class Unit(Fields):
    """One ControlNet of a request. What follows `control_mode` says how a preprocessor works, of which there is
    none, or what the server does with its memory and its files: it is taken, and changes nothing."""

    enabled: bool = True
    image: str | dict[str, Any] | None = None
    input_image: str | dict[str, Any] | None = None
    mask: Any = None
    mask_image: Any = None
    effective_region_mask: Any = None
    module: Any = None
    weight: Any = 1
    guidance_start: Any = 0
    guidance_end: Any = 1
    control_mode: Any = 0
    model: Any = None
    resize_mode: Any = None
    processor_res: Any = None
    threshold_a: Any = None
    threshold_b: Any = None
    pixel_perfect: Any = None
    lowvram: Any = None
    low_vram: Any = None
    save_detected_map: Any = None
    hr_option: Any = None
    inpaint_crop_input_image: Any = None


class Arguments(Fields):
    """What the extension is given."""

    args: list[dict[str, Any]]


def control_images(scripts: dict[str, Any]) -> tuple[bytes, ...]:
    """The pictures of the units that are on, in their order.

    Raises:
        ApiError: another script, or what compiled ControlNets do not have.
    """
    for name in scripts:
        if name.lower() != SCRIPT:
            raise _missing(
                f"The script '{name[:100]}' is not there (there is: {SCRIPT}).", "alwayson_scripts"
            )
    units = [
        checked(Unit, unit, strict=True)
        for script in scripts.values()
        for unit in checked(Arguments, script, strict=True).args
    ]
    return tuple(_picture(unit) for unit in units if unit.enabled)


def _picture(unit: Unit) -> bytes:
    for name, values in _NEUTRAL.items():
        if getattr(unit, name) not in values:
            text = ", ".join(repr(value) for value in values if value not in (None, ""))
            raise _missing(
                f"'{name}' of a ControlNet's unit is not there{text and f', but for {text}'}.", name
            )
    picture = unit.image if unit.image is not None else unit.input_image
    if isinstance(picture, dict):  # A picture, and what was painted over it.
        picture = picture.get("image") if not picture.get("mask") else None
    if not isinstance(picture, str):
        raise ApiError(
            422, "'image' of a ControlNet's unit must be a picture in base64.", "image", "invalid_image"
        )
    return from_base64(picture, "image")


def _missing(message: str, field: str) -> ApiError:
    return ApiError(422, message, field, "not_there")
