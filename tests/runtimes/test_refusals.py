"""What diffusers' own code refuses is a wrong request, in diffusers' words; what ours fails at is a bug."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from artifacts.errors import LatentcError, UsageError
from runtimes import generation
from runtimes import refusals as module
from runtimes.generate_options import MAX_DEPTH, parse_value
from runtimes.refusals import refusals
from tests.runtimes.conftest import Compiled

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "steps": ({"steps": 1001}, "cannot be larger than"),
    "eta": ({"eta": "x"}, "TypeError: "),
    "text for an object": ({"cross_attention_kwargs": "x"}, "AttributeError: 'str' object"),
    "embeddings beside a prompt": ({"prompt_embeds": [1]}, "Cannot forward both `prompt`"),
    "latents": ({"latents": [1]}, "AttributeError: 'list' object"),
    "a callback": ({"callback_on_step_end": "x"}, "not callable"),
    "timesteps": ({"timesteps": [1, 2]}, "does not support custom timestep schedules"),
    "a generator": ({"generator": 5}, "AttributeError: 'int' object"),
    "guidance": ({"guidance_scale": "high"}, "TypeError: "),
}


@pytest.mark.parametrize(("options", "words"), REFUSED.values(), ids=REFUSED)
def test_what_diffusers_refuses(compiled: Compiled, options: dict[str, Any], words: str) -> None:
    pipeline = compiled.pipeline()
    with pytest.raises(UsageError) as caught:
        pipeline.generate("a", seed=1, size=(32, 32), **{"steps": 1, **options})
    assert caught.value.message.startswith("StableDiffusionPipeline refuses this request: ")
    assert words in caught.value.message and "It was asked for: " in caught.value.hint
    assert pipeline.generate("a", seed=1, steps=1, size=(32, 32)).images  # and it draws as before


def test_the_nearest_sizes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_is_ours", lambda file: False)
    with pytest.raises(UsageError) as caught, refusals(object(), {"width": 50, "height": 30}):
        raise ValueError("`height` and `width` have to be divisible by 8 but are 30 and 50.")
    assert caught.value.hint == "The nearest sizes: 48x24, 56x32"
    assert caught.value.message.endswith(
        "request: `height` and `width` have to be divisible by 8 but are 30 and 50."
    )
    with pytest.raises(UsageError) as caught, refusals(object(), {"width": 50, "height": 30}):
        raise ValueError("`num_frames` - 1 has to be divisible by 4")
    assert caught.value.hint == "It was asked for: width=50, height=30"
    with pytest.raises(UsageError) as caught, refusals(object(), {}):
        raise KeyError
    assert caught.value.message == "object refuses this request: KeyError: it says nothing more."


@pytest.mark.parametrize("name", ["self", "pipeline", "no_such"])
def test_names_that_the_pipeline_does_not_have(compiled: Compiled, name: str) -> None:
    with pytest.raises(UsageError, match=f"has no parameter '{name}'"):
        compiled.pipeline().generate("a", steps=1, size=(32, 32), **{name: 5})


def test_our_own_bugs_stay_bugs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_is_ours", lambda file: file == __file__)
    with pytest.raises(TypeError, match="a bug of ours"), refusals(object(), {}):
        raise TypeError("a bug of ours")


def test_our_own_files_are_known() -> None:
    assert module._is_ours(generation.__file__) and not module._is_ours(np.__file__)


@pytest.mark.parametrize("text", ["a \udcff circle", ["a", "\ud800"]])
def test_text_that_is_not_unicode(compiled: Compiled, text: Any) -> None:
    with pytest.raises(UsageError, match="'prompt' is not Unicode text"):
        compiled.pipeline().generate(text, steps=1, size=(32, 32))


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("[1, 2]", [1, 2]), ("true", True), ("circle", "circle"), ("[", "["), ("", "")],
)
def test_values_are_json_or_text(text: str, value: Any) -> None:
    assert parse_value(text, "--arg x") == value


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 900, 5_000, 100_000])
def test_values_that_are_nested_too_deep(depth: int) -> None:
    parse_value("[" * MAX_DEPTH + "]" * MAX_DEPTH, "--arg x")
    with pytest.raises(UsageError, match="--arg x: .* is nested too deep"):
        parse_value("[" * depth + "]" * depth, "--arg x")


def test_memory_that_ends_while_a_picture_is_made(
    compiled: Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = compiled.pipeline()

    def no_memory(*args: Any, **kwargs: Any) -> Any:
        raise MemoryError("Unable to allocate 8. TiB")

    monkeypatch.setattr(pipeline, "_called", no_memory)
    with pytest.raises(LatentcError, match="there is not enough memory: Unable to allocate 8. TiB"):
        pipeline.generate("a", steps=1, size=(32, 32))
