"""What a pipeline is called with in a dry run."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from artifacts.errors import UsageError
from compiler.capture.arguments import Point, arguments, parse_arguments, visual_arguments

POINT = Point(batch=2, height=16, width=24, words=5)


class Plain:
    def __init__(self, **components):
        self.components = components

    def __call__(self, prompt=None, height=None, width=None, guidance_scale=7.5, eta=0.0, image=None): ...


class Required(Plain):
    def __call__(self, image, mask_image, prompt=None): ...


class Odd(Plain):
    def __call__(self, hologram, prompt=None): ...


class Embedded(Plain):
    def __call__(self, image_embeds): ...


def call(pipe, task="text-to-image", point=POINT, extra=(), **given):
    return arguments(pipe, task, point, extra, given)


def test_what_every_pipeline_gets():
    found = call(Plain())
    assert found.keys() == {"prompt", "height", "width"}
    assert (found["height"], found["width"]) == (16, 24)
    assert len(found["prompt"]) == 2 and len(found["prompt"][0].split()) == 5


def test_a_call_for_one_picture_is_first_made_without_lists():
    single = Point(1, 16, 24)
    assert [point.forms for point in (POINT, single)] == [
        ("lists", "one picture", "tensors"),
        ("no lists", "lists", "one picture", "tensors"),
    ]
    shared = call(Required(), point=replace(POINT, form="one picture"))
    assert (
        shared["image"].size == (24, 16) and shared["mask_image"].mode == "L" and len(shared["prompt"]) == 2
    )
    bare = call(Required(), point=replace(single, form="no lists"))
    assert isinstance(bare["prompt"], str) and bare["image"].size == (24, 16)


def test_pictures_may_be_tensors_of_their_own_size():
    pictures = call(Required(), point=replace(POINT, form="tensors"))
    assert pictures["image"].shape == (2, 3, 16, 24) and pictures["mask_image"].shape == (2, 1, 16, 24)
    assert pictures["image"].max() <= 1 and pictures["image"].std() > 0


def test_a_list_of_models_has_a_picture_for_each():
    import torch
    from diffusers import ModelMixin

    class Several(ModelMixin):
        def __init__(self) -> None:
            super().__init__()
            self.nets = torch.nn.ModuleList(torch.nn.Linear(1, 1) for _ in range(4))

    pipe = Required(controlnet=Several())
    assert len(call(pipe)["image"]) == 4
    assert len(call(pipe)["mask_image"]) == 2


def test_long_prompts_have_words_enough():
    assert len(call(Plain(), point=Point(1, 8, 8, words=100))["prompt"][0].split()) == 100


class Binned(Plain):
    def __call__(self, hint, use_resolution_binning=True): ...


def test_the_declared_size_is_drawn_unless_the_pipeline_may_choose():
    assert call(Binned())["use_resolution_binning"] is False
    assert "use_resolution_binning" not in call(Binned(), point=replace(POINT, binned=True))
    assert call(Binned())["hint"].shape == (2, 3, 16, 24)


def test_without_guidance():
    assert call(Plain(), point=Point(1, 8, 8, guided=False))["guidance_scale"] == 1.0
    assert "guidance_scale" not in call(Plain(), point=Point(1, 8, 8))


def test_pictures_where_they_are_required_or_asked_for():
    found = call(Required())
    assert [p.size for p in found["image"]] == [(24, 16)] * 2
    assert [p.mode for p in found["mask_image"]] == ["L"] * 2
    assert "image" not in call(Plain())
    assert call(Plain(), task="image-to-image")["image"][0].size == (24, 16)
    assert call(Plain(), extra=("image",))["image"][0].size == (24, 16)


def test_an_embedding_is_as_wide_as_the_config_says():
    unet = SimpleNamespace(config=SimpleNamespace(encoder_hid_dim=None, cross_attention_dim=48))
    assert call(Embedded(scheduler=object(), unet=unet))["image_embeds"].shape == (2, 48)
    with pytest.raises(UsageError, match="Embedded takes an embedding whose width .* do not tell") as caught:
        call(Embedded())
    assert "--arg image_embeds=zeros(" in caught.value.hint


def test_a_required_argument_that_nobody_knows():
    with pytest.raises(UsageError, match="Odd requires the argument 'hologram'") as caught:
        call(Odd())
    assert "--arg hologram=VALUE" in caught.value.hint
    assert call(Odd(), hologram=3)["hologram"] == 3


def test_what_the_user_gives_wins_and_may_follow_the_batch():
    found = call(Plain(), height=99, eta=0.5, prompt=lambda point: ["x"] * point.batch)
    assert (found["height"], found["eta"]) == (99, 0.5) and found["prompt"] == ["x", "x"]


def test_an_unknown_argument():
    with pytest.raises(UsageError, match=r"Plain has no argument heigth, foo \(--arg\)"):
        call(Plain(), heigth=8, foo=1)


def test_texts_are_json_or_themselves():
    found = parse_arguments(
        {"a": "1", "b": "2.5", "c": "[1, 2]", "d": "a red circle", "e": "false", "f": '"1"'}
    )
    assert found == {"a": 1, "b": 2.5, "c": [1, 2], "d": "a red circle", "e": False, "f": "1"}
    assert type(found["a"]) is int


def test_zeros_are_a_tensor_of_the_calls_batch():
    given = parse_arguments({"hologram": "zeros(7, 3,5)"})
    assert call(Odd(), **given)["hologram"].shape == (2, 3, 5)
    assert call(Odd(), point=Point(1, 8, 8), **given)["hologram"].shape == (1, 3, 5)


@pytest.mark.parametrize("text", ["zeros(a)", "zeros(2,1.5)", "zeros(2;3)"])
def test_zeros_of_no_shape(text):
    with pytest.raises(UsageError, match="expected zeros") as caught:
        parse_arguments({"x": text})
    assert f"--arg x={text}" in caught.value.message


def test_pictures_beside_a_prompt_are_tried_after_none():
    first, second, *_ = visual_arguments(Plain(), "text-to-image", 16, 24)
    assert first == {} and second["image"].size == (24, 16)
    required = next(iter(visual_arguments(Required(), "text-to-image", 16, 24)))
    assert required.keys() == {"image", "mask_image"}


class Conditioned(Plain):
    def __call__(self, prompt=None, image=None, controlnet_conditioning_scale=1.0, ip_adapter_image=None): ...


def test_how_strong_a_condition_is_differs_between_calls():
    found = {words: call(Conditioned(), point=replace(POINT, words=words)) for words in (4, 9)}
    assert [values["controlnet_conditioning_scale"] for values in found.values()] == [1.0, 0.5]
    assert "ip_adapter_image" not in found[4]
    assert call(Conditioned(), controlnet_conditioning_scale=0.7)["controlnet_conditioning_scale"] == 0.7
