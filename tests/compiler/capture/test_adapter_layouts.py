"""LoRAs in the layouts that are used for each family of models are merged as diffusers fuses them, weight by weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch._subclasses.fake_tensor import FakeTensorMode

from artifacts.manifest import Adapter, ModelSpec
from compiler.capture.adapters import merged
from compiler.capture.weightless_modules import bind, build
from compiler.source import open_model

State = dict[str, torch.Tensor]
RANK = 2
WEIGHT = 0.8


class Noise:
    """Pairs of low-rank factors in a trainer's names, all of them random."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(7)
        self.state: State = {}

    def random(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator) * 0.3

    def pair(
        self, prefix: str, rows: int, inner: int, kernel: tuple[int, ...] = (), names: str = "lora_A lora_B"
    ) -> None:
        down, up = names.split()
        self.state[f"{prefix}.{down}.weight"] = self.random(RANK, inner, *kernel)
        self.state[f"{prefix}.{up}.weight"] = self.random(rows, RANK, *(1 for _ in kernel))

    def kohya(self, prefix: str, rows: int, inner: int, kernel: tuple[int, ...] = ()) -> None:
        self.pair(prefix, rows, inner, kernel, "lora_down lora_up")
        self.state[f"{prefix}.alpha"] = torch.tensor(1.0)

    def layers(self, module: torch.nn.Module, ends: tuple[str, ...], prefix: str, write: Any) -> None:
        """A pair for each layer of the module whose name ends so."""
        for name, layer in module.named_modules():
            if name.endswith(ends) and isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d)):
                rows, inner, *kernel = layer.weight.shape
                write(prefix + name, rows, inner, tuple(kernel))


def sdxl_of_kohya(pipe: Any) -> State:
    noise = Noise()

    def write(name: str, *shape: Any) -> None:
        head, _, rest = name.partition(".")
        noise.kohya(f"{head}_{rest.replace('.', '_')}", *shape)

    noise.layers(pipe.unet, ("attn1.to_q", "ff.net.2", "conv1", "proj_in"), "lora_unet.", write)
    for number, encoder in ((1, pipe.text_encoder), (2, pipe.text_encoder_2)):
        inside = (
            "" if any(name.startswith("text_model") for name, _ in encoder.named_modules()) else "text_model."
        )
        noise.layers(encoder, ("q_proj", "out_proj", "fc1"), f"lora_te{number}.{inside}", write)
    return noise.state


def sd3_of_peft(pipe: Any) -> State:
    noise = Noise()
    noise.layers(pipe.transformer, ("attn.to_q", "attn.add_k_proj", "ff.net.2"), "transformer.", noise.pair)
    noise.layers(pipe.text_encoder_2, ("q_proj", "v_proj", "out_proj"), "text_encoder_2.", noise.pair)
    return noise.state


def flux_of_kohya(pipe: Any) -> State:
    noise, width = Noise(), 32
    noise.kohya("lora_unet_double_blocks_0_img_attn_qkv", 3 * width, width)
    noise.kohya("lora_unet_double_blocks_0_txt_mlp_0", 4 * width, width)
    noise.kohya("lora_unet_single_blocks_0_linear2", width, 5 * width)
    for part in ("q_proj", "out_proj"):
        noise.kohya(f"lora_te1_text_model_encoder_layers_0_self_attn_{part}", width, width)
    return noise.state


def flux_of_xlabs(pipe: Any) -> State:
    noise, width = Noise(), 32
    for part, rows in (("qkv_lora1", 3), ("proj_lora1", 1), ("qkv_lora2", 3), ("proj_lora2", 1)):
        noise.pair(f"double_blocks.0.processor.{part}", rows * width, width, names="down up")
    for part, rows in (("qkv_lora", 3), ("proj_lora", 1)):
        noise.pair(
            f"single_blocks.0.processor.{part}",
            rows * width,
            width * (5 if rows == 1 else 1),
            names="down up",
        )
    return noise.state


def qwen_of_comfy(pipe: Any) -> State:
    noise = Noise()
    noise.layers(pipe.transformer, ("attn.to_q", "img_mlp.net.2"), "diffusion_model.", noise.kohya)
    return noise.state


def qwen_of_kohya(pipe: Any) -> State:
    noise = Noise()

    def write(name: str, *shape: Any) -> None:
        noise.kohya(f"lora_unet_{name.replace('.', '_')}", *shape)

    noise.layers(pipe.transformer, ("attn.to_v", "attn.add_q_proj"), "", write)
    return noise.state


def wan_of_comfy(pipe: Any) -> State:
    noise = Noise()
    for block in range(2):
        for attention in ("self_attn", "cross_attn"):
            noise.kohya(f"diffusion_model.blocks.{block}.{attention}.q", 24, 24)
        noise.kohya(f"diffusion_model.blocks.{block}.ffn.0", 32, 24)
    return noise.state


