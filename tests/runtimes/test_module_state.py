"""A shell answers calls only while what is set on it is what was set when it was compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from artifacts.call_trees import AnyLeaf, ConstLeaf, ObjectNode, Tree
from artifacts.errors import LatentcError, UsageError
from runtimes.meter import Meter
from runtimes.shell import build_shell, undone_on_failure
from runtimes.trusted_classes import class_path
from tests.runtimes import tiny
from tests.runtimes.conftest import Compiled

ATTENTION = "mid_block.attentions.0.transformer_blocks.0.attn1"
PLAIN = ObjectNode(class_path=class_path(AttnProcessor), items={})


def shell(compiled: Compiled, name: str = "unet", state: dict[str, Tree] | None = None) -> Any:
    record = next(c for c in compiled.manifest.components if c.name == name)
    methods = tuple(m.model_copy(update={"state": state or {}}) for m in record.methods)
    meter = Meter()
    changed = record.model_copy(update={"methods": methods})
    return build_shell(changed, compiled.root, compiled.pool(), lambda: meter)


def draw(unet: Any) -> Any:
    return unet(torch.zeros(2, 4, 16, 16), 7, torch.zeros(2, tiny.TEXT_LENGTH, 8), return_dict=False)[0]


def attention(unet: Any) -> Any:
    return unet.get_submodule(ATTENTION)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "a processor": lambda unet: setattr(attention(unet), "processor", AttnProcessor()),
    "all processors": lambda unet: unet.set_attn_processor(AttnProcessor()),
    "a method that sets attributes": lambda unet: unet.enable_freeu(0.9, 0.2, 1.2, 1.4),
    "a method that fuses projections": lambda unet: unet.fuse_qkv_projections(),
    "an attribute": lambda unet: setattr(attention(unet), "scale", 0.5),
    "no attribute": lambda unet: delattr(attention(unet), "scale"),
    "training": lambda unet: unet.train(),
    "a module": lambda unet: setattr(attention(unet), "to_q", torch.nn.Linear(16, 16)),
    "a module in a list": lambda unet: attention(unet).to_out.append(torch.nn.Identity()),
    "a parameter": lambda unet: setattr(unet.conv_in, "bias", torch.nn.Parameter(torch.zeros(8))),
    "a weight in place": lambda unet: attention(unet).to_q.weight.add_(1),
    "a weight's data": lambda unet: setattr(attention(unet).to_q.weight, "data", torch.zeros(16, 16)),
    "a weight's data in place": lambda unet: attention(unet).to_q.weight.data.mul_(2),
    "a part of a weight": lambda unet: attention(unet).to_q.weight[:1].zero_(),
    "an entry of a weight": lambda unet: attention(unet).to_q.weight.__setitem__(0, 1.0),
    "other weights": lambda unet: unet.load_state_dict({}),
    "a hook": lambda unet: attention(unet).register_forward_hook(lambda module, args, out: out),
    "a class": lambda unet: setattr(
        attention(unet), "__class__", type("Attention", (type(attention(unet)),), {})
    ),
    "an adapter": lambda unet: unet.unload_lora(),
    "an entry of the config": lambda unet: unet.register_to_config(sample_size=64),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_was_not_set_at_the_compile_is_refused_by_the_call_that_sets_it(
    compiled: Compiled, name: str
) -> None:
    unet = shell(compiled)
    with torch.no_grad(), pytest.raises(UsageError, match="'unet' is compiled") as caught:
        CHANGES[name](unet)
    assert "\n" not in caught.value.message
    assert "--lora FILE" in caught.value.hint
    draw(unet)  # Nothing of it is left.


UNSEEN: dict[str, Callable[[Any], Any]] = {
    "an attribute of a processor": lambda unet: setattr(attention(unet).processor, "strength", 2),
}
"""What is no call of a module is refused when the component is called next."""


@pytest.mark.parametrize("name", UNSEEN)
def test_what_no_module_sees_is_refused_at_the_next_call(compiled: Compiled, name: str) -> None:
    unet = shell(compiled)
    draw(unet)
    UNSEEN[name](unet)
    for _ in range(2):  # and not at the first call alone
        with pytest.raises(LatentcError, match=r"unet.forward is not compiled for this call. \w") as caught:
            draw(unet)
    assert "--arg" in caught.value.hint


def test_what_was_not_there_when_a_module_was_built_is_called_nothing(compiled: Compiled) -> None:
    with pytest.raises(UsageError, match=r"expected nothing \(as it was built\), found \d") as caught:
        compiled.pipeline().enable_freeu(0.9, 0.2, 1.2, 1.4)
    assert "bsent" not in caught.value.message


def test_the_same_again_in_other_objects_is_taken(compiled: Compiled) -> None:
    unet = shell(compiled)
    with pytest.raises(
        UsageError,
        match=r"set_attn_processor\(\): .*expected an? AttnProcessor2_0 \(as it was built\), found an? AttnP",
    ):
        unet.set_attn_processor(AttnProcessor())
    unet.set_attn_processor(unet.attn_processors)
    unet.set_attn_processor(AttnProcessor2_0())
    draw(unet)


def test_a_pipeline_refuses_what_would_not_be_in_its_picture(compiled: Compiled) -> None:
    pipe = compiled.pipeline().diffusers
    calls: dict[str, Callable[[], Any]] = {
        "load_lora_weights": lambda: pipe.load_lora_weights("nobody/nothing"),
        "unload_lora_weights": lambda: pipe.unload_lora_weights(),
        "fuse_lora": lambda: pipe.fuse_lora(),
        "load_ip_adapter": lambda: pipe.load_ip_adapter("nobody/nothing", "models", "a.safetensors"),
        "enable_freeu": lambda: pipe.enable_freeu(0.9, 0.2, 1.2, 1.4),
        "fuse_qkv_projections": lambda: pipe.fuse_qkv_projections(),
    }
    for name, call in calls.items():
        with pytest.raises(UsageError, match=rf"compiled.*{name}\(\)") as caught:
            call()
        assert "\n" not in caught.value.message, name
    pipe.vae.enable_slicing()  # A picture at a time: sessions have a plan of their own, and no number changes.
    assert pipe.maybe_convert_prompt("a cat", pipe.tokenizer) == "a cat"


def test_a_pipelines_own_call_may_set_what_it_sets_back(compiled: Compiled) -> None:
    unet = shell(compiled)
    with undone_on_failure([unet]):
        unet.set_attn_processor(AttnProcessor())
        unet.set_attn_processor(AttnProcessor2_0())
        draw(unet)


def test_what_was_set_at_the_compile_is_required(compiled: Compiled) -> None:
    unet = shell(compiled, state={f"{ATTENTION}.processor": PLAIN})
    with pytest.raises(
        LatentcError, match=r"processor: expected an? AttnProcessor, found an? AttnProcessor2_0"
    ):
        draw(unet)
    attention(unet).processor = AttnProcessor()
    draw(unet)
    attention(unet).processor.strength = 1
    with pytest.raises(LatentcError, match="processor: expected"):
        draw(unet)


def test_what_the_graph_does_not_depend_on_may_be_set_or_not(compiled: Compiled) -> None:
    unet = shell(compiled, state={"mid_block.note": AnyLeaf()})
    draw(unet)
    unet.mid_block.note = object()
    draw(unet)


def test_one_entry_of_a_config(compiled: Compiled) -> None:
    unet = shell(compiled, state={"_internal_dict.sample_size": ConstLeaf(value=64)})
    with pytest.raises(LatentcError, match="sample_size: expected 64, found 16"):
        draw(unet)
    unet._internal_dict = type(unet.config)({**unet.config, "sample_size": 64})
    draw(unet)


def test_what_changes_no_result_is_let_pass(compiled: Compiled) -> None:
    unet = shell(compiled)
    unet.set_attention_slice("auto")
    unet.enable_gradient_checkpointing()
    unet.register_forward_pre_hook(lambda module, args: None)  # around the compiled call, where it works
    unet._hook_of_another_library = object()
    draw(unet)
    vae = shell(compiled, "vae")
    vae.enable_slicing()
    vae.decode(torch.zeros(1, 4, 16, 16))


def test_a_call_that_fails_leaves_nothing_set(compiled: Compiled) -> None:
    unet = shell(compiled)
    with pytest.raises(LatentcError, match="for this call"), undone_on_failure([unet]):
        unet.set_attn_processor(AttnProcessor())
        unet.enable_freeu(0.9, 0.2, 1.2, 1.4)
        draw(unet)
    draw(unet)
