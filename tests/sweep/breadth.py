"""Pipelines beside those of `tests.sweep.models`: how each is built, and what one call of it is given.

Each is compiled for one size and drawn by its call and by `generate`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

from tests.sweep import (
    flow,
    pixels,
    sd,
    siblings,
    sounds,
    unclip,
    video,
)
from tests.sweep.models import embeddings, mask, picture

SIDE = 32

Arguments = Mapping[str, Any]
_NONE: Arguments = MappingProxyType({})


@dataclass(frozen=True)
class Case:
    """One pipeline.

    Attributes:
        build: makes it; always the same one.
        arguments: of a call, beside steps, generator, output type, size and frames.
        output: the field of the pipeline's output that is compared.
        size: height and width; 0 where it has none.
        frames: of each video; 0 where it makes none.
        steps: denoising steps; 0 where the call is told of none.
        output_type: what makes the field an array; empty where the pipeline is not told any.
        compiled_with: what a compile is told of the call (as texts) beside the size.
    """

    build: Callable[[], Any]
    arguments: Arguments
    output: str = "images"
    size: int = SIDE
    frames: int = 0
    steps: int = 2
    output_type: str = "np"
    compiled_with: Mapping[str, str] = field(default_factory=dict)


_TEXT: Arguments = {"prompt": "a large red circle"}
_GUIDED: Arguments = {**_TEXT, "negative_prompt": "a small star"}
_IMAGE: Arguments = {"image": picture(SIDE, SIDE)}
_MASK: Arguments = {**_IMAGE, "mask_image": mask(SIDE, SIDE)}
_CONTROL: Arguments = {"control_image": picture(SIDE, SIDE, 3)}
_FULL: Arguments = {"strength": 1.0}
_WEAK: Arguments = {"controlnet_conditioning_scale": 0.5}
_WHOLE: Arguments = {"use_resolution_binning": False}
_CLIP = [picture(SIDE, SIDE, seed) for seed in range(4)]


def _case(build: Callable[[], Any], *arguments: Arguments, **fields: Any) -> Case:
    return Case(build, {name: value for part in arguments for name, value in part.items()}, **fields)


def _sd(name: str, *arguments: Arguments, **fields: Any) -> Case:
    return _case(partial(_of, name, sd.sd15), _GUIDED, *arguments, **fields)


def _of(name: str, base: Callable[[], Any], **parts: Any) -> Any:
    return siblings.of(name, base(), **parts)


def _controlled(name: str, *arguments: Arguments) -> Case:
    return _case(partial(siblings.with_controlnet, name), _GUIDED, _WEAK, *arguments)


def _xl_controlled(name: str, *arguments: Arguments) -> Case:
    return _case(partial(siblings.xl_with_controlnet, name), _GUIDED, _WEAK, *arguments)


def _sd3_controlled(name: str, *arguments: Arguments, **config: Any) -> Case:
    return _case(partial(siblings.sd3_with_controlnet, name, **config), _GUIDED, _WEAK, *arguments)


def _flux_wide(name: str, channels: int, *arguments: Arguments) -> Case:
    return _case(partial(siblings.flux_with_channels, name, channels), _TEXT, *arguments)


def _video(build: Callable[[], Any], frames: int, *arguments: Arguments, **fields: Any) -> Case:
    return _case(build, *arguments, output="frames", frames=frames, **fields)


def _sound(build: Callable[[], Any], *arguments: Arguments, **fields: Any) -> Case:
    return _case(build, *arguments, output="audios", **{"size": 0, **fields})


PICTURES: Mapping[str, Case] = {
    "sd15-pag-image": _case(
        partial(_of, "StableDiffusionPAGImg2ImgPipeline", sd.sd15), _GUIDED, _IMAGE, _FULL
    ),
    "sd15-pag-inpaint": _sd("StableDiffusionPAGInpaintPipeline", _MASK, _FULL),
    "sd15-control-image": _controlled("StableDiffusionControlNetImg2ImgPipeline", _IMAGE, _CONTROL, _FULL),
    "sd15-control-inpaint": _controlled("StableDiffusionControlNetInpaintPipeline", _MASK, _CONTROL),
    "sd15-control-pag": _controlled("StableDiffusionControlNetPAGPipeline", _IMAGE),
    "sd15-adapter": _case(
        lambda: siblings.with_adapter("StableDiffusionAdapterPipeline", sd.sd15()), _GUIDED, _IMAGE
    ),
    "sd-upscale": _case(siblings.upscale, _GUIDED, _IMAGE),
    "ldm": _case(siblings.ldm, _TEXT),
    "marigold-depth": _case(
        lambda: siblings.latents_to_pictures("MarigoldDepthPipeline", prediction_type="depth"),
        _IMAGE,
        {"processing_resolution": 0},
        output="prediction",
        compiled_with={"processing_resolution": "0"},
    ),
    "marigold-normals": _case(
        lambda: siblings.latents_to_pictures("MarigoldNormalsPipeline", prediction_type="normals"),
        _IMAGE,
        {"processing_resolution": 0},
        output="prediction",
        compiled_with={"processing_resolution": "0"},
    ),
    "image-variation": _case(siblings.image_variation, _IMAGE),
    "sdxl-pix2pix": _case(siblings.xl_pix2pix, _GUIDED, _IMAGE),
    "sdxl-adapter": _case(
        lambda: siblings.with_adapter(
            "StableDiffusionXLAdapterPipeline",
            sd.sdxl(),
            projection_class_embeddings_input_dim=32 + 6 * 8,
            **sd.XL,
        ),
        _GUIDED,
        _IMAGE,
    ),
    "sdxl-control-inpaint": _xl_controlled("StableDiffusionXLControlNetInpaintPipeline", _MASK, _CONTROL),
    "sdxl-union": _case(
        partial(siblings.xl_union, "StableDiffusionXLControlNetUnionPipeline"),
        _GUIDED,
        _CONTROL,
        _WEAK,
        {"control_mode": [1]},
        compiled_with={"control_mode": "[1]"},
    ),
    "sd3-inpaint": _case(siblings.sd3_inpaint, _GUIDED, _MASK, _FULL),
    "sd3-control": _sd3_controlled("StableDiffusion3ControlNetPipeline", _CONTROL),
    "sd3-control-inpaint": _sd3_controlled(
        "StableDiffusion3ControlNetInpaintingPipeline",
        _CONTROL,
        {"control_mask": mask(SIDE, SIDE)},
        extra_conditioning_channels=1,
    ),
    "flux-fill": _flux_wide("FluxFillPipeline", 16 + 16 + 16, _MASK),
    "flux-controlnet": _case(
        partial(siblings.flux_with_controlnet, "FluxControlNetPipeline"), _TEXT, _WEAK, _CONTROL
    ),
    "chroma-image": _case(partial(_of, "ChromaImg2ImgPipeline", flow.chroma), _GUIDED, _IMAGE, _FULL),
    "flux-kontext-inpaint": _case(
        partial(_of, "FluxKontextInpaintPipeline", flow.flux),
        _TEXT,
        _MASK,
        {"max_area": SIDE * SIDE, "_auto_resize": False, "strength": 1.0},
        compiled_with={"max_area": f"{SIDE * SIDE}", "_auto_resize": "false"},
    ),
    "qwen-image-inpaint": _case(
        partial(_of, "QwenImageInpaintPipeline", flow.qwen_image), _GUIDED, _MASK, _FULL
    ),
    "bria": _case(flow.bria, _GUIDED),
    "prx-pixels": _case(pixels.prx_pixels, _GUIDED, _WHOLE),
    "deepfloyd": _case(pixels.deepfloyd, _GUIDED, {"clean_caption": False}, size=16),
    "deepfloyd-upscaler": _case(
        pixels.deepfloyd_upscaler,
        _GUIDED,
        {"image": picture(16, 16), "clean_caption": False},
    ),
    "flux-control": _flux_wide("FluxControlPipeline", 32, _CONTROL),
    "pixart-alpha": _case(
        partial(_of, "PixArtAlphaPipeline", flow.pixart_sigma), _GUIDED, {"use_resolution_binning": False}
    ),
    "kandinsky22-combined": _case(
        lambda: siblings.kandinsky_combined("KandinskyV22CombinedPipeline", unclip.kandinsky()),
        _TEXT,
        {"prior_num_inference_steps": 2},
    ),
    "kandinsky22-prior-image": _case(
        lambda: siblings.of("KandinskyV22PriorEmb2EmbPipeline", unclip.kandinsky_prior()),
        _TEXT,
        {"image": embeddings(1, 3, 32), "strength": 1.0},
        output="image_embeds",
        output_type="pt",
        size=0,
        compiled_with={"image": "zeros(1,32)"},
    ),
    "ddim": _case(
        partial(siblings.unconditional, "DDIMPipeline", "DDIMScheduler", clip_sample=False), _NONE, size=16
    ),
    "ddpm": _case(
        partial(siblings.unconditional, "DDPMPipeline", "DDPMScheduler", clip_sample=False), _NONE, size=16
    ),
    "consistency": _case(
        partial(siblings.unconditional, "ConsistencyModelPipeline", "CMStochasticIterativeScheduler"),
        _NONE,
        size=16,
    ),
}

MOVING: Mapping[str, Case] = {
    "animatediff": _video(video.animatediff, 4, _TEXT),
    "animatediff-video": _video(video.animatediff_video, 4, _TEXT, {"video": _CLIP}, _FULL),
    "animatediff-pag": _video(partial(video.animated, "AnimateDiffPAGPipeline"), 4, _GUIDED),
    "latte": _video(video.latte, 4, _GUIDED, {"clean_caption": False}),
    "wan": _video(video.wan, 9, _GUIDED),
    "text-to-video-zero": _video(video.text_to_video_zero, 3, _GUIDED, {"t0": 1, "t1": 3}, steps=6),
    "ltx": _video(video.ltx, 9, _GUIDED),
    "ltx-image": _video(partial(video.ltx, "LTXImageToVideoPipeline"), 9, _GUIDED, _IMAGE),
}

SOUNDS: Mapping[str, Case] = {
    "stable-audio": _sound(sounds.stable_audio, _GUIDED, {"audio_end_in_s": 16.0}),
    "ace-step": _sound(
        sounds.ace_step, _TEXT, {"audio_duration": 4.0}, compiled_with={"audio_duration": "4.0"}
    ),
    "longcat": _sound(
        sounds.longcat, _GUIDED, {"audio_duration_s": 0.05}, compiled_with={"audio_duration_s": "0.05"}
    ),
}

CASES: Mapping[str, Case] = MappingProxyType({**PICTURES, **MOVING, **SOUNDS})