def wan_of_musubi(pipe: Any) -> State:
    noise = Noise()
    for block in range(2):
        for attention in ("self_attn", "cross_attn"):
            for part in "qkvo":
                noise.kohya(f"lora_unet_blocks_{block}_{attention}_{part}", 24, 24)
        noise.kohya(f"lora_unet_blocks_{block}_ffn_0", 32, 24)
        noise.kohya(f"lora_unet_blocks_{block}_ffn_2", 24, 32)
    return noise.state


def wan() -> Any:
    from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel

    from tests.sweep import flow, text
    from tests.sweep.weights import seeded

    transformer = seeded(
        WanTransformer3DModel,
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )
    vae = seeded(AutoencoderKLWan, base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    return WanPipeline(
        tokenizer=text.t5_tokenizer(),
        text_encoder=text.umt5(),
        vae=vae,
        scheduler=flow.flow_match(),
        transformer=transformer,
    )


def case(name: str) -> Callable[[], Any]:
    def made() -> Any:
        from tests.sweep.models import CASES

        return CASES[name].build()

    return made


MODELS: Mapping[str, Callable[[], Any]] = {
    "sdxl": case("sdxl"),
    "sd3": case("sd3"),
    "flux": case("flux"),
    "qwen-image": case("qwen-image"),
    "wan": wan,
}


@pytest.mark.parametrize(
    ("model", "write"),
    [
        ("sdxl", sdxl_of_kohya),
        ("sd3", sd3_of_peft),
        ("flux", flux_of_kohya),
        ("flux", flux_of_xlabs),
        ("qwen-image", qwen_of_comfy),
        ("qwen-image", qwen_of_kohya),
        ("wan", wan_of_comfy),
        ("wan", wan_of_musubi),
    ],
)
def test_a_layout_is_merged_as_diffusers_fuses_it(
    model: str, write: Callable[[Any], State], tmp_path: Path, models: dict[str, tuple[Any, Path]]
) -> None:
    pipe, folder = of(models, model, tmp_path)
    state = write(pipe)
    file = tmp_path / "lora.safetensors"
    save_file(state, file)
    got, plain = ours(folder, file)
    pipe.load_lora_weights(str(file), adapter_name="style")
    pipe.set_adapters(["style"], [WEIGHT])
    names = [name for name, loaded in pipe.get_list_adapters().items() if loaded]
    pipe.fuse_lora(components=names, adapter_names=["style"])
    try:
        changed = 0
        for component in plain:
            theirs = {
                name.replace(".base_layer.", "."): tensor
                for name, tensor in getattr(pipe, component).state_dict().items()
            }
            for name, origin in got[component].items():
                if origin != plain[component][name]:
                    wanted = theirs[name].float().numpy()
                    error = np.linalg.norm(origin.read() - wanted) / np.linalg.norm(wanted)
                    assert error < 1e-6, f"{component}.{name}"
                    assert np.linalg.norm(plain[component][name].read() - wanted) > 1e-3 * np.linalg.norm(
                        wanted
                    )
                    changed += 1
        assert changed >= sum(key.endswith((".lora_A.weight", "down.weight")) for key in state)
    finally:
        pipe.unfuse_lora(components=names)
        pipe.unload_lora_weights()


def test_a_hadamard_product_over_layers_that_are_one_in_the_file(tmp_path, models):
    _, folder = of(models, "flux", tmp_path)
    noise, width = Noise(), 32
    a, c = noise.random(3 * width, RANK), noise.random(3 * width, RANK)
    b, d = noise.random(RANK, width), noise.random(RANK, width)
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    state = {
        f"{name}.hada_{part}": t
        for part, t in zip(("w1_a", "w1_b", "w2_a", "w2_b"), (a, b, c, d), strict=True)
    }
    file = tmp_path / "loha.safetensors"
    save_file(state | {f"{name}.alpha": torch.tensor(float(RANK))}, file)
    got, plain = ours(folder, file)
    difference = (a @ b) * (c @ d) * WEIGHT
    for number, layer in enumerate(("to_q", "to_k", "to_v")):
        key = f"transformer_blocks.0.attn.{layer}.weight"
        base = plain["transformer"][key].read()
        wanted = base + difference[number * width : (number + 1) * width].numpy()
        assert np.linalg.norm(got["transformer"][key].read() - wanted) < 1e-6 * np.linalg.norm(wanted)
        assert np.linalg.norm(base - wanted) > 1e-3 * np.linalg.norm(wanted)


def ours(folder: Path, file: Path) -> tuple[Any, Any]:
    """Where each weight comes from, with the file merged and without."""
    source = open_model(ModelSpec(model=str(folder), adapters=(Adapter(file=str(file), weight=WEIGHT),)))
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    plain = {c.name: bind(build(c, mode), c) for c in source.modules}
    return merged(source, plain).weights, plain


def of(models: dict[str, tuple[Any, Path]], name: str, folder: Path) -> tuple[Any, Path]:
    """A model and its folder, built once."""
    if name not in models:
        pipe = MODELS[name]()
        pipe.save_pretrained(folder / "model")
        models[name] = pipe, folder / "model"
    return models[name]


@pytest.fixture(scope="module")
def models() -> dict[str, tuple[Any, Path]]:
    """Models that were built, by name, with their folders."""
    return {}
