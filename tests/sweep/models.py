"""The pipelines of the sweep: tiny, random, built from configs, and what each is called with."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tests.sweep import flow, ip_adapters, sd, unclip
from tests.sweep.text import CAPTIONS

if TYPE_CHECKING:
    from PIL.Image import Image

Arguments = Callable[[int, int, int, int], dict[str, Any]]
"""(batch, height, width, seed) -> what `__call__` gets beside the generator, steps and output type."""


@dataclass(frozen=True)
class Case:
    """One model folder of the sweep.

    Attributes:
        build: makes the pipeline; always the same one.
        tasks: the tasks that the folder serves, the builder's own class first -> the arguments of a call.
        size: height and width of a run, in pixels.
        sizes: two more (height, width) that it takes; empty when the pipeline has one size only.
        multiple: height and width must be multiples of this.
        output: the field of the pipeline's output that is compared.
        output_type: what makes that field an array.
        extra: more arguments of every call.
        compiled_with: what a compile is told of the call (as texts) beside the size.
        added: puts further files into the pipeline, which are written to a folder, after it was saved; returns what a
            request is told of them.
    """

    build: Callable[[], Any]
    tasks: Mapping[str, Arguments]
    size: int = 32
    sizes: tuple[tuple[int, int], ...] = ((32, 48), (64, 32))
    multiple: int = 8
    output: str = "images"
    output_type: str = "np"
    extra: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    compiled_with: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    added: Callable[[Any, Path], Mapping[str, Any]] | None = None

    def arguments(
        self, task: str, batch: int = 1, height: int = 0, width: int = 0, seed: int = 0, steps: int = 2
    ) -> dict[str, Any]:
        """Keyword arguments of one run; height and width 0 are `size`."""
        import torch

        return {
            **self.tasks[task](batch, height or self.size, width or self.size, seed),
            "num_inference_steps": steps,
            "generator": torch.Generator("cpu").manual_seed(seed),
            "output_type": self.output_type,
            **self.extra,
        }

    def run(self, pipe: Any, task: str, **which: int) -> Any:
        """One run's result, a float32 array; `which` as in `arguments`."""
        import numpy as np

        result = getattr(pipe(**self.arguments(task, **which)), self.output)
        return np.asarray(result.detach() if hasattr(result, "detach") else result, dtype=np.float32)


def sibling(pipe: Any, task: str) -> Any:
    """diffusers' pipeline for another task with the components of `pipe`, as its own tables say."""
    from diffusers.pipelines import auto_pipeline

    # Decoders first: the other tables name "combined" pipelines, which want a prior as well.
    for kind in ("_DECODER", ""):
        source, target = (
            getattr(auto_pipeline, f"{'_' if kind else ''}AUTO_{word}{kind}_PIPELINES_MAPPING")
            for word in ("TEXT2IMAGE", {"image-to-image": "IMAGE2IMAGE", "inpaint": "INPAINT"}[task])
        )
        for model, pipeline_class in source.items():
            if pipeline_class is type(pipe) and model in target:
                return target[model].from_pipe(pipe)
    raise KeyError(f"diffusers knows no {task} pipeline beside {type(pipe).__name__}")


def prompts(batch: int, seed: int = 0) -> list[str]:
    """Captions, a different set for another seed."""
    return [CAPTIONS[zlib.crc32(f"{seed}/{i}".encode()) % len(CAPTIONS)] for i in range(batch)]


def picture(height: int, width: int, seed: int = 0) -> Image:
    """A smooth RGB picture."""
    import numpy as np
    from PIL import Image

    y, x = np.mgrid[0:height, 0:width] / 8
    waves = [np.sin(x * (1 + c) + seed) + np.cos(y * (2 + c) - seed) for c in range(3)]
    return Image.fromarray((127.5 + 63 * np.stack(waves, -1)).astype(np.uint8))


