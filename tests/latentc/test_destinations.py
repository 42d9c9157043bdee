"""What `-o` names is written so that other libraries read it, or refused before any work."""

from __future__ import annotations

import importlib.util
import json
import wave
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from artifacts.errors import LatentcError, UsageError
from latentc.destinations import Destination, write
from latentc.whole_file import whole_file
from runtimes.media import video


def moving(count: int = 5, width: int = 48, height: int = 32) -> tuple[Image.Image, ...]:
    """A smooth picture that drifts: what codecs keep."""
    y, x = np.mgrid[0:height, 0:width] / 16
    waves = [np.stack([np.sin(x + at / 3 + c) + np.cos(y + c) for c in range(3)], -1) for at in range(count)]
    return tuple(Image.fromarray((127.5 + 60 * wave).astype(np.uint8)) for wave in waves)


def made(clips: int = 1, sounds: int = 0, **changes: Any) -> Any:
    frames = tuple(moving() for _ in range(clips))
    fields = {
        "images": tuple(frame for clip in frames for frame in clip),
        "frames": frames,
        "audio": tuple(
            np.stack([np.sin(np.arange(400) / 9), np.cos(np.arange(400) / 9)]) / 2 for _ in range(sounds)
        ),
        "sample_rate": 16000,
        "frame_rate": None,
        "seeds": tuple(range(max(clips, sounds))),
        "outputs": {"frames": 1},
    }
    return SimpleNamespace(**{**fields, **changes})


def put(result: Any, output: str, rate: float | None = None, count: int = 1) -> list[str]:
    to = Destination.of(output, count)
    return [
        str(file.path) for file in write(result, to, 0, lambda draw: {"prompt": "a hat", "seed": draw}, rate)
    ]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("output", ["out.png", "out-{index}.npz", "clip.gif", "", "frames/", "../out/x.wav"])
def test_nothing_is_written_into_an_artifact(here, output):
    (here / "out").mkdir()
    (here / "out" / "latentc.json").write_text("{}")
    with pytest.raises(UsageError, match="lies in the artifact"):
        Destination.of(f"out/{output}", 2 if output else 1)
    with pytest.raises(UsageError, match="lies in the artifact"), whole_file(Path("out", "bom.json")):
        pass
    assert [path.name for path in (here / "out").iterdir()] == ["latentc.json"]
    Destination.of("out.png", 1)


@pytest.mark.parametrize("size", [(48, 32), (36, 20)])  # of which diffusers alone would stretch the second
def test_a_video_plays(size):
    imageio = pytest.importorskip("imageio")
    pytest.importorskip("imageio_ffmpeg")
    frames = moving(6, *size)
    assert put(made(frames=(frames,)), "clip.mp4", rate=12) == ["clip.mp4"]
    told = imageio.get_reader("clip.mp4").get_meta_data()
    assert told["fps"] == 12 and told["codec"] == "h264" and told["size"] == size
    back = imageio.mimread("clip.mp4")
    assert len(back) == 6
    assert all(
        np.abs(ours - np.asarray(theirs, np.float32)).mean() < 4
        for ours, theirs in zip(back, frames, strict=True)
    )
    assert np.abs(np.float32(back[0]) - np.float32(back[5])).mean() > 8  # it moves
    assert len(video(Path("clip.mp4"))) == 6


@pytest.mark.parametrize("name", ["clip.gif", "clip.webp"])
def test_an_animation_moves_at_its_rate(name):
    put(made(frame_rate=20), name)
    with Image.open(name) as opened:
        frames = [(frame.convert("RGB"), frame.info["duration"]) for frame in ImageSequence.Iterator(opened)]
    assert [duration for _, duration in frames] == [50] * 5
    expected = moving()
    assert all(
        np.abs(np.float32(a) - np.float32(b)).mean() < 12 for (a, _), b in zip(frames, expected, strict=True)
    )


