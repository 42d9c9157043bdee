"""Videos and sounds in what pipelines return."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from runtimes import clips
from runtimes.visuals import has_frames, kind, visuals

VIDEO = np.random.default_rng(0).random((2, 3, 4, 6, 3), dtype=np.float32)


def pil(video: np.ndarray) -> list[list[Image.Image]]:
    return [[Image.fromarray(np.rint(frame * 255).astype(np.uint8)) for frame in clip] for clip in video]


@pytest.mark.parametrize(
    "value",
    [VIDEO, torch.from_numpy(np.moveaxis(VIDEO, -1, 2)), pil(VIDEO), [*VIDEO]],
    ids=["np", "pt", "pil", "list"],
)
def test_frames_of_any_type_are_pictures(value):
    found = clips.videos({"frames": value})
    assert [len(clip) for clip in found] == [3, 3]
    expected = pil(VIDEO)
    assert all(
        np.array_equal(a, b)
        for ours, theirs in zip(found, expected, strict=True)
        for a, b in zip(ours, theirs, strict=True)
    )


def test_one_video_alone_and_no_video():
    assert [len(clip) for clip in clips.videos({"frames": pil(VIDEO)[0]})] == [3]
    assert clips.videos({"images": pil(VIDEO)[0]}) == ()
    assert clips.videos({"frames": torch.zeros(1, 3, 4, 8, 8)}) == ()  # latents


@pytest.mark.parametrize(("shape", "expected"), [((2, 50), (1, 50)), ((2, 2, 50), (2, 50))])
@pytest.mark.parametrize("key", ["audios", "audio"])
def test_sounds_are_channels_of_samples(shape, expected, key):
    samples = torch.rand(shape)
    for value in (samples, samples.numpy(), [*samples]):
        found = clips.sounds({key: value})
        assert [sound.shape for sound in found] == [expected] * 2
        assert all(sound.dtype == np.float32 for sound in found)
        np.testing.assert_array_equal(found[1].reshape(shape[1:]), samples[1])
    assert clips.sounds({"images": []}) == ()


def test_rates_are_what_the_pipeline_says():
    def part(**config: int) -> SimpleNamespace:
        return SimpleNamespace(config=SimpleNamespace(**config))

    pipe = SimpleNamespace(
        components={"vae": part(sample_rate=16000), "vocoder": part(output_sampling_rate=24000)}
    )
    assert clips.sample_rate(pipe) == 24000
    assert (
        clips.sample_rate(SimpleNamespace(components={"unet": part(sample_size=64), "scheduler": object()}))
        is None
    )

    def call(prompt: str, frame_rate: int = 25) -> None: ...

    known = inspect.signature(call).parameters
    assert clips.frame_rate(known, {}) == 25
    assert clips.frame_rate(known, {"frame_rate": 12}) == 12
    assert clips.frame_rate({}, {}) is None


def test_a_strip_has_the_first_and_the_last():
    assert clips.some(3) == [0, 1, 2]
    assert clips.some(1) == [0]
    assert (clips.some(17)[0], clips.some(17)[-1], len(clips.some(17))) == (0, 16, 6)
    frames = [Image.new("RGB", (2, 3), (number, 0, 0)) for number in range(17)]
    row = clips.strip(frames)
    assert row.size == (12, 3)
    assert (row.getpixel((0, 0))[0], row.getpixel((11, 0))[0]) == (0, 16)


def of(**annotations: object) -> dict[str, inspect.Parameter]:
    """Parameters with these annotations."""
    return {
        name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation)
        for name, annotation in annotations.items()
    }


PICTURE = Image.Image | torch.Tensor | list[Image.Image]


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (of(prompt=str, image=PICTURE, mask_image=PICTURE), {"image": "picture", "mask_image": "mask"}),
        (of(video=list[Image.Image], mask=list[PICTURE]), {"video": "video", "mask": "masks"}),
        (of(conditioning_frames=list[PICTURE] | None), {"conditioning_frames": "video"}),
        (of(image=PICTURE, video_latents=torch.Tensor, image_latents=PICTURE), {"image": "picture"}),
        (of(num_frames=int, frames=int, image_guidance_scale=float), {}),
        (
            of(pose_video=list[Image.Image], mask_video=list[Image.Image]),
            {"pose_video": "video", "mask_video": "masks"},
        ),
        (of(hologram=Image.Image), {}),
        (of(last_image=torch.Tensor | None, image_embeds=torch.Tensor), {"last_image": "picture"}),
    ],
)
def test_what_an_argument_holds_is_in_its_name_and_annotation(known, expected):
    assert visuals(known) == expected
    assert {name: kind(name, known) for name in expected} == expected


def test_what_has_frames():
    assert has_frames(of(num_frames=int)) and has_frames(of(video=list[Image.Image]))
    assert not has_frames(of(prompt=str, image=PICTURE))
