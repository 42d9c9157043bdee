"""The shipped adapters: small, in the layouts that others read, and they do what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.project.reference.adapter_judge import OWN
from bench.project.reference.adapter_scenes import TOKEN
from bench.project.reference.trained_adapters import ADAPTERS, ADAPTERS_DIR

LORAS = [adapter for adapter in ADAPTERS if adapter.kind == "lora"]


def weights() -> list[Path]:
    return [path for path in ADAPTERS_DIR.rglob("*") if path.suffix == ".safetensors"]


def test_the_adapters_are_small_enough_for_git() -> None:
    assert sum(path.stat().st_size for path in ADAPTERS_DIR.rglob("*") if path.is_file()) <= 2_000_000


def test_weights_are_fp16_safetensors_and_nothing_is_pickled() -> None:
    from safetensors import safe_open

    assert len(weights()) == len(ADAPTERS) and all(adapter.path.exists() for adapter in ADAPTERS)
    assert {path.suffix for path in ADAPTERS_DIR.rglob("*") if path.is_file()} == {".safetensors", ".json"}
    for path in weights():
        with safe_open(path, framework="np") as tensors:
            types = {tensors.get_slice(key).get_dtype() for key in tensors.keys()}  # noqa: SIM118
        assert types == {"F16"}, path


@pytest.mark.parametrize("adapter", LORAS, ids=lambda adapter: adapter.name)
def test_loras_are_in_kohyas_layout(adapter) -> None:
    from safetensors import safe_open

    with safe_open(adapter.path, framework="np") as tensors:
        names = {key.rsplit(".", 1)[0] if key.endswith("alpha") else key for key in tensors.keys()}  # noqa: SIM118
    layers = {name.partition(".")[0] for name in names}
    assert layers and all(layer.startswith("lora_unet_") for layer in layers)
    parts = {"", ".lora_down.weight", ".lora_up.weight"}
    assert names == {layer + part for layer in layers for part in parts}


def test_the_embedding_names_its_token_and_is_one_vector() -> None:
    from safetensors.numpy import load_file

    (embedding,) = (adapter for adapter in ADAPTERS if adapter.kind == "embedding")
    tensors = load_file(embedding.path)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {TOKEN: (1, 128)}


def test_the_controlnet_names_no_path_of_the_machine_it_was_trained_on() -> None:
    (controlnet,) = (adapter for adapter in ADAPTERS if adapter.kind == "controlnet")
    config = json.loads((controlnet.path / "config.json").read_text(encoding="utf-8"))
    assert not config.get("_name_or_path", "").startswith("/")


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.name)
def test_they_do_what_they_say(adapter) -> None:
    """In PyTorch, a few prompts; `bench.project.adapter_evidence` says what artifacts reach on many."""
    from bench.project.reference.adapter_pictures import Settings, in_pytorch

    requests, settings = adapter.requests(5), Settings(steps=8)
    shares = adapter.shares(in_pytorch(adapter, requests, settings), requests)
    assert shares[OWN] >= 0.8, shares
    without = adapter.shares(in_pytorch(adapter, requests[:3], settings, switched_on=False), requests[:3])
    assert without[OWN] <= 1 / 3
