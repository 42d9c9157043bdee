"""Modules without weights: what constructors compute is real, but for large tables that checkpoints store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from artifacts.errors import LatentcError
from compiler.capture import weightless_modules
from compiler.model_source import ComponentSource

CONFIG = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "num_layers": 1,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 64,
    "out_channels": 4,
    "pos_embed_max_size": 96,
}
"""A table of 96 * 96 * 16 numbers, stored in checkpoints."""


def component(folder: Path, **config: object) -> ComponentSource:
    text = json.dumps({"_class_name": "SD3Transformer2DModel", **CONFIG, **config})
    (folder / "config.json").write_text(text, encoding="utf-8")
    return ComponentSource("transformer", "diffusers", "SD3Transformer2DModel", folder)


def test_a_large_table_that_is_stored_is_not_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(weightless_modules, "_LARGE_ELEMENTS", 50_000)
    module = weightless_modules.build(component(tmp_path), FakeTensorMode())
    table = module.get_buffer("pos_embed.pos_embed")
    assert isinstance(table, FakeTensor)
    assert table.shape == (1, 96 * 96, 16)
    assert "pos_embed.pos_embed" in weightless_modules.seeded(module)


def test_a_large_table_that_is_not_stored_where_it_should_be_is_missed(tmp_path, monkeypatch):
    monkeypatch.setattr(weightless_modules, "_LARGE_ELEMENTS", 50_000)
    source = component(tmp_path)
    module = weightless_modules.build(source, FakeTensorMode())
    stored = weightless_modules.seeded(module)
    monkeypatch.setattr(
        ComponentSource, "stored", {k: v for k, v in stored.items() if k != "pos_embed.pos_embed"}
    )
    monkeypatch.setattr(ComponentSource, "weight_files", (tmp_path / "model.safetensors",))
    with pytest.raises(
        LatentcError, match="has 1 weights that are not in model.safetensors: pos_embed.pos_embed"
    ):
        weightless_modules.bind(module, source)


@pytest.mark.parametrize(("limit", "config"), [(1 << 24, {}), (300, {"pos_embed_max_size": None})])
def test_other_tables_are_computed(tmp_path, monkeypatch, limit, config):
    # The second one is large, but no checkpoint holds it.
    monkeypatch.setattr(weightless_modules, "_LARGE_ELEMENTS", limit)
    from diffusers import SD3Transformer2DModel

    module = weightless_modules.build(component(tmp_path, **config), FakeTensorMode())
    plain = SD3Transformer2DModel(**{**CONFIG, **config})
    assert torch.equal(module.get_buffer("pos_embed.pos_embed"), plain.get_buffer("pos_embed.pos_embed"))
    assert module.get_parameter("pos_embed.proj.weight").device.type == "cpu"


TEXT = {
    "model_type": "clip_text_model",
    "vocab_size": 16,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 4,
}


def text_encoder(folder: Path, **config: object) -> ComponentSource:
    (folder / "config.json").write_text(json.dumps({**TEXT, **config}), encoding="utf-8")
    return ComponentSource("text_encoder", "transformers", "CLIPTextModel", folder)


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation"])
@pytest.mark.parametrize("kernel", ["someone/kernel@main", "flash_attention_2"])
def test_a_kernel_that_a_configuration_names_is_never_asked_for(tmp_path, monkeypatch, key, kernel):
    import transformers.integrations.hub_kernels as hub

    asked = []
    monkeypatch.setattr(hub, "get_kernel", lambda *args, **kwargs: asked.append(args))
    with pytest.raises(LatentcError, match=rf"config\.json: '{key}' is '{kernel}': an attention kernel"):
        weightless_modules.build(text_encoder(tmp_path, **{key: kernel}), FakeTensorMode())
    assert asked == []


def test_a_source_that_names_pytorchs_own_attention_is_built_as_if_it_did_not(tmp_path):
    for config in ({}, {"_attn_implementation": "eager", "auto_map": {"AutoModel": "model.Model"}}):
        module = weightless_modules.build(text_encoder(tmp_path, **config), FakeTensorMode())
        assert module.config._attn_implementation == "sdpa"
        assert not hasattr(module.config, "auto_map")


@pytest.mark.parametrize("text", ['"text"', "[]", "", '{"hidden_size": -1}', '{"a": 1, "a": 2}'])
def test_a_configuration_that_is_none(tmp_path, text):
    source = text_encoder(tmp_path)
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(LatentcError):
        weightless_modules.build(source, FakeTensorMode())
