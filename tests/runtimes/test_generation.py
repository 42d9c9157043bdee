"""`generate` of pipelines that are none of diffusers': what it passes them, and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from artifacts.errors import UsageError
from artifacts.manifest import DimRange
from runtimes.generation import Generator


class SamplesLatents:
    """Draws its noise from a generator, and that of its picture's latents from torch's own."""

    def __call__(self, prompt: Any = None, generator: Any = None) -> dict[str, Any]:
        noise = torch.rand(8, 8, 3, generator=generator) / 2 + torch.rand(8, 8, 3) / 2
        return {"images": [Image.fromarray((noise.numpy() * 255).astype(np.uint8))]}


def test_a_seed_is_that_of_noise_from_torchs_own_generator_too() -> None:
    generator = Generator(SamplesLatents(), {})
    torch.manual_seed(1)
    first = generator.generate("a circle", seed=5).images[0]
    after = torch.rand(1)
    second, other = (generator.generate("a circle", seed=seed).images[0] for seed in (5, 6))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1)), (
        "what the caller draws does not follow from what `generate` drew"
    )


class MakesVideos:
    """Gives the length that it was asked for, in the place of a video."""

    def __call__(
        self, video: list[Image.Image] | None = None, num_frames: int = 9, height: int = 8, width: int = 8
    ) -> dict[str, Any]:
        return {"length": num_frames}


CLIPS: dict[str, Any] = {
    "list": [Image.new("RGB", (8, 8))] * 9,
    "two clips": [[Image.new("RGB", (8, 8))] * 9] * 2,
    "array": np.zeros((9, 8, 8, 3), np.float32),
    "tensor of two": torch.zeros(2, 9, 3, 8, 8),
}


def test_a_number_of_frames_is_in_the_compiled_range_whatever_it_is_called() -> None:
    generator = Generator(MakesVideos(), {"frames": DimRange(min=5, max=9), "width": DimRange(min=8, max=16)})
    assert generator.generate(num_frames=5).outputs["length"] == 5
    asked: tuple[dict[str, Any], ...] = ({"frames": 13}, {"num_frames": 13})
    for options in asked:
        with pytest.raises(UsageError, match=r"videos of 5 to 9 frames; found a request for 13\."):
            generator.generate(**options)
    with pytest.raises(UsageError, match=r"a width of 8 to 16; found a width of 24\."):
        generator.generate(width=24)


def test_the_pipelines_own_name_stands_where_an_artifact_has_one_length() -> None:
    generator = Generator(MakesVideos(), {"frames": DimRange(min=9, max=9)})
    assert generator.generate().outputs["length"] == 9
    assert generator.generate(num_frames=9).outputs["length"] == 9
    with pytest.raises(UsageError, match=r"videos of 9 frames; found a request for 5\."):
        generator.generate(num_frames=5)
    with pytest.raises(UsageError, match="given twice"):
        generator.generate(frames=9, num_frames=9)


@pytest.mark.parametrize("form", CLIPS)
def test_a_clip_of_any_form_has_as_many_frames_as_were_compiled(form: str) -> None:
    Generator(MakesVideos(), {"frames": DimRange(min=9, max=9)}).generate(video=CLIPS[form])
    with pytest.raises(UsageError, match=r"found 'video' of 9\."):
        Generator(MakesVideos(), {"frames": DimRange(min=5, max=5)}).generate(video=CLIPS[form])


class Draws:
    """A picture of the seed and the numbers that it is given."""

    def __call__(
        self,
        prompt: str | list[str] | None = None,
        num_inference_steps: int = 2,
        guidance_scale: float = 1.0,
        width: int = 8,
        height: int = 8,
        generator: Any = None,
    ) -> dict[str, Any]:
        numbers = [num_inference_steps, guidance_scale, width, height]
        assert [type(number) for number in numbers] == [int, float, int, int]
        noise = torch.rand(height, width, 3, generator=generator) * 255
        return {"images": [Image.fromarray(noise.numpy().astype(np.uint8))], "numbers": numbers}


@pytest.mark.parametrize("number", [np.int64, np.array, torch.tensor])
def test_whole_numbers_of_other_libraries(number: Any) -> None:
    generator = Generator(Draws(), {})
    plain = generator.generate("a", seed=3, images=2, steps=4, size=(16, 8), guidance=0.5)
    made = generator.generate(
        "a",
        seed=number(3),
        images=number(2),
        steps=number(4),
        size=(number(16), number(8)),
        guidance=np.float32(0.5),
    )
    assert made.seeds == plain.seeds == (3, 4) and made.parameters == plain.parameters
    assert json.loads(json.dumps(made.parameters)) == made.parameters
    assert all(map(np.array_equal, map(np.asarray, made.images), map(np.asarray, plain.images)))
    several = generator.generate(["a", "b"], seed=np.array([5, 7]), guidance=torch.tensor(1.0))
    assert several.seeds == (5, 7) and several.parameters["seed"] == [5, 7]


@pytest.mark.parametrize(
    "options",
    [
        {"seed": 1.5},
        {"seed": "x"},
        {"seed": torch.tensor(1.5)},
        {"seed": [1, "a"]},
        {"images": "2"},
        {"images": 2.0},
        {"steps": 2.5},
        {"steps": True},
        {"frames": "9"},
        {"size": 32.0},
        {"guidance": "high"},
        {"prompt": 5},
        {"weighted": "yes"},
        {"progress": 5},
        {"cancel": 5},
    ],
    ids=str,
)
def test_values_of_other_types_are_usage_errors(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(UsageError, match=f"'{name}' is .*; found "):
        Generator(Draws(), {}).generate(**options)
