"""Checkpoints of a whole pipeline in one file, converted by diffusers' own code over tensors that record.

No table of keys is kept here: diffusers' conversion runs on tensors without data, and what it does to each is what
is done to its bytes when the weight is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import onnx_ir as ir

from artifacts.error_text import class_and_text
from artifacts.errors import LatentcError
from artifacts.safetensors_header import require_safetensors
from compiler.origins import gguf_file
from compiler.origins.stored_file import stored_tensors
from targets.graph.weights import Origin


def left_out() -> tuple[str, ...]:
    """The components that diffusers does not look for in a single file."""
    from diffusers.loaders.single_file import SINGLE_FILE_OPTIONAL_COMPONENTS

    return tuple(SINGLE_FILE_OPTIONAL_COMPONENTS)


@dataclass(frozen=True)
class Checkpoint:
    """One safetensors or GGUF file with the weights of a pipeline, or of one component, under any names."""

    file: Path

    @cached_property
    def stored(self) -> Mapping[str, Origin]:
        """Its tensors by their keys; those in 8-bit floats that are stored with a scale are multiplied by it.

        Raises:
            LatentcError: it is neither a safetensors nor a GGUF file, or damaged.
        """
        if gguf_file.is_gguf(self.file):
            return gguf_file.tensors(self.file)
        require_safetensors(self.file)
        return unscaled(stored_tensors([self.file]))

    def state(self) -> dict[str, Any]:
        """A state dict of tensors that record."""
        from compiler.origins.recorded import recorded_state

        return dict(recorded_state(self.stored))

    def has(self, cls: Any) -> bool:
        """Whether diffusers can look for a component of this class in it."""
        from diffusers.loaders import single_file as loader
        from diffusers.loaders.single_file_model import FromOriginalModelMixin

        if issubclass(cls, FromOriginalModelMixin):
            return True
        state = self.state()
        return bool(loader.is_clip_model_in_single_file(cls, state) or loader.is_t5_in_single_file(state))


@dataclass(frozen=True)
class Converted:
    """The weights of one component of a checkpoint."""

    checkpoint: Checkpoint
    name: str

    @property
    def files(self) -> tuple[Path, ...]:
        """See `WeightFiles`."""
        return (self.checkpoint.file,)

    def tensors(self, cls: type, folder: Path) -> Mapping[str, Origin]:
        """See `WeightFiles`."""
        from compiler.origins.recorded import Recorded, simplified

        try:
            state = _converted(cls, self.checkpoint.state(), folder)
        except LatentcError:
            raise
        except Exception as error:  # Conversions index, cut and reshape what they take for granted.
            raise LatentcError(
                f"{self.checkpoint.file} cannot be read as '{self.name}' ({cls.__name__}): "
                f"{class_and_text(error)}",
                f"Give its weights apart (--component {self.name}=FOLDER), or a folder of the model's own kind "
                "(--config FOLDER).",
            ) from error
        return {
            name: simplified(tensor.origin if isinstance(tensor, Recorded) else _constant(tensor), name)
            for name, tensor in state.items()
        }


def repository(checkpoint: Checkpoint) -> str:
    """The model on the hub whose configuration diffusers takes for a checkpoint's.

    Raises:
        LatentcError: the file is no safetensors file.
    """
    from diffusers.loaders.single_file_utils import fetch_diffusers_config

    return str(fetch_diffusers_config(checkpoint.state())["pretrained_model_name_or_path"])


def unscaled(tensors: Mapping[str, Origin]) -> dict[str, Origin]:
    """The tensors with each scale multiplied in, and without the scales and the marks of scaled 8-bit floats.

    A scale stands beside its weight as "scale_weight" or "weight_scale": one number, or one for each row.
    """
    from compiler.origins.recorded import Recorded

    eight_bits = {ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E5M2}
    result = dict(tensors)
    for key, origin in tensors.items():
        if origin.dtype not in eight_bits:
            continue
        stem = key.removesuffix("weight")
        scales = [name for name in (f"{stem}scale_weight", f"{stem}weight_scale") if name in tensors]
        if key != stem and scales:
            scale = Recorded(tensors[scales[0]]).float()
            if scale.dim() == 1 and scale.shape[0] != 1:
                scale = scale.reshape(-1, *[1] * (len(origin.shape) - 1))
            product: Any = Recorded(origin).float() * scale
            result[key] = product.reshape(origin.shape).origin
            result.pop(scales[0], None)
        result.pop(f"{stem}scale_input", None)
        result.pop(f"{stem}input_scale", None)
    for mark in ("scaled_fp8", "model.diffusion_model.scaled_fp8"):
        result.pop(mark, None)
    return result


def _constant(tensor: Any) -> Origin:
    from compiler.origins.computed import Constant

    return Constant.of(tensor)


class _Arrived(Exception):
    """Raised where a library has converted a state dict and would load it into its module."""

    def __init__(self, state: dict[str, Any]) -> None:
        super().__init__()
        self.state = state


@contextmanager
def _intercepted() -> Iterator[None]:
    """While it is open, diffusers raises `_Arrived` in place of loading a converted state dict into a module."""
    from diffusers.loaders import single_file_model, single_file_utils

    def arrived(model: Any, state: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        raise _Arrived(dict(state))

    name = "load_model_dict_into_meta"
    with (
        mock.patch.object(single_file_model, name, arrived),
        mock.patch.object(single_file_utils, name, arrived),
    ):
        yield


def _converted(cls: type, state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Name in the module -> tensor, as diffusers converts it."""
    from diffusers import pipelines
    from diffusers.loaders.single_file import load_single_file_sub_model

    try:
        with _intercepted():
            load_single_file_sub_model(
                library_name=cls.__module__.partition(".")[0],
                class_name=cls.__name__,
                name=folder.name,
                checkpoint=state,
                pipelines=pipelines,
                is_pipeline_module=False,
                cached_model_config_path=str(folder.parent),
                local_files_only=True,
            )
    except _Arrived as arrived:
        return arrived.state
    raise LatentcError(f"diffusers does not convert single files of {cls.__name__}.")
