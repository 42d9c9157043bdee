"""What people call on a diffusers pipeline, called on a loaded artifact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionImg2ImgPipeline,
)

from artifacts.errors import LatentcError, UsageError
from runtimes.changes import on_the_cpu
from runtimes.pipeline import Pipeline
from tests.runtimes import tiny
from tests.runtimes.conftest import Compiled

OPTIONS: dict[str, Any] = {"steps": 1, "size": (16, 16), "seed": 1, "output_type": "np"}


def draw(pipe: Pipeline, **options: Any) -> np.ndarray:
    return np.asarray(pipe.generate("a cat", **OPTIONS, **options).outputs["images"])


HARMLESS: dict[str, Callable[[Any], Any]] = {
    "to a device": lambda pipe: pipe.to("cpu"),
    "to a type": lambda pipe: pipe.to(torch.float16),
    "to both": lambda pipe: pipe.to("cpu", torch.bfloat16),
    "a module to a type": lambda pipe: pipe.unet.to(dtype=torch.float16, memory_format=torch.channels_last),
    "half": lambda pipe: pipe.vae.half(),
    "eval": lambda pipe: pipe.unet.eval().requires_grad_(False),
    "attention slicing": lambda pipe: pipe.enable_attention_slicing(),
    "no attention slicing": lambda pipe: pipe.disable_attention_slicing(),
    "xformers": lambda pipe: pipe.enable_xformers_memory_efficient_attention(),
    "attention slices of a module": lambda pipe: pipe.unet.set_attention_slice("auto"),
    "gradient checkpointing": lambda pipe: pipe.unet.enable_gradient_checkpointing(),
    "no xformers": lambda pipe: pipe.disable_xformers_memory_efficient_attention(),
    "xformers of a module": lambda pipe: pipe.unet.enable_xformers_memory_efficient_attention(),
    "offload": lambda pipe: pipe.enable_model_cpu_offload(),
    "sequential offload": lambda pipe: pipe.enable_sequential_cpu_offload(),
    "group offload": lambda pipe: pipe.enable_group_offload(torch.device("cpu")),
    "group offload of a module": lambda pipe: pipe.unet.enable_group_offload(torch.device("cpu")),
    "VAE slicing": lambda pipe: pipe.vae.enable_slicing(),
    "no VAE tiling": lambda pipe: pipe.vae.disable_tiling(),
    "a compiled module": lambda pipe: pipe.unet.compile(),
    "compiled blocks": lambda pipe: pipe.unet.compile_repeated_blocks(fullgraph=True),
    "the backend of attention": lambda pipe: pipe.unet.set_attention_backend("native"),
    "no FreeU": lambda pipe: pipe.disable_freeu(),
    "no hooks": lambda pipe: pipe.maybe_free_model_hooks(),
    "no safety checker": lambda pipe: setattr(pipe, "safety_checker", None),
    "its own processors": lambda pipe: pipe.unet.set_attn_processor(pipe.unet.attn_processors),
    "bars": lambda pipe: pipe.set_progress_bar_config(disable=True),
}


def test_what_changes_no_picture_is_taken(compiled: Compiled) -> None:
    pipe = compiled.pipeline()
    before = draw(pipe)
    for name, call in HARMLESS.items():
        result = call(pipe)
        assert not isinstance(result, DiffusionPipeline), name  # `pipe = pipe.to(...)` stays the artifact's
        assert np.array_equal(draw(pipe), before), name


def test_a_call_of_compiled_modules_makes_its_tensors_on_the_cpu(compiled: Compiled) -> None:
    """With a module that somebody put there, diffusers' own answer counts; the class is diffusers' own outside."""
    pipe = compiled.pipeline()
    own, asked = type(compiled.reference), []

    def note(called: Any, step: int, *rest: Any) -> dict[str, Any]:
        asked.append((type(called).__name__, isinstance(called, own), called._execution_device))
        return {}

    pipe.generate("a cat", **OPTIONS, callback_on_step_end=note)
    assert asked == [(own.__name__, True, torch.device("cpu"))] and type(pipe.diffusers) is own
    with torch.device("meta"):
        other = type(compiled.reference.vae).from_config(compiled.reference.vae.config)
    with on_the_cpu([pipe.diffusers]):
        assert type(pipe.diffusers) is not own
        pipe.diffusers.vae, pipe.diffusers.unet, pipe.diffusers.text_encoder = other, None, None
        assert pipe.diffusers._execution_device == torch.device("meta")
    assert type(pipe.diffusers) is own


REFUSED: dict[str, Callable[[Any], Any]] = {
    "enable_freeu": lambda pipe: pipe.enable_freeu(0.9, 0.2, 1.2, 1.4),
    "fuse_qkv_projections": lambda pipe: pipe.fuse_qkv_projections(),
    "set_default_attn_processor": lambda pipe: pipe.unet.set_default_attn_processor(),
    "enable_layerwise_casting": lambda pipe: pipe.unet.enable_layerwise_casting(torch.float16),
    "load_lora_weights": lambda pipe: pipe.load_lora_weights("a.safetensors"),
    "unload_lora_weights": lambda pipe: pipe.unload_lora_weights(),
    "fuse_lora": lambda pipe: pipe.fuse_lora(),
    "set_adapters": lambda pipe: pipe.set_adapters("style"),
    "disable_lora": lambda pipe: pipe.disable_lora(),
    "load_ip_adapter": lambda pipe: pipe.load_ip_adapter("a", "b", "c"),
    "set_ip_adapter_scale": lambda pipe: pipe.set_ip_adapter_scale(0.5),
    "resize_token_embeddings": lambda pipe: pipe.text_encoder.resize_token_embeddings(100),
    "load_state_dict": lambda pipe: pipe.vae.load_state_dict({}),
    "apply_": lambda pipe: pipe.unet.conv_in.weight.data.mul_(2),
    "register_forward_hook": lambda pipe: pipe.unet.conv_in.register_forward_hook(lambda *call: call[2] * 2),
}


def test_what_would_change_the_picture_is_refused_at_once(compiled: Compiled) -> None:
    pipe = compiled.pipeline()
    before = draw(pipe)
    for name, call in REFUSED.items():
        with torch.no_grad(), pytest.raises(UsageError, match="is compiled|has no") as caught:
            call(pipe)
        assert "\n" not in caught.value.message and "ompile" in caught.value.hint, name
        assert np.array_equal(draw(pipe), before), name


@pytest.mark.parametrize("scheduler", [EulerDiscreteScheduler, LCMScheduler])
def test_a_scheduler_that_is_set_on_either_pipeline_draws(compiled: Compiled, scheduler: Any) -> None:
    pipe, other = compiled.pipeline(), compiled.pipeline()
    own = draw(pipe)
    pipe.diffusers.scheduler = scheduler.from_config(pipe.diffusers.scheduler.config)
    other.scheduler = scheduler.from_config(other.scheduler.config)
    assert isinstance(pipe.scheduler, scheduler)
    expected = draw(other)
    assert not np.array_equal(expected, own)
    for _ in range(2):  # and at the calls that follow
        assert np.array_equal(draw(pipe), expected)
    draw(pipe, scheduler="DDIMScheduler")  # for one call
    assert np.array_equal(draw(pipe), expected)
    pipe.scheduler = compiled.reference.scheduler
    assert np.array_equal(draw(pipe), own)


def test_a_call_that_no_graph_answers_says_how_to_compile_for_it(compiled: Compiled) -> None:
    pipe = compiled.pipeline()
    options: dict[str, Any] = {"num_inference_steps": 1, "width": 16, "height": 16}
    with pytest.raises(LatentcError, match="cross_attention_kwargs: expected None") as caught:
        pipe("a cat", cross_attention_kwargs={"scale": 0.5}, eta=0.1, guidance_scale=2.0, **options)
    assert caught.value.hint.endswith(
        """latentc compile MODEL OUT --arg cross_attention_kwargs='{"scale": 0.5}'"""
    )
    with pytest.raises(LatentcError, match="expected shape") as caught:
        pipe("a cat", num_images_per_prompt=9, **options)
    assert "--batch" in caught.value.hint


def test_components_have_the_names_that_they_have_in_diffusers(compiled: Compiled) -> None:
    pipe = compiled.pipeline()
    assert pipe.unet is pipe.diffusers.unet and pipe.components == pipe.diffusers.components
    assert (pipe.vae.dtype, pipe.device, pipe.vae_scale_factor) == (torch.float32, torch.device("cpu"), 2)
    embeds, _ = pipe.encode_prompt("a cat", torch.device("cpu"), 1, False)
    assert embeds.shape == (1, tiny.TEXT_LENGTH, 8)
    with pytest.raises(AttributeError, match="no attribute 'controlnet'"):
        _ = pipe.controlnet
    sibling = StableDiffusionImg2ImgPipeline.from_pipe(pipe)
    assert sibling.unet is pipe.unet
    # These go by the very class, which is not ours to be.
    sibling = AutoPipelineForImage2Image.from_pipe(pipe.diffusers)
    assert type(sibling) is StableDiffusionImg2ImgPipeline and sibling.unet is pipe.unet


def test_a_component_that_is_replaced_draws(compiled: Compiled) -> None:
    """By a module of PyTorch's, on either pipeline."""
    pipe = compiled.pipeline()
    own = draw(pipe)

    class Brighter(torch.nn.Module):
        config, dtype, device = pipe.vae.config, torch.float32, torch.device("cpu")

        def decode(self, latents: torch.Tensor, **options: Any) -> Any:
            return (compiled.reference.vae.decode(latents, return_dict=False)[0] + 0.2,)

    pipe.vae = Brighter()
    assert draw(pipe).mean() > own.mean() + 0.05


def test_defaults_that_are_spelled_out_are_defaults(compiled: Compiled) -> None:
    encoder = compiled.pipeline().text_encoder
    ids = torch.randint(0, 60, (1, tiny.TEXT_LENGTH))
    mask = torch.ones_like(ids)
    plain = encoder(ids)[0]
    assert torch.equal(encoder(ids, mask)[0], plain)
    assert torch.equal(encoder(ids, mask, return_dict=True, output_attentions=False).last_hidden_state, plain)
    with pytest.raises(Exception, match="output_attentions"):
        encoder(ids, output_attentions=True)
    mask[0, 3] = 0
    with pytest.raises(Exception, match="attention_mask: expected None"):
        encoder(ids, mask)
