"""The reference: a diffusers folder in PyTorch, which makes images by the same `generate` as an artifact's pipeline."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from artifacts.contents import Folder
from artifacts.errors import LatentcError
from artifacts.manifest import DimRange
from runtimes.assemble import absent_components, read_index
from runtimes.generation import Generator
from runtimes.guard import guarded
from runtimes.meter import Meter
from runtimes.model_view import model_view
from runtimes.trusted_classes import import_subclass


class Reference(Generator):
    """A model in PyTorch; `diffusers` is its pipeline."""

    @property
    def meter(self) -> Meter:
        """What the `generate` under way reports to."""
        return self._meter


def load(
    folder: str | Path,
    class_path: str = "",
    *,
    precision: Literal["fp32", "fp16", "bf16"] = "fp32",
    variant: str | None = None,
    components: Mapping[str, Any] | None = None,
    batch: int = 1,
) -> Reference:
    """Opens a diffusers folder on the CPU, from its safetensors alone: nothing is fetched, none of its code runs.

    It is held to what a compile holds a model to: what is not read there is not read here (`runtimes.model_view`).

    In every precision one seed is the same noise. Progress bars are off.

    Args:
        class_path: the pipeline's class, as manifests have it; empty for the one that the folder's index names.
        variant: in the names of its weight files ("fp16"), if they have one.
        components: name -> what stands for the folder's own; None leaves it out.
        batch: how many images are made at once.

    Raises:
        LatentcError: the class is none of diffusers' pipelines, or does not open the folder.
    """
    import torch
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    folder = Path(folder)
    named = class_path or f"diffusers:{read_index(Folder(folder))['_class_name']}"
    cls: Any = import_subclass(named, DiffusionPipeline, "pipeline")
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    for logging in (of_diffusers, of_transformers):
        logging.disable_progress_bar()
    absent = absent_components(folder, cls)
    view = folder
    try:
        with model_view(folder) as view, guarded(f"{cls.__name__}, loaded from {folder},"):
            pipe = cls.from_pretrained(
                view,
                dtype=dtype,
                variant=variant,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                **(absent | dict(components or {})),
            )
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        words = str(error).replace(str(view), str(folder))
        raise LatentcError(f"PyTorch cannot load {folder} as {cls.__name__}: {words}") from error
    pipe.set_progress_bar_config(disable=True)
    if dtype is not torch.float32:
        _noise_in_fp32(pipe, dtype)
    return Reference(pipe, {"batch": DimRange(min=1, max=batch)})


def _noise_in_fp32(pipe: Any, dtype: Any) -> None:
    """Makes `pipe` draw its noise in fp32 and cast it: in another type one seed is another picture."""
    import torch

    if not callable(getattr(pipe, "prepare_latents", None)):
        return
    inner = pipe.prepare_latents

    @functools.wraps(inner)
    def prepare(*args: Any, **kwargs: Any) -> Any:
        wide = [torch.float32 if a is dtype else a for a in args]
        named = {k: torch.float32 if v is dtype else v for k, v in kwargs.items()}
        latents = inner(*wide, **named)
        return latents.to(dtype) if isinstance(latents, torch.Tensor) else latents

    pipe.prepare_latents = prepare