def mask(height: int, width: int) -> Image:
    """White, to be painted, in the middle; black around it."""
    import numpy as np
    from PIL import Image

    array = np.zeros((height, width), np.uint8)
    array[height // 4 : -height // 4, width // 4 : -width // 4] = 255
    return Image.fromarray(array)


def embeddings(batch: int, seed: int, *shape: int) -> Any:
    """Normal noise of (batch, *shape), float32."""
    import torch

    return torch.randn((batch, *shape), generator=torch.Generator().manual_seed(1000 + seed))


def _text(batch: int, height: int, width: int, seed: int) -> dict[str, Any]:
    return {"prompt": prompts(batch, seed), "height": height, "width": width}


def _negative(batch: int, height: int, width: int, seed: int) -> dict[str, Any]:
    return _text(batch, height, width, seed) | {"negative_prompt": prompts(batch, seed + 7)}


def _guided(batch: int, height: int, width: int, seed: int) -> dict[str, Any]:
    return _negative(batch, height, width, seed) | {"true_cfg_scale": 3.0}


def _pictures(batch: int, height: int, width: int, seed: int) -> list[Any]:
    return [picture(height, width, seed + i) for i in range(batch)]


def _image(batch: int, height: int, width: int, seed: int) -> dict[str, Any]:
    return {"prompt": prompts(batch, seed), "image": _pictures(batch, height, width, seed), "strength": 1.0}


def _image_sized(batch: int, height: int, width: int, seed: int) -> dict[str, Any]:
    return _image(batch, height, width, seed) | {"height": height, "width": width}


def _inpaint(batch: int, height: int, width: int, seed: int) -> dict[str, Any]:
    return _image_sized(batch, height, width, seed) | {"mask_image": [mask(height, width)] * batch}


def _instruct(batch: int, height: int, width: int, seed: int) -> dict[str, Any]:
    return {"prompt": prompts(batch, seed), "image": _pictures(batch, height, width, seed)}


def _control(batch: int, height: int, width: int, seed: int) -> dict[str, Any]:
    return _instruct(batch, height, width, seed) | {"height": height, "width": width}


def _controls(batch: int, height: int, width: int, seed: int) -> dict[str, Any]:
    """A picture for each of two ControlNets."""
    return _control(batch, height, width, seed) | {
        "image": [picture(height, width, seed + i) for i in (3, 4)]
    }


def _shown(batch: int, height: int, width: int, seed: int) -> dict[str, Any]:
    """A picture for an IP-Adapter."""
    return _negative(batch, height, width, seed) | {"ip_adapter_image": picture(40, 40, seed + 2)}


def _shown_two(batch: int, height: int, width: int, seed: int) -> dict[str, Any]:
    pictures = [picture(40, 40, seed + number) for number in (2, 3)]
    return _negative(batch, height, width, seed) | {"ip_adapter_image": pictures}


def _kontext(batch: int, height: int, width: int, seed: int) -> dict[str, Any]:
    return _control(batch, height, width, seed) | {"max_area": height * width, "_auto_resize": False}


def _prompt(batch: int, height: int, width: int, seed: int) -> dict[str, Any]:
    return {"prompt": prompts(batch, seed)}


def _label(batch: int, height: int, width: int, seed: int) -> dict[str, Any]:
    return {"class_labels": [(7 + 131 * i + 17 * seed) % 1000 for i in range(batch)]}


def _embedded(batch: int, height: int, width: int, seed: int) -> dict[str, Any]:
    return {
        "image_embeds": embeddings(batch, seed, 32),
        "negative_image_embeds": embeddings(batch, seed + 50, 32),
        "height": height,
        "width": width,
    }


def _embedded_image(batch: int, height: int, width: int, seed: int) -> dict[str, Any]:
    return _embedded(batch, height, width, seed) | {
        "image": _pictures(batch, height, width, seed),
        "strength": 1.0,
    }


def _embedded_inpaint(batch: int, height: int, width: int, seed: int) -> dict[str, Any]:
    return _embedded(batch, height, width, seed) | {
        "image": _pictures(batch, height, width, seed),
        "mask_image": [mask(height, width)] * batch,
    }


def _cascaded(batch: int, height: int, width: int, seed: int) -> dict[str, Any]:
    # A pixel of the embedding is 4 x latent_dim_scale = 42.67 pixels of the image.
    return {
        "image_embeddings": embeddings(batch, seed, 16, height * 3 // 128, width * 3 // 128),
        "prompt": prompts(batch, seed),
        "guidance_scale": 2.0,
    }


_PLAIN: Mapping[str, Any] = MappingProxyType({"use_resolution_binning": False})
_SD_TASKS = {"text-to-image": _negative, "image-to-image": _image, "inpaint": _inpaint}
_FLUX_TASKS = {"text-to-image": _text, "image-to-image": _image_sized, "inpaint": _inpaint}

CASES: Mapping[str, Case] = MappingProxyType(
    {
        "sd15": Case(sd.sd15, _SD_TASKS),
        "sd15-pag": Case(sd.sd15_pag, {"text-to-image": _negative}),
        "sd15-inpaint": Case(sd.sd15_inpaint, {"inpaint": _inpaint}),
        "sd2": Case(sd.sd2, {"text-to-image": _negative}),
        "lcm": Case(sd.lcm, {"text-to-image": _text, "image-to-image": _image}),
        "sdxl": Case(sd.sdxl, _SD_TASKS),
        "sdxl-pag": Case(sd.sdxl_pag, {"text-to-image": _negative}),
        "sdxl-refiner": Case(sd.sdxl_refiner, {"image-to-image": _image}),
        "sd3": Case(flow.sd3, {"text-to-image": _negative, "image-to-image": _image_sized}, multiple=16),
        "sd3-pag": Case(flow.sd3_pag, {"text-to-image": _negative}, multiple=16),
        "flux": Case(flow.flux, _FLUX_TASKS, multiple=16),
        "flux-schnell": Case(flow.flux_schnell, {"text-to-image": _text}, multiple=16),
        "flux-kontext": Case(
            flow.flux_kontext,
            {"image-to-image": _kontext},
            multiple=16,
            compiled_with={"max_area": "1024", "_auto_resize": "false"},
        ),
        "pixart-sigma": Case(flow.pixart_sigma, {"text-to-image": _negative}, extra=_PLAIN),
        "sana": Case(
            flow.sana,
            {"text-to-image": _negative},
            sizes=((32, 64), (64, 32)),
            multiple=32,
            extra=_PLAIN,
        ),
        "aura-flow": Case(flow.aura_flow, {"text-to-image": _negative}),
        "kandinsky22-prior": Case(
            unclip.kandinsky_prior,
            {"text-to-image": _prompt},
            sizes=(),
            output="image_embeds",
            output_type="pt",
        ),
        "kandinsky22": Case(
            unclip.kandinsky,
            {"text-to-image": _embedded, "image-to-image": _embedded_image},
            sizes=((48, 48), (64, 64)),  # diffusers' image-to-image swaps height and width
        ),
        "kandinsky22-inpaint": Case(unclip.kandinsky_inpaint, {"inpaint": _embedded_inpaint}),
        "cascade-prior": Case(
            unclip.cascade_prior, {"text-to-image": _negative}, output="image_embeddings", output_type="pt"
        ),
        "cascade-decoder": Case(
            unclip.cascade_decoder,
            {"text-to-image": _cascaded},
            size=128,
            sizes=((128, 256), (256, 128)),
            multiple=128,
        ),
        "dit": Case(flow.dit, {"text-to-image": _label}, sizes=()),
        "cogview4": Case(flow.cogview4, {"text-to-image": _negative}, multiple=16),
        "chroma": Case(flow.chroma, {"text-to-image": _negative}, multiple=16),
        "lumina2": Case(
            flow.lumina2, {"text-to-image": _negative}, size=64, sizes=((64, 96), (128, 64)), multiple=16
        ),
        "qwen-image": Case(flow.qwen_image, {"text-to-image": _guided}, multiple=16),
        "sd15-controlnet": Case(sd.sd15_controlnet, {"text-to-image": _control}),
        "sd15-controlnets": Case(sd.sd15_controlnets, {"text-to-image": _controls}),
        "sd15-controlnet-repeated": Case(sd.sd15_repeated_controlnet, {"text-to-image": _controls}),
        "sd15-t2i-adapter": Case(sd.sd15_t2i_adapter, {"text-to-image": _control}),
        "sd15-ip-adapter": Case(sd.sd15, {"text-to-image": _shown}, added=ip_adapters.with_one),
        "sdxl-ip-adapters": Case(sd.sdxl, {"text-to-image": _shown_two}, added=ip_adapters.with_two),
        "sdxl-controlnet": Case(sd.sdxl_controlnet, {"text-to-image": _control}),
        "instruct-pix2pix": Case(sd.pix2pix, {"text-to-image": _instruct}),
    }
)
