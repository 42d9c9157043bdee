"""Videos and sounds as files: what `generate -o` writes of tiny pipelines is read by other libraries, and PyTorch's."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from artifacts.manifest import DimRange
from compiler.build import compile
from compiler.capture.declared_sizes import SizeRange
from compiler.compile_request import CompileRequest
from latentc.cli import main
from tests.sweep import sounds, video

pytestmark = pytest.mark.slow

SIDE, FRAMES, STEPS, SEED = 32, 5, 2, 3
LENGTHS = DimRange(min=3, max=6)
PROMPT = "a large red circle"
SECONDS = 16.0


def saved(pipe: Any, folder: Path) -> Any:
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(folder / "model")
    return pipe


def made(folder: Path, **request: Any) -> Any:
    out = folder / "out"
    options = {"target": "onnxruntime", "precision": "fp32", "check": "none"}
    return compile(CompileRequest(model=str(folder / "model"), out=out, **options, **request))


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["generate", *map(str, arguments)])
    return int(str(stop.value.code))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small take PyTorch ten times as long on several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_clip_that_plays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    imageio = pytest.importorskip("imageio")
    pytest.importorskip("imageio_ffmpeg")
    pipe = saved(video.animatediff(), tmp_path)
    side = DimRange(min=SIDE, max=SIDE)
    artifact = made(tmp_path, size=SizeRange(side, side), frames=LENGTHS)
    assert artifact.manifest.sizes["frames"] == LENGTHS
    options = (tmp_path / "out", PROMPT, "--steps", STEPS, "--seed", SEED, "--frames", FRAMES)
    expected = pipe(
        PROMPT,
        num_frames=FRAMES,
        height=SIDE,
        width=SIDE,
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(SEED),
        output_type="np",
    ).frames[0]
    assert command(*options, "-o", f"{tmp_path}/{FRAMES}/") == 0
    files = [tmp_path / f"{FRAMES}" / f"{at}.png" for at in range(FRAMES)]
    drawn = np.stack([np.asarray(Image.open(file), np.float32) for file in files])
    assert np.abs(drawn / 255 - expected).max() < 2 / 255
    assert command(*options, "--fps", 4, "-o", tmp_path / "clip.mp4") == 0
    clip = imageio.get_reader(tmp_path / "clip.mp4").get_meta_data()
    assert (clip["codec"], clip["fps"], clip["size"]) == ("h264", 4, (SIDE, SIDE))
    played = np.stack(imageio.mimread(tmp_path / "clip.mp4")).astype(np.float32)
    assert played.shape == drawn.shape
    # Noise is what codecs keep least of: each frame is still nearest to its own.
    apart = np.abs(played[:, None] - drawn[None]).mean(axis=(2, 3, 4))
    assert apart.argmin(axis=1).tolist() == list(range(FRAMES))
    assert command(*options, "--frames", 7, "-o", tmp_path / "long.mp4") == 2
    assert "compiled for videos of 3 to 6 frames" in capsys.readouterr().err


def test_a_sound_that_plays(tmp_path: Path) -> None:
    pipe = saved(sounds.stable_audio(), tmp_path)
    expected = pipe(
        PROMPT,
        audio_end_in_s=SECONDS,
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(SEED),
        output_type="np",
    ).audios[0]
    made(tmp_path)
    options = ("--steps", STEPS, "--seed", SEED, "--arg", f"audio_end_in_s={SECONDS}")
    assert command(tmp_path / "out", PROMPT, *options, "-o", tmp_path / "out.wav") == 0
    with wave.open(str(tmp_path / "out.wav"), "rb") as opened:
        assert (opened.getnchannels(), opened.getframerate()) == (2, pipe.vae.config.sampling_rate)
        samples = np.frombuffer(opened.readframes(1 << 20), "<i2").reshape(-1, 2).T / 32767
    assert samples.shape == expected.shape
    assert np.abs(samples - expected.clip(-1, 1)).max() < 2e-3
