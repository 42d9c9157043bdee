"""LoRAs of one component, as peft and diffusers save them and in other names of its layers, are merged into it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from artifacts.errors import LatentcError
from artifacts.manifest import Adapter
from compiler.capture.lora_layers import Layers
from tests.compiler.capture.test_adapters import ATTENTION, TEXT, bound, changed, difference, merge, pipeline

__all__ = ["bound", "pipeline"]  # fixtures


def trained(module: nn.Module, layers: tuple[str, ...], **more: Any) -> Any:
    """A copy of the module in peft with random matrices whose alpha is not their rank."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(5)
    settings = LoraConfig(r=2, lora_alpha=5, target_modules=list(layers), init_lora_weights=False, **more)
    return get_peft_model(copy.deepcopy(module), settings)


@pytest.mark.parametrize(
    ("component", "layers", "more"),
    [
        ("unet", (*ATTENTION, "conv1"), {}),
        ("unet", (*ATTENTION, "conv1"), {"use_dora": True}),
        ("unet", ATTENTION, {"alpha_pattern": {"to_q": 3}}),
        ("text_encoder", TEXT, {"alpha_pattern": {"q_proj": 3}}),
    ],
)
def test_as_peft_saves_it(sd15, bound, pipeline, tmp_path, component, layers, more):
    model = trained(getattr(pipeline, component), layers, **more)
    model.save_pretrained(tmp_path)
    got = merge(sd15, bound, Adapter(file=str(tmp_path / "adapter_model.safetensors")))
    count = sum(".lora_A." in key for key in load_file(tmp_path / "adapter_model.safetensors"))
    assert changed(got, bound) == count > 3
    assert difference(got[component], model.merge_and_unload().state_dict()) < 1e-6


@pytest.mark.parametrize("partial", [False, True])
def test_magnitudes_that_the_libraries_do_not_read_are_not_dropped(sd15, bound, pipeline, tmp_path, partial):
    """transformers loads the matrices of a text encoder's DoRA alone."""
    trained(pipeline.text_encoder, TEXT, use_dora=True).save_pretrained(tmp_path)
    with pytest.raises(LatentcError, match=r"reads only a part .*lora_magnitude_vector") as caught:
        merge(sd15, bound, Adapter(file=str(tmp_path / "adapter_model.safetensors")), partial=partial)
    assert "--lora-partial" not in str(caught.value)


def test_as_diffusers_saves_a_denoisers_own(sd15, bound, pipeline, tmp_path):
    from peft import LoraConfig

    unet = copy.deepcopy(pipeline.unet)
    torch.manual_seed(5)
    settings = LoraConfig(r=2, lora_alpha=5, target_modules=list(ATTENTION), init_lora_weights=False)
    unet.add_adapter(settings, "style")
    unet.save_lora_adapter(tmp_path, "style", weight_name="own.safetensors")
    assert next(iter(load_file(tmp_path / "own.safetensors"))).startswith("down_blocks.")
    got = merge(sd15, bound, Adapter(file=str(tmp_path / "own.safetensors")))
    unet.fuse_lora()
    unet.unload_lora()
    assert changed(got, bound) > 10
    assert difference(got["unet"], unet.state_dict()) < 1e-6


def processors(key: str) -> str:
    """As `save_attn_procs` named attention's layers."""
    path, _, letter = key.removesuffix(".weight").partition(".lora_")
    path, _, layer = path.replace(".to_out.0", ".to_out").rpartition(".")
    return f"{path}.processor.{layer}_lora.{'down' if letter == 'A' else 'up'}.weight"


NAMES = {
    "bare": lambda key: key,
    "attention processors": processors,
    "the name of an adapter": lambda key: f"base_model.model.{key.replace('.weight', '.default.weight')}",
    "a component in peft": lambda key: f"base_model.model.unet.{key}",
    "comfy": lambda key: f"diffusion_model.{key}",
    "down and up": lambda key: key.replace("lora_A", "lora_down").replace("lora_B", "lora_up"),
    "half of them bare": lambda key: key if key.startswith("down") else f"unet.{key}",
}


@pytest.mark.parametrize("names", NAMES)
def test_other_names_of_the_same_layers(sd15, bound, pipeline, tmp_path, names):
    noise, state = torch.Generator().manual_seed(9), {}
    for path, layer in pipeline.unet.named_modules():
        if path.endswith(ATTENTION):
            state[f"{path}.lora_A.weight"] = torch.randn(2, layer.in_features, generator=noise)
            state[f"{path}.lora_B.weight"] = torch.randn(layer.out_features, 2, generator=noise)
    save_file({f"unet.{key}": tensor for key, tensor in state.items()}, tmp_path / "plain.safetensors")
    save_file({NAMES[names](key): tensor for key, tensor in state.items()}, tmp_path / "named.safetensors")
    wanted, got = (
        merge(sd15, bound, Adapter(file=str(tmp_path / f"{name}.safetensors"))) for name in ("plain", "named")
    )
    assert changed(got, bound) == len(state) // 2
    for name, origin in got["unet"].items():
        assert np.array_equal(origin.read(), wanted["unet"][name].read())


def test_two_adapters_in_one_file_are_none(sd15, bound, pipeline, tmp_path):
    layer, module = next((n, m) for n, m in pipeline.unet.named_modules() if n.endswith("attn1.to_q"))
    width = module.in_features
    shapes = {"A": (2, width), "B": (width, 2)}
    state = {
        f"base_model.model.{layer}.lora_{part}.{name}.weight": torch.ones(shape)
        for part, shape in shapes.items()
        for name in ("first", "second")
    }
    save_file(state, tmp_path / "two.safetensors")
    with pytest.raises(LatentcError, match="no tensor of two.safetensors finds a weight"):
        merge(sd15, bound, Adapter(file=str(tmp_path / "two.safetensors")))


def test_a_path_that_two_components_have():
    state = {"0.lora_A.weight": torch.ones(2, 4), "0.lora_B.weight": torch.ones(4, 2)}
    layers = Layers({"one": nn.Sequential(nn.Linear(4, 4)), "two": nn.Sequential(nn.Linear(4, 4))})
    with pytest.raises(LatentcError, match="may be of 'one' or of 'two'"):
        layers.named(state, ("one", "two"))
    # Told by a shape, or by what may be meant.
    other = Layers({"one": nn.Sequential(nn.Linear(4, 6)), "two": nn.Sequential(nn.Linear(4, 4))})
    wanted = {key: f"two.{key}" for key in state}
    assert other.named(state, ("one", "two")) == wanted == layers.named(state, ("two",))
