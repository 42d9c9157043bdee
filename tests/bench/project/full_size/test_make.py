from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from artifacts.errors import LatentcError
from artifacts.safetensors_header import read_header
from bench.project.full_size import published, random_weights
from bench.project.full_size.make import make, make_configs
from bench.project.full_size.published import PUBLISHED, Architecture, Part

SD15 = PUBLISHED["sd15"]
TINY = Architecture(
    source="none",
    pipeline="StableDiffusionPipeline",
    parts=(
        Part(
            "text_encoder",
            "transformers",
            "CLIPTextModel",
            {
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_attention_heads": 4,
                "num_hidden_layers": 2,
                "vocab_size": 600,
                "eos_token_id": 2,
            },
            key_prefix="text_model.",
        ),
        Part(
            "unet",
            "diffusers",
            "UNet2DConditionModel",
            {
                "block_out_channels": [32, 64],
                "cross_attention_dim": 32,
                "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
                "layers_per_block": 1,
                "norm_num_groups": 8,
                "sample_size": 8,
                "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
            },
        ),
        Part(
            "vae",
            "diffusers",
            "AutoencoderKL",
            {
                "block_out_channels": [32, 32],
                "down_block_types": ["DownEncoderBlock2D"] * 2,
                "norm_num_groups": 8,
                "up_block_types": ["UpDecoderBlock2D"] * 2,
            },
        ),
    ),
    tokenizers=SD15.tokenizers,
    scheduler=SD15.scheduler,
    index=SD15.index,
)


def test_a_made_folder_is_a_pipeline_that_draws(tmp_path: Path) -> None:
    import torch
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    lines: list[str] = []
    make(TINY, tmp_path / "model", tell=lines.append)
    assert [line.split(":")[0] for line in lines] == ["text_encoder", "unet", "vae"]
    unet, loading = UNet2DConditionModel.from_pretrained(tmp_path / "model/unet", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert unet.conv_in.weight.std().item() == pytest.approx(1 / 6, rel=0.1)  # 4 channels, kernel 3 x 3

    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "model", torch_dtype=torch.float32)
    assert pipeline.tokenizer("ab c").input_ids[-1] == len(pipeline.tokenizer) - 1
    pixels = pipeline("a", num_inference_steps=1, output_type="np").images
    assert np.isfinite(pixels).all() and pixels.std() > 0


def test_published_key_names(tmp_path: Path) -> None:
    make(TINY, tmp_path / "model", sparse=True)
    keys = {entry.key for entry in read_header(tmp_path / "model" / "text_encoder" / "model.safetensors")}
    assert "text_model.embeddings.token_embedding.weight" in keys
    from transformers import CLIPTextModel

    _, loading = CLIPTextModel.from_pretrained(tmp_path / "model" / "text_encoder", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]


def test_only_some_weights(tmp_path: Path) -> None:
    make(TINY, tmp_path / "model", only=frozenset({"vae"}))
    assert (tmp_path / "model" / "unet" / "config.json").is_file()
    assert [path.parent.name for path in tmp_path.rglob("*.safetensors")] == ["vae"]
    with pytest.raises(LatentcError, match="no part decoder"):
        make(TINY, tmp_path / "other", only=frozenset({"decoder"}))


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(LatentcError, match="exists already"):
        make(TINY, tmp_path)
    assert not list(tmp_path.iterdir())


def test_shards_hold_what_one_file_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.numpy import load_file

    shapes = {"a.weight": (6, 5), "a.bias": (6,), "norm.weight": (7,), "b.weight": (3, 2, 2)}
    monkeypatch.setattr(random_weights, "BLOCK", 7)
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    assert random_weights.write(tmp_path / "whole", "w", shapes, "fp32", 3, sparse=False) == 4 * (
        30 + 6 + 7 + 12
    )
    whole = load_file(tmp_path / "whole" / "w.safetensors")
    assert not whole["a.bias"].any() and (whole["norm.weight"] == 1).all() and whole["b.weight"].std() > 0
    monkeypatch.setattr(random_weights, "SHARD_BYTES", 150)
    random_weights.write(tmp_path / "parts", "w", shapes, "fp32", 3, sparse=False)
    index = json.loads((tmp_path / "parts" / "w.safetensors.index.json").read_text(encoding="utf-8"))
    assert sorted(set(index["weight_map"].values())) == [
        "w-00001-of-00002.safetensors",
        "w-00002-of-00002.safetensors",
    ]
    assert index["metadata"]["total_size"] == 220
    for key, file in index["weight_map"].items():
        np.testing.assert_array_equal(load_file(tmp_path / "parts" / file)[key], whole[key])