def test_a_folder_holds_every_frame_as_it_was():
    assert put(made(), "frames/") == ["frames"]
    for at, frame in enumerate(moving()):
        with Image.open(f"frames/{at}.png") as opened:
            assert np.array_equal(opened, frame)
            assert json.loads(opened.info["latentc"])["prompt"] == "a hat"


def test_several_videos_are_numbered():
    assert put(made(clips=2), "clip.gif", count=2) == ["clip-0.gif", "clip-1.gif"]
    assert put(made(clips=2), "frames/", count=2) == ["frames-0", "frames-1"]


def test_frames_as_pictures():
    assert put(made(), "out.png") == [f"out-{at}.png" for at in range(5)]


def test_a_sound_is_16_bits_of_every_channel():
    put(made(clips=0, sounds=1, images=()), "out.wav")
    with wave.open("out.wav", "rb") as opened:
        assert (opened.getnchannels(), opened.getframerate(), opened.getsampwidth()) == (2, 16000, 2)
        back = np.frombuffer(opened.readframes(400), "<i2").reshape(-1, 2).T / 32767
    assert np.abs(back - made(sounds=1).audio[0]).max() < 1e-4


def test_the_sound_of_a_video_lies_beside_it():
    put(made(sounds=1), "clip.gif")
    with wave.open("clip.wav", "rb") as opened:
        assert opened.getnframes() == 400


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("out.jpg", r"one of \.png, \.mp4, .* found 'out\.jpg'"),
        ("nowhere/a.gif", "does not exist"),
        ("a{x}.gif", "braces"),
    ],
)
def test_a_name_that_cannot_be_is_refused_first(output, says):
    with pytest.raises(UsageError, match=says):
        Destination.of(output, 1)


@pytest.mark.parametrize(
    ("result", "output", "says"),
    [
        (made(), "out.wav", "makes videos, which out.wav cannot hold"),
        (made(frames=()), "clip.gif", "makes pictures, which clip.gif cannot hold"),
        (made(clips=0, sounds=1, images=()), "out.png", "makes sound, which out.png cannot hold"),
        (
            made(clips=0, images=()),
            "out.png",
            r"returned no pictures, videos or sound \(it returned: frames\)",
        ),
        (
            made(clips=0, sounds=1, images=(), sample_rate=None),
            "out.wav",
            "does not say how many samples a second",
        ),
    ],
)
def test_what_the_pipeline_does_not_make(result, output, says):
    with pytest.raises(LatentcError, match=says):
        put(result, output)


def test_a_video_without_its_library_is_refused_first(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LatentcError, match="videos need imageio") as caught:
        Destination.of("clip.mp4", 1)
    assert caught.value.hint == "Run: pip install 'latentc[video]'"


def test_a_file_that_cannot_be_written_leaves_nothing(here):
    (here / "clip.gif").mkdir()
    to = Destination("animation", "clip.gif", 1)
    with pytest.raises(LatentcError, match="clip.gif cannot be written"):
        list(write(made(), to, 0, lambda draw: {}, None))
    assert [path.name for path in here.iterdir()] == ["clip.gif"]


def test_numbers_that_are_no_pictures(here):
    depth = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
    outputs = {"prediction": depth, "latent": torch.ones(2, 4, dtype=torch.bfloat16), "uncertainty": None}
    result = made(0, outputs=outputs, seeds=(3, 4))
    assert put(result, "depth.npz", count=2) == ["depth-0.npz", "depth-1.npz"]
    with np.load("depth-1.npz") as arrays:
        assert set(arrays) == {"prediction", "latent", "parameters"}
        assert np.array_equal(arrays["prediction"], depth[1])
        assert json.loads(str(arrays["parameters"])) == {"prompt": "a hat", "seed": 1}
    with pytest.raises(LatentcError, match="no pictures") as raised:
        put(result, "depth.png")
    assert "out.npz" in raised.value.hint
    with pytest.raises(LatentcError, match="returned no numbers"):
        put(made(0, outputs={"text": ["a"]}, seeds=(1,)), "a.npz")
    assert not list(here.glob("*.png"))
