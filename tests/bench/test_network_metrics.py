"""Measures that need trained networks: with a tiny random CLIP, and without weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from bench import network_metrics as learned
from bench.record import Measured


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of random numbers, as transformers lays it out."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    text = {**small, "vocab_size": len(tokens), "max_position_embeddings": 16, "eos_token_id": 1}
    config = CLIPConfig(
        text_config=text, vision_config={**small, "image_size": 32, "patch_size": 8}, projection_dim=8
    )
    CLIPModel(config).save_pretrained(folder)
    sides = {"height": 32, "width": 32}
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=sides)
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def test_the_clip_score_is_of_the_model_that_is_named(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(learned.CLIP_VARIABLE, str(clip))
    found = learned.clip_score([[picture(0), picture(1)], [picture(2)]], ["a cat", "a dog"])
    assert found.value is not None, found.reason
    assert -100 <= found.value <= 100 and found.worst is not None and found.worst <= found.value
    assert str(clip) in found.reason
    other = learned.clip_score([[picture(0), picture(1)], [picture(2)]], ["a dog", "a cat"])
    assert other.value is not None and other.value != found.value


def test_a_model_that_does_not_load_is_a_reason_and_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(learned.CLIP_VARIABLE, str(tmp_path))
    found = learned.clip_score([[picture(0)]], ["a"])
    assert found.value is None and found.reason.startswith("it failed: ")


@pytest.mark.parametrize(
    ("key", "value"), [("attn_implementation", "someone/kernel"), ("custom_name_or_path", "someone/model")]
)
def test_the_judge_is_looked_through_as_a_model_is(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: str
) -> None:
    folder = tmp_path / "clip"
    shutil.copytree(clip, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: value}))
    monkeypatch.setenv(learned.CLIP_VARIABLE, str(folder))
    score = learned.clip_score([[picture(0)]], ["a"])
    assert score.value is None and f"'{key}' is '{value}'" in score.reason


def test_what_is_not_on_disk_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(learned.CLIP_VARIABLE, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args: None)
    pair = (picture(0), picture(1))
    assert "is not on disk" in learned.clip_score([[picture(0)]], ["a"]).reason
    for packages in (True, False):
        monkeypatch.setattr(learned.importlib.util, "find_spec", lambda name, found=packages: found or None)
        for found in (learned.lpips([[pair]]), learned.fid([pair[0]], [pair[1]])):
            assert found.value is None
            assert ("is not in torch's cache" if packages else "it needs ") in found.reason


def test_the_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    seen = {}

    def take() -> Measured:
        seen.update({name: os.environ[name] for name in ("HF_HUB_OFFLINE", "TORCH_FORCE_WEIGHTS_ONLY_LOAD")})
        raise RuntimeError("no")

    assert learned._guarded(take).reason == "it failed: RuntimeError: no"
    assert seen == {"HF_HUB_OFFLINE": "1", "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}
    assert os.environ["HF_HUB_OFFLINE"] == "0" and "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