def test_sparse_files_are_whole_and_zero(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    random_weights.write(tmp_path, "w", {"a.weight": (64, 1024), "z.bias": (3,)}, "fp16", 0, sparse=True)
    found = load_file(tmp_path / "w.safetensors")
    assert found["a.weight"].shape == (64, 1024) and found["z.bias"].shape == (3,)
    assert not found["a.weight"].any()


def test_numbers_end_where_they_are_asked_to_and_the_rest_is_a_hole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.numpy import load_file

    monkeypatch.setattr(random_weights, "BLOCK", 8)
    shapes = {"a.weight": (5, 4), "z.weight": (2, 3), "end.weight": (3, 3)}
    random_weights.write(tmp_path, "w", shapes, "fp32", 0, sparse=False, blocks=1)
    written = load_file(tmp_path / "w.safetensors")
    assert {key: int((written[key] != 0).sum()) for key in shapes} == {
        "a.weight": 8, "z.weight": 6, "end.weight": 8,
    }  # fmt: skip


def test_a_large_tensor_is_never_whole_in_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        random_weights.write(tmp_path, "w", {"a.weight": (32, 1 << 20)}, "fp16", 0, sparse=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 48 << 20 < 32 * (1 << 20) * 4


PARAMETERS = {
    ("sd15", "text_encoder"): 123_060_480,
    ("sd15", "unet"): 859_520_964,
    ("sd15", "vae"): 83_653_863,
    ("sdxl", "text_encoder_2"): 694_659_840,
    ("sdxl", "unet"): 2_567_463_684,
    ("flux", "text_encoder_2"): 4_762_310_656,
    ("flux", "transformer"): 11_901_408_320,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flux", "sd15", "sdxl"])
def test_the_published_numbers_of_parameters(name: str, tmp_path: Path) -> None:
    make(PUBLISHED[name], tmp_path / name, sparse=True)
    for (model, part), count in PARAMETERS.items():
        if model == name:
            files = (tmp_path / name / part).glob("*.safetensors")
            entries = [entry for file in files for entry in read_header(file)]
            assert sum(entry.nbytes for entry in entries) == 2 * count, part


# Millions of parameters, as their publishers or papers say; within 2 %.
@pytest.mark.parametrize("name", published.TINY)
def test_tiny_models_are_small_and_named_as_published_ones(name: str, tmp_path: Path) -> None:
    make(published.TINY[name], tmp_path / name, dtype="fp32")
    weights = list((tmp_path / name).rglob("*.safetensors"))
    assert 0 < sum(file.stat().st_size for file in weights) < 16_000_000
    clip = read_header(tmp_path / name / "text_encoder" / "model.safetensors")
    # Earlier versions of transformers, which other projects pin, load no other names.
    assert all(entry.key.startswith("text_model.") for entry in clip)


PUBLISHED_MILLIONS = {
    ("sd21", "unet"): 866,
    ("sdxl-refiner", "unet"): 2_300,
    ("sdxl-controlnet", "controlnet"): 1_250,
    ("sd35-medium", "transformer"): 2_470,
    ("sd35-large", "transformer"): 8_060,
    ("flux-schnell", "transformer"): 11_900,
    ("pixart-sigma", "transformer"): 611,
    ("sana", "transformer"): 1_604,
    ("kandinsky22", "unet"): 1_250,
    ("cascade-prior", "prior"): 3_600,
    ("cascade-decoder", "decoder"): 1_560,
    ("auraflow", "transformer"): 6_850,
    ("lumina2", "transformer"): 2_600,
    ("qwen-image", "transformer"): 20_400,
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "part"), PUBLISHED_MILLIONS)
def test_configs_have_as_many_parameters_as_published(name: str, part: str, tmp_path: Path) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    from compiler.capture.weightless_modules import build
    from compiler.source import open_model

    make_configs(PUBLISHED[name], tmp_path / name)
    (component,) = [c for c in open_model(str(tmp_path / name)).components if c.name == part]
    module = build(component, FakeTensorMode(allow_non_fake_inputs=True))
    count = sum(tensor.numel() for tensor in module.state_dict().values())  # tables are stored, too
    assert count == pytest.approx(PUBLISHED_MILLIONS[name, part] * 1e6, rel=0.02)
