"""How strong each layer of a LoRA is: alpha / rank, multiplied into its matrices before a library sees them.

diffusers 0.42 (`utils/peft_utils.py`, `get_peft_kwargs`) gives peft one alpha, the most frequent one, and others by
names that peft finds no layer of: where alphas or ranks differ from layer to layer (LoRAs that were resized, or have an
alpha for some layers alone), matrices were merged with strengths of others. What a file's own settings say of alphas
(`lora_adapter_metadata`) diffusers reads of files alone, and not of tensors. With the strengths inside, every alpha is
its rank, and peft has nothing left to multiply by.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from artifacts.errors import LatentcError
from compiler.origins.recorded import Recorded
from targets.graph.weights import Stored

_MATRIX = re.compile(r"[._]lora\d*(?:_linear_layer)?[._](A|B|down|up)(?:\.\w+)?\.(?:weight|bias)$")
"""How the key of a matrix of a LoRA ends, by any trainer."""

Settings = Mapping[str, Mapping[str, Any]]
"""peft's settings by component; those of an empty name are of all that has none of its own."""


def settings(file: Path) -> Settings:
    """What the file says of how it was trained: diffusers writes it into the header, peft into a file beside it.

    Empty if neither says anything.

    Raises:
        LatentcError: it cannot be understood.
    """
    with safe_open(file, framework="numpy") as opened:
        text = (opened.metadata() or {}).get("lora_adapter_metadata", "")
    place = f"the header of {file.name} (lora_adapter_metadata)"
    beside = file.with_name("adapter_config.json")
    if not text and file.name == "adapter_model.safetensors" and beside.is_file():
        text, place = beside.read_text(errors="replace"), str(beside)
    if not text:
        return {}
    try:
        flat = json.loads(text)
        result: dict[str, dict[str, Any]] = {}
        for name, value in flat.items():
            component, _, setting = name.rpartition(".")
            result.setdefault(component, {})[setting] = value
    except (ValueError, AttributeError) as error:
        raise LatentcError(
            f"--lora: the settings in {place} are no JSON object.",
            "The file is damaged: train or download it again.",
        ) from error
    return result


def multiplied(state: Mapping[str, Stored], trained: Settings) -> dict[str, torch.Tensor]:
    """The tensors of a LoRA, float32 as in a pipeline in fp32, its upper matrices times alpha / rank.

    Args:
        state: by the file's keys, or such with a component's name before them.
        trained: of `settings`; what has an alpha among the tensors does not ask it.

    Returns:
        Under the same keys; an alpha is its layer's rank.

    Raises:
        LatentcError: an alpha is no number.
    """
    ranks: dict[str, int] = {}
    for key, origin in state.items():
        match = _MATRIX.search(key)
        if match and match[1] in ("A", "down") and len(origin.shape) > 1:
            ranks[key[: match.start()]] = origin.shape[0]
    strengths = {
        layer: _strength(layer, rank, state.get(f"{layer}.alpha"), trained) for layer, rank in ranks.items()
    }
    result: dict[str, torch.Tensor] = {}
    for key, origin in state.items():
        # Products in a narrower type would round once more.
        tensor: torch.Tensor = Recorded(origin)
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        match = _MATRIX.search(key)
        if match and match[1] in ("B", "up"):
            strength = strengths.get(key[: match.start()], 1.0)
            tensor = tensor * strength if strength != 1 else tensor
        elif key.endswith(".alpha") and (layer := key.removesuffix(".alpha")) in ranks:
            tensor = torch.tensor(float(ranks[layer]))  # Some converters want one.
        result[key] = tensor
    return result


def _strength(layer: str, rank: int, alpha: Stored | None, trained: Settings) -> float:
    if alpha is not None:
        values = alpha.read().reshape(-1)
        if values.size != 1:
            raise LatentcError(f"--lora: '{alpha.key}' in {alpha.file} is no number.")
        return float(values[0]) / rank
    component, path = next(
        ((name, layer.removeprefix(f"{name}.")) for name in trained if name and layer.startswith(f"{name}.")),
        ("", layer),
    )
    own = trained.get(component, {})
    if "lora_alpha" not in own:
        return 1.0
    from peft.utils.other import get_pattern_key

    patterns = own.get("alpha_pattern") or {}
    wanted: Any = patterns.get(get_pattern_key(patterns.keys(), path), own["lora_alpha"])
    return float(wanted) / (math.sqrt(rank) if own.get("use_rslora") else rank)


def without_strengths(module: torch.nn.Module, adapter: str) -> None:
    """Makes every alpha of an adapter's layers in peft their rank: their matrices hold what they are multiplied by."""
    for layer in module.modules():
        if adapter in getattr(layer, "scaling", {}):
            tuned: Any = layer
            tuned.lora_alpha[adapter], tuned.use_rslora[adapter] = tuned.r[adapter], False
            tuned.set_scale(adapter, 1.0)
