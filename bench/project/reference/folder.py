"""The reference pipeline on disk, as diffusers lays it out."""

from __future__ import annotations

import json
from pathlib import Path

from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

PREFIX = "text_model."


def save_pipeline(
    folder: Path,
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    scheduler: DDIMScheduler,
) -> None:
    """Write a StableDiffusionPipeline in fp16 safetensors, without safety checker, over `folder`."""
    pipeline = StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=text_encoder.half(),
        tokenizer=tokenizer,
        unet=unet.half(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    finish_tokenizer(folder / "tokenizer")
    finish_text_encoder(folder / "text_encoder")


def finish_tokenizer(folder: Path) -> None:
    """Add vocab.json and merges.txt, which readers other than transformers 5 look for; drop traces of
    how this one was loaded."""
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    fields = {name: value for name, value in settings.items() if name not in ("is_local", "local_files_only")}
    path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def finish_text_encoder(folder: Path) -> None:
    """Name the weights as checkpoints on model hubs do. transformers 5.23 leaves their common prefix out, which older
    releases do not know: they would draw from random weights."""
    file = folder / "model.safetensors"
    tensors = {f"{PREFIX}{key.removeprefix(PREFIX)}": tensor for key, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
