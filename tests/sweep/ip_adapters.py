"""IP-Adapters for the tiny models of the sweep: files as model sites have them, with an image encoder beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

EMBEDDED = 24
"""Width of the image encoder's embedding."""

HIDDEN = 64
"""Width of its hidden states."""


def image_encoder() -> Any:
    """CLIPVisionModelWithProjection of two layers, for pictures of 32x32."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(3)
    config = CLIPVisionConfig(
        hidden_size=HIDDEN,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=EMBEDDED,
    )
    return CLIPVisionModelWithProjection(config).eval()


def write(unet: Any, file: Path, plus: bool = False, seed: int = 0) -> None:
    """Writes an adapter for `unet`: 4 tokens of the embedding, or (`plus`) a resampler's of the hidden states."""
    import torch
    from safetensors.torch import save_file

    noise = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=noise) / shape[-1] ** 0.5

    width = unet.config.cross_attention_dim
    state = _resampler(width, random) if plus else _projection(width, random)
    for number, (name, processor) in enumerate(unet.attn_processors.items()):
        del processor
        if name.endswith("attn2.processor"):
            attention = unet.get_submodule(name.removesuffix(".processor"))
            for kind in ("k", "v"):
                key = f"ip_adapter.{number}.to_{kind}_ip.weight"
                state[key] = random(attention.to_k.out_features, width)
    save_file(state, file)


def _projection(width: int, random: Any) -> dict[str, Any]:
    return {
        "image_proj.proj.weight": random(4 * width, EMBEDDED),
        "image_proj.proj.bias": random(4 * width),
        "image_proj.norm.weight": random(width) + 1,
        "image_proj.norm.bias": random(width),
    }


def _resampler(width: int, random: Any) -> dict[str, Any]:
    inner = 64
    state = {
        "latents": random(1, 3, inner),
        "proj_in.weight": random(inner, HIDDEN),
        "proj_in.bias": random(inner),
        "proj_out.weight": random(width, inner),
        "proj_out.bias": random(width),
        "norm_out.weight": random(width) + 1,
        "norm_out.bias": random(width),
    }
    for layer in range(4):
        at = f"layers.{layer}"
        for norm in ("norm1", "norm2"):
            state |= {f"{at}.0.{norm}.weight": random(inner) + 1, f"{at}.0.{norm}.bias": random(inner)}
        state |= {
            f"{at}.0.to_q.weight": random(64, inner),
            f"{at}.0.to_kv.weight": random(128, inner),
            f"{at}.0.to_out.weight": random(inner, 64),
            f"{at}.1.0.weight": random(inner) + 1,
            f"{at}.1.0.bias": random(inner),
            f"{at}.1.1.weight": random(4 * inner, inner),
            f"{at}.1.3.weight": random(inner, 4 * inner),
        }
    return {f"image_proj.{name}": tensor for name, tensor in state.items()}


def with_one(pipe: Any, folder: Path) -> Mapping[str, Any]:
    """`pipe` gets an adapter from a file in `folder`; what a compile is told for the same."""
    return _with(pipe, folder, (False,))


def with_two(pipe: Any, folder: Path) -> Mapping[str, Any]:
    """The same with two, the second with a resampler; their strengths are 1 and 0.5."""
    return _with(pipe, folder, (False, True))


def _with(pipe: Any, folder: Path, kinds: tuple[bool, ...]) -> Mapping[str, Any]:
    from artifacts.manifest import IpAdapter

    folder.mkdir(exist_ok=True)
    image_encoder().save_pretrained(folder / "image_encoder")
    files = [folder / f"ip-adapter-{number}.safetensors" for number in range(len(kinds))]
    for number, (file, plus) in enumerate(zip(files, kinds, strict=True)):
        write(pipe.unet, file, plus, seed=number)
    pipe.load_ip_adapter(str(folder), subfolder="", weight_name=[file.name for file in files])
    return {"ip_adapters": tuple(IpAdapter(file=str(file)) for file in files)}
