"""A pipeline called as diffusers' own is, and `generate` with several prompts."""

from __future__ import annotations

import inspect
import io
import sys
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput

from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import DimRange
from runtimes.batches import Draw, of_calls
from runtimes.pipeline import Pipeline, load
from tests.runtimes import tiny
from tests.runtimes.conftest import Compiled

PROMPTS = ["a red circle", "two blue squares", "a green star"]
SMALL: dict[str, Any] = {"width": 32, "height": 32}


def pixels(image: Any) -> np.ndarray:
    return np.asarray(image)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Screen(io.StringIO):
    """A stream that is a terminal or is none."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`screen(terminal, notebook)`: what stands for stderr."""

    def use(terminal: bool = False, notebook: bool = False) -> Screen:
        stream = Screen(terminal)
        monkeypatch.setattr(sys, "stderr", stream)
        shell = SimpleNamespace(config={"IPKernelApp": {}} if notebook else {})
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
        return stream

    return use


def test_a_call_is_diffusers_own_and_equal_to_generate(compiled: Compiled) -> None:
    pipe = compiled.pipeline()
    output = pipe(PROMPTS[0], num_inference_steps=3, generator=seeded(7), guidance_scale=5.0, **SMALL)
    assert type(output) is StableDiffusionPipelineOutput
    result = pipe.generate(PROMPTS[0], steps=3, seed=7, guidance=5.0, size="32x32")
    assert np.array_equal(pixels(output.images[0]), pixels(result.images[0]))
    compiled.reference.set_progress_bar_config(disable=True)
    theirs = compiled.reference(
        PROMPTS[0], num_inference_steps=3, generator=seeded(7), guidance_scale=5.0, **SMALL
    )
    assert np.array_equal(pixels(output.images[0]), pixels(theirs.images[0]))


