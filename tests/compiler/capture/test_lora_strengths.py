"""Each layer of a LoRA is merged with its own alpha / rank: W + alpha / rank * up @ down, layer by layer."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from artifacts.errors import LatentcError
from artifacts.manifest import Adapter
from tests.compiler.capture.test_adapters import bound, merge, pipeline

__all__ = ["bound", "pipeline"]  # fixtures

LAYERS = {
    "unet": ("to_q", "to_v", "to_out.0", "proj_in", "conv1", "ff.net.2"),
    "text_encoder": ("q_proj", "v_proj", "out_proj", "fc1"),
}
Layer = tuple[str, str, torch.Tensor, torch.Tensor]
"""Component, name, lower and upper matrix."""


def layers(pipeline: Any, ranks: tuple[int, ...] = (2, 1, 3, 2)) -> list[Layer]:
    """Random matrices for each, of ranks in turn."""
    noise = torch.Generator().manual_seed(11)
    result = []
    for component, ends in LAYERS.items():
        for name, layer in getattr(pipeline, component).named_modules():
            if name.endswith(ends) and isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d)):
                rank = ranks[len(result) % len(ranks)]
                rows, inner, *kernel = layer.weight.shape
                down = torch.randn(rank, inner, *kernel, generator=noise) * 0.3
                up = torch.randn(rows, rank, *(1 for _ in kernel), generator=noise) * 0.3
                result.append((component, name, down, up))
    return result


def kohya(component: str, name: str) -> str:
    if component == "unet":
        return f"lora_unet_{name.replace('.', '_')}"
    inside = name if name.startswith("text_model") else f"text_model.{name}"
    return f"lora_te_{inside.replace('.', '_')}"


def check(got: Any, plain: Any, made: list[Layer], strengths: list[float]) -> None:
    """Every weight is what one line of arithmetic makes of it; those without matrices are as they were."""
    wanted = {}
    for (component, name, down, up), strength in zip(made, strengths, strict=True):
        base = torch.from_numpy(plain[component][f"{name}.weight"].read().astype(np.float32))
        product = (up.flatten(1) @ down.flatten(1)).reshape(base.shape)
        wanted[component, f"{name}.weight"] = base + strength * product
    for component in LAYERS:
        for name, origin in got[component].items():
            if (component, name) not in wanted:
                assert origin == plain[component][name]
                continue
            expected = wanted[component, name].numpy()
            assert np.linalg.norm(origin.read() - expected) < 1e-6 * np.linalg.norm(expected), name


def saved(file: Path, state: dict[str, torch.Tensor], settings: Any = None) -> str:
    metadata = None if settings is None else {"lora_adapter_metadata": json.dumps(settings)}
    save_file(state, file, metadata=metadata)
    return str(file)


@pytest.mark.parametrize("ranks", [(2,), (2, 1, 3, 2)], ids=["one rank", "ranks"])
@pytest.mark.parametrize("without", [0, 3], ids=["alphas", "some alphas"])
def test_alphas_and_ranks_of_each_layer(sd15, bound, pipeline, tmp_path, ranks, without):
    made = layers(pipeline, ranks)
    state, strengths = {}, []
    for number, (component, name, down, up) in enumerate(made):
        key, alpha = kohya(component, name), (0.5, 2.0, 2.0, 7.0)[number % 4]
        state |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
        if without and number % without == 0:
            alpha = float(down.shape[0])
        else:
            state[f"{key}.alpha"] = torch.tensor(alpha)
        strengths.append(0.8 * alpha / down.shape[0])
    adapter = Adapter(file=saved(tmp_path / "resized.safetensors", state), weight=0.8)
    check(merge(sd15, bound, adapter), bound, made, strengths)


@pytest.mark.parametrize("more", [{}, {"use_rslora": True}, {"alpha_pattern": {"attn1.to_q": 9.0}}])
def test_alphas_of_the_settings_in_the_header(sd15, bound, pipeline, tmp_path, more):
    made = layers(pipeline)
    state = {}
    for component, name, down, up in made:
        state |= {f"{component}.{name}.lora_A.weight": down, f"{component}.{name}.lora_B.weight": up}
    settings = {"unet.r": 2, "unet.lora_alpha": 8} | {f"unet.{name}": value for name, value in more.items()}
    strengths = []
    for component, name, down, _ in made:
        rank = down.shape[0]
        alpha = 9.0 if "alpha_pattern" in more and name.endswith("attn1.to_q") else 8.0
        by = math.sqrt(rank) if "use_rslora" in more else rank
        strengths.append(alpha / by if component == "unet" else 1.0)
    file = saved(tmp_path / "trained.safetensors", state, settings)
    check(merge(sd15, bound, Adapter(file=file)), bound, made, strengths)


def test_settings_that_are_no_json(sd15, bound, pipeline, tmp_path):
    file = tmp_path / "bad.safetensors"
    save_file(
        {"unet.conv_in.lora_A.weight": torch.ones(2, 4)}, file, metadata={"lora_adapter_metadata": "[1"}
    )
    with pytest.raises(LatentcError, match="settings in the header of bad.safetensors"):
        merge(sd15, bound, Adapter(file=str(file)))
