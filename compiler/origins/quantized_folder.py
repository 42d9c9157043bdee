"""Folders whose weights bitsandbytes has quantized: decoded by it, one tensor at a time."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from importlib import util
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from artifacts.errors import LatentcError
from compiler.origins.computed import Computed
from compiler.origins.stored_file import stored_tensors
from targets.graph.weights import Origin, Stored

DECODED = ("bitsandbytes",)
"""The methods, by what configurations call them."""

_STATE = re.compile(r"(.+)\.quant_state\.bitsandbytes__(nf4|fp4)")
_PARTS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")


def kind(settings: Mapping[str, Any]) -> str:
    """What a configuration's "quantization_config" says, for people: "bitsandbytes (nf4)"."""
    method = str(settings.get("quant_method", "an unnamed method"))
    bits = next((name for name in ("load_in_4bit", "load_in_8bit") if settings.get(name)), "")
    if bits:
        detail = settings.get("bnb_4bit_quant_type") if bits == "load_in_4bit" else None
        detail = detail or bits.removeprefix("load_in_")
    else:
        detail = settings.get("weights_dtype") or _type_name(settings.get("quant_type"))
    return f"{method}{f' ({detail})' if detail else ''}"


def _type_name(quant_type: Any) -> str:
    """The name of a torchao configuration: itself, or in {"default": {"_type": "Int8WeightOnlyConfig"}}."""
    if isinstance(quant_type, Mapping):
        default = quant_type.get("default")
        quant_type = default.get("_type") if isinstance(default, Mapping) else None
    return quant_type if isinstance(quant_type, str) else ""


def tensors(files: Iterable[Path], name: str) -> dict[str, Origin]:
    """Every weight of a component by its key, those of 4 and 8 bits in float32 as bitsandbytes decodes them.

    Args:
        name: the component's, for errors.

    Raises:
        LatentcError: bitsandbytes is not installed, or a tensor is not of the form that it writes.
    """
    if util.find_spec("bitsandbytes") is None:
        raise LatentcError(
            f"the weights of '{name}' are quantized by bitsandbytes, which decodes them and is not installed.",
            'Install it: pip install "latentc[bitsandbytes]"',
        )
    stored = stored_tensors(files)
    result: dict[str, Origin] = dict(stored)
    for key, tensor in stored.items():
        match = _STATE.fullmatch(key)
        if match is not None:
            weight = match[1]
            parts = {part: stored.get(f"{weight}.{part}") for part in _PARTS}
            result[weight] = _four_bits(weight, stored.get(weight), match[2], tensor, parts, name)
            for part in (key, *(f"{weight}.{part}" for part in _PARTS)):
                result.pop(part, None)
        elif key.endswith(".SCB"):
            weight = f"{key.removesuffix('SCB')}weight"
            result[weight] = _eight_bits(weight, stored.get(weight), tensor, name)
            for part in (key, f"{key.removesuffix('SCB')}weight_format"):
                result.pop(part, None)
    return result


def _four_bits(
    key: str,
    weight: Stored | None,
    code: str,
    state: Stored,
    parts: Mapping[str, Stored | None],
    name: str,
) -> Origin:
    try:
        shape = tuple(json.loads(state.read().tobytes())["shape"])
        complete = weight is not None and parts["absmax"] is not None and parts["quant_map"] is not None
        sound = complete and weight is not None and -(-math.prod(shape) // 2) == math.prod(weight.shape)
    except (ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        raise _unsound(key, name)
    present = tuple((part, origin) for part, origin in parts.items() if origin is not None)
    arguments = (weight, code, state)
    return Computed(_decoded_4_bits, arguments, present, None, ir.DataType.FLOAT, shape, key)


def _eight_bits(key: str, weight: Stored | None, scales: Stored, name: str) -> Origin:
    if weight is None or len(weight.shape) != 2 or math.prod(scales.shape) != weight.shape[0]:
        raise _unsound(key, name)
    return Computed(_decoded_8_bits, (weight, scales), (), None, ir.DataType.FLOAT, weight.shape, key)


def _unsound(key: str, name: str) -> LatentcError:
    return LatentcError(
        f"'{key}' of '{name}' is said to be quantized by bitsandbytes, and is not as that writes it.",
        "Download it again, or give the model that it was made from: --component " + f"{name}=FOLDER",
    )


def _decoded_4_bits(
    weight: torch.Tensor, code: str, state: torch.Tensor, **parts: torch.Tensor
) -> torch.Tensor:
    from bitsandbytes.functional import QuantState, dequantize_4bit

    saved = {**parts, f"quant_state.bitsandbytes__{code}": state}
    decoded: torch.Tensor = dequantize_4bit(weight, QuantState.from_dict(saved, torch.device("cpu")))
    return decoded.float()


def _decoded_8_bits(weight: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    from bitsandbytes.functional import int8_vectorwise_dequant

    decoded: torch.Tensor = int8_vectorwise_dequant(weight, scales.reshape(-1).float())
    return decoded.float()