def test_a_call_takes_what_diffusers_takes(compiled: Compiled) -> None:
    pipe = compiled.pipeline()
    steps: list[int] = []

    def ended(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        steps.append(step)
        return tensors

    images, unsafe = pipe(
        PROMPTS[:2],
        32,
        48,
        num_inference_steps=2,
        num_images_per_prompt=2,
        output_type="np",
        return_dict=False,
        callback_on_step_end=ended,
    )
    assert images.shape == (4, 32, 48, 3) and unsafe is None and steps == [0, 1]
    with pytest.raises(LatentcError, match="not compiled for this call"):
        pipe(PROMPTS[0], num_inference_steps=1, num_images_per_prompt=9, **SMALL)


def test_the_only_size_of_an_artifact_is_taken_where_none_is_asked_for(compiled: Compiled) -> None:
    only = {n: DimRange(min=48, max=48) for n in ("width", "height")}
    pipe = compiled.pipeline(manifest=compiled.manifest.model_copy(update={"sizes": only}))
    assert pipe(PROMPTS[0], num_inference_steps=1).images[0].size == (48, 48)
    assert pipe(PROMPTS[0], 32, num_inference_steps=1).images[0].size == (48, 32)
    assert pipe(PROMPTS[0], width=32, num_inference_steps=1).images[0].size == (32, 48)


def test_compiled_methods_show_what_they_take(compiled: Compiled) -> None:
    """Some pipelines ask what the autoencoder of a video takes."""
    unet = compiled.pipeline().diffusers.unet
    takes = inspect.signature(unet.forward)
    assert list(takes.parameters)[:3] == ["sample", "timestep", "encoder_hidden_states"]
    assert "self" not in takes.parameters


def test_calls_do_not_depend_on_earlier_ones(compiled: Compiled) -> None:
    pipe = compiled.pipeline()

    def draw() -> np.ndarray:
        return pixels(pipe(PROMPTS[0], num_inference_steps=2, generator=seeded(1), **SMALL).images[0])

    first = draw()
    pipe.generate(PROMPTS[0], steps=3, seed=2, size="32x32", scheduler="EulerDiscreteScheduler")
    assert np.array_equal(draw(), first)
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    other = draw()
    assert not np.array_equal(other, first)
    result = pipe.generate(PROMPTS[0], steps=2, seed=1, size="32x32")
    assert np.array_equal(pixels(result.images[0]), other)
    assert result.parameters["scheduler"] == "EulerDiscreteScheduler"


def test_threads_share_a_pipeline(compiled: Compiled) -> None:
    pipe = compiled.pipeline()
    results: list[Any] = []
    waited: list[bool] = []

    def draw() -> None:
        results.append(pipe.generate(PROMPTS[1], steps=1, seed=2, size="16x16"))

    other = threading.Thread(target=draw)

    def meanwhile(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 0:
            other.start()
            other.join(0.5)
            waited.append(other.is_alive())
        return tensors

    options: dict[str, Any] = {"num_inference_steps": 3, **SMALL}
    output = pipe(PROMPTS[0], generator=seeded(1), callback_on_step_end=meanwhile, **options)
    other.join()
    assert waited == [True]
    alone = compiled.pipeline()
    assert np.array_equal(
        pixels(output.images[0]), pixels(alone(PROMPTS[0], generator=seeded(1), **options).images[0])
    )
    again = alone.generate(PROMPTS[1], steps=1, seed=2, size="16x16")
    assert np.array_equal(pixels(results[0].images[0]), pixels(again.images[0]))


@pytest.mark.parametrize(
    ("terminal", "notebook", "config", "seen"),
    [
        (True, False, {}, True),
        (False, True, {}, True),
        (False, False, {}, False),
        (False, False, {"disable": False}, True),
        (True, False, {"disable": True}, False),
        (False, True, {"disable": True}, False),
    ],
)
def test_bars_are_drawn_where_somebody_sees_them(
    compiled: Compiled, screen: Any, terminal: bool, notebook: bool, config: dict[str, Any], seen: bool
) -> None:
    pipe = compiled.pipeline()
    pipe.set_progress_bar_config(**config)
    pipe.generate(PROMPTS[0], steps=1, size="16x16")  # Its own bars are gone with it.
    stream = screen(terminal, notebook)
    pipe(PROMPTS[0], num_inference_steps=2, **SMALL)
    assert ("2/2" in stream.getvalue()) is seen
    assert pipe.diffusers._progress_bar_config == config


def test_generate_draws_bars_in_a_notebook_only(compiled: Compiled, screen: Any) -> None:
    pipe = compiled.pipeline()
    stream = screen(terminal=True)
    pipe.generate(PROMPTS[0], steps=2, size="16x16")
    assert stream.getvalue() == ""
    stream = screen(notebook=True)
    pipe.generate(PROMPTS[0], steps=2, size="16x16", progress=lambda event: None)
    assert stream.getvalue() == ""
    pipe.generate(PROMPTS[0], steps=2, size="16x16")
    assert "denoising" in stream.getvalue() and "2/2" in stream.getvalue()
    stream = screen(notebook=True)
    pipe.set_progress_bar_config(disable=True)
    pipe.generate(PROMPTS[0], steps=2, size="16x16")
    assert stream.getvalue() == ""


@pytest.mark.slow
def test_a_list_of_prompts_gives_the_pictures_of_each(compiled: Compiled) -> None:
    pool = compiled.pool()
    pipe = compiled.pipeline(pool=pool)
    options: dict[str, Any] = {"steps": 2, "size": "32x32"}
    result = pipe.generate(PROMPTS, ["", "ugly", "blurred"], seed=7, **options)
    assert [c[1]["sample"][1][0] for c in pool.calls if c[0] == "unet"] == [6, 6]
    assert result.seeds == (7, 8, 9) and result.seed == 7
    assert result.parameters["prompt"] == PROMPTS
    alone = [
        pipe.generate(prompt, negative, seed=seed, **options)
        for prompt, negative, seed in zip(PROMPTS, ["", "ugly", "blurred"], result.seeds, strict=True)
    ]
    for picture, one in zip(result.images, alone, strict=True):
        assert np.abs(pixels(picture).astype(int) - pixels(one.images[0])).max() <= 1
    # What an artifact cannot take at once is made by several calls; one text is for all.
    narrow = tiny.manifest(batch=2)
    pool = tiny.TorchGraphs(compiled.reference, narrow)
    few = compiled.pipeline(pool=pool, manifest=narrow).generate(
        PROMPTS, "ugly", seed=[7, 3, 7], images=2, **options
    )
    assert [c[1]["sample"][1][0] for c in pool.calls if c[0] == "unet"] == [4] * 6
    assert few.seeds == (7, 8, 3, 4, 7, 8) and few.parameters["seed"] == [7, 3, 7]
    for i, (prompt, seed) in enumerate(zip(PROMPTS, [7, 3, 7], strict=True)):
        one = pipe.generate(prompt, "ugly", seed=seed, images=2, **options)
        for picture, wanted in zip(few.images[2 * i : 2 * i + 2], one.images, strict=True):
            assert np.abs(pixels(picture).astype(int) - pixels(wanted)).max() <= 1


def test_a_call_of_several_prompts_repeats_the_texts_that_are_for_all(compiled: Compiled) -> None:
    calls: list[dict[str, Any]] = []
    pipe = compiled.pipeline()
    own = pipe._called
    pipe._called = lambda **given: calls.append(given) or own(**given)  # type: ignore[method-assign, func-returns-value]
    pipe.generate(PROMPTS, "ugly", steps=1, size="16x16", seed=1)
    assert calls[0]["prompt"] == PROMPTS and calls[0]["negative_prompt"] == ["ugly"] * 3
    assert "num_images_per_prompt" not in calls[0]
    pipe.generate(PROMPTS[:1], steps=1, size="16x16", seed=1, images=2)
    assert calls[1]["prompt"] == PROMPTS[0] and calls[1]["num_images_per_prompt"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": []}, "holds one text or more"),
        ({"prompt": ["a", 1]}, r"'prompt' is a text or a list \(of each: a text\); found \['a', 1\]"),
        ({"prompt": ["a", "b"], "negative_prompt": ["c"]}, "'negative_prompt' .* found 1 for 2 prompts"),
        ({"prompt": ["a", "b"], "seed": [1]}, "one for each prompt; found 1 for 2"),
        ({"prompt": "a", "seed": [1, 2]}, "one for each prompt; found 2 for 1"),
        ({"prompt": ["a", "b"], "seed": [1, -2]}, r"at least 0 and below 2\*\*63; found -2"),
    ],
)
def test_lists_that_do_not_fit(compiled: Compiled, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compiled.pipeline().generate(**options)


def test_a_pipeline_that_takes_one_prompt_is_given_one() -> None:
    def one(prompt: str, num_images_per_prompt: int = 1) -> None: ...

    def several(prompt: str | list[str], num_images_per_prompt: int = 1) -> None: ...

    images = [Draw(0, 1), Draw(0, 2), Draw(1, 3)]
    four = DimRange(min=1, max=4)
    assert of_calls(images, inspect.signature(one).parameters, four) == [tuple(images[:2]), (images[2],)]
    assert of_calls(images, inspect.signature(several).parameters, four) == [tuple(images)]


def test_from_pretrained_is_load() -> None:
    assert Pipeline.from_pretrained is load
