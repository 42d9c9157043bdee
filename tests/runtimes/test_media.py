"""What is given as a file: each kind is read, and a file that is not what its name says is a usage error."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import random
import struct
import warnings
import wave
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artifacts.errors import LatentcError, UsageError
from runtimes import media

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def frames(size: tuple[int, int] = (16, 8)) -> list[Image.Image]:
    return [Image.new("RGB", size, colour) for colour in COLOURS]


def written(path: Path, samples: np.ndarray, width: int) -> Path:
    with wave.open(str(path), "wb") as opened:
        opened.setnchannels(samples.shape[0])
        opened.setsampwidth(width)
        opened.setframerate(8000)
        if width == 1:
            data = (samples.T * 127 + 128).astype(np.uint8).tobytes()
        else:
            whole = np.rint(samples.T * (2 ** (8 * width - 1) - 1)).astype("<i8")
            data = b"".join(int(n).to_bytes(width, "little", signed=True) for n in whole.ravel())
        opened.writeframes(data)
    return path


def test_a_text_without_an_at_is_json_or_itself():
    assert [media.value(text, "--arg x") for text in ("3", "[1, 2]", "a hat", '"@home"')] == [
        3,
        [1, 2],
        "a hat",
        "@home",
    ]


def test_a_list_of_files_holds_what_they_hold(tmp_path):
    for name, frame in zip("ab", frames(), strict=False):
        frame.save(tmp_path / f"{name}.png")
    row = [f"@{tmp_path}/a.png", f"@{tmp_path}/b.png"]
    first, second = media.value(json.dumps([row, [row[0], None]]), "--arg x")
    assert [picture.getpixel((0, 0)) for picture in first] == COLOURS[:2]
    assert second[0].getpixel((0, 0)) == COLOURS[0] and second[1] is None
    assert media.is_visual(media.value(json.dumps(row), "--arg x"))
    with pytest.raises(UsageError, match="there is no file"):
        media.value('[["@none.png"]]', "--arg x")


@pytest.mark.parametrize("content", [["@home", "a hat"], [1, [2]], [], {"a": "@b"}])
def test_other_lists_are_themselves(content):
    assert media.value(json.dumps(content), "--arg x") == content


def test_a_picture(tmp_path):
    frames()[0].save(tmp_path / "photo.png")
    found = media.value(f"@{tmp_path}/photo.png", "--arg x")
    assert media.is_visual(found) and found.size == (16, 8) and found.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("pixels", "suffix"),
    [
        (np.full((8, 16), 40000, np.uint16), ".png"),
        (np.full((8, 16), 40000, np.int32), ".tiff"),
        (np.full((8, 16), 40000 / 65535, np.float32), ".tiff"),
    ],
)
def test_grey_of_more_bits_is_scaled_to_eight(tmp_path, pixels, suffix):
    file = tmp_path / f"depth{suffix}"
    Image.fromarray(pixels).save(file)
    for found in (media.picture(file, "RGB"), media.read(file)):
        assert found.mode == "RGB" and found.getpixel((3, 3)) == (156, 156, 156)
    assert media.picture(file, "L").getpixel((0, 0)) == 156


def test_a_folder_is_its_pictures_in_the_order_of_their_numbers(tmp_path):
    for number, frame in zip((2, 10, 9), frames(), strict=True):
        frame.save(tmp_path / f"frame-{number}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    found = media.value(f"@{tmp_path}/", "--arg x")
    assert [frame.getpixel((0, 0)) for frame in found] == [COLOURS[0], COLOURS[2], COLOURS[1]]


def test_frames_of_two_sizes_are_no_video(tmp_path):
    frames()[0].save(tmp_path / "0.png")
    frames((8, 8))[0].save(tmp_path / "1.png")
    with pytest.raises(UsageError, match=r"1\.png is 8x8, and .*0\.png 16x8"):
        media.read(tmp_path)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_an_animation_is_its_frames(tmp_path, suffix):
    first, *others = frames()
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=others, duration=100, lossless=True)
    found = media.read(tmp_path / f"a.{suffix}")
    assert [frame.getpixel((3, 3)) for frame in found] == COLOURS


def test_a_video_is_its_frames(tmp_path):
    imageio = pytest.importorskip("imageio.v2")
    pytest.importorskip("imageio_ffmpeg")
    with imageio.get_writer(tmp_path / "clip.mp4", fps=8, macro_block_size=2) as writer:
        for frame in frames((32, 32)):
            writer.append_data(np.asarray(frame))
    found = media.read(tmp_path / "clip.mp4")
    assert [frame.size for frame in found] == [(32, 32)] * 3
    means = [np.asarray(frame).reshape(-1, 3).mean(0) for frame in found]
    assert [int(mean.argmax()) for mean in means] == [0, 1, 2]


@pytest.mark.parametrize(("width", "tolerance"), [(1, 0.02), (2, 1e-4), (3, 1e-6), (4, 1e-6)])
def test_a_sound_of_any_width(tmp_path, width, tolerance):
    samples = np.stack([np.linspace(-0.9, 0.9, 50), np.sin(np.arange(50))])
    found = media.read(written(tmp_path / "a.wav", samples, width))
    assert found.shape == (1, 2, 50)
    assert np.abs(found.numpy()[0] - samples).max() < tolerance


def test_json_and_arrays(tmp_path):
    (tmp_path / "p.json").write_text(json.dumps({"objects": ["a hat"]}))
    np.save(tmp_path / "poses.npy", np.eye(4))
    assert media.read(tmp_path / "p.json") == {"objects": ["a hat"]}
    np.testing.assert_array_equal(media.read(tmp_path / "poses.npy"), np.eye(4))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.png", b"no picture", "is not a picture"),
        ("a.mp4", b"no video", "is no video that ffmpeg reads"),
        ("a.wav", b"no sound", "is no WAV file of whole numbers"),
        ("a.json", b"{", "is no JSON"),
        ("a.npy", b"no array", "is no array of NumPy's"),
    ],
)
def test_a_file_that_is_not_what_its_name_says(tmp_path, name, content, says):
    if name.endswith("mp4"):
        pytest.importorskip("imageio_ffmpeg")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=f"{name} {says}"):
        media.read(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_a_device_and_a_folder_are_no_pictures(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path, tmp_path / "pipe.png", Path(os.devnull)):
        with pytest.raises(UsageError, match="is no file of a picture"):
            media.picture(path, "RGB")


def test_an_array_that_would_run_code_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match="is no array of NumPy's"):
        media.read(tmp_path / "a.npy")


def test_nothing_there_and_nothing_in_it(tmp_path):
    with pytest.raises(UsageError, match="there is no file"):
        media.value("@nowhere.png", "--arg x")
    with pytest.raises(UsageError, match="holds no pictures"):
        media.read(tmp_path)


def test_without_the_library_it_is_one_line_that_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(LatentcError, match="videos need imageio and imageio_ffmpeg") as caught:
        media.read(tmp_path / "a.mp4")
    assert caught.value.hint == "Run: pip install 'latentc[video]'"


def wav(width: int, data: bytes) -> bytes:
    """A WAV file of one channel whose samples have `width` bytes."""
    form = struct.pack("<HHIIHH", 1, 1, 8000, 8000 * width, width, 8 * width)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def npy(shape: str) -> bytes:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()


def zipped() -> bytes:
    written = io.BytesIO()
    np.savez(written, a=np.zeros(3))
    return written.getvalue()


HOSTILE = {
    "deep.json": b"[" * 100_000,
    "deeper than is allowed.json": b"[" * 70 + b"]" * 70,
    "digits.json": b"1" * 10_000,
    "64 bits.wav": wav(8, bytes(64)),
    "terabytes.npy": npy(f"({2**40},)"),
    "more than any machine has.npy": npy(f"({2**62}, {2**62})"),
    "less than nothing.npy": npy("(-1,)"),
    "an archive.npy": zipped(),
    "a program.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_was_made_to_break_readers(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(HOSTILE[name])
    with pytest.raises(UsageError):
        media.read(file)


def test_more_pixels_than_memory_holds_are_told_before_they_are_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *others = frames()
    first.save(tmp_path / "a.gif", save_all=True, append_images=others, duration=100)
    monkeypatch.setattr(media, "MAX_PIXELS", 16 * 8 * 3)
    assert len(media.read(tmp_path / "a.gif")) == 3
    monkeypatch.setattr(media, "MAX_PIXELS", 16 * 8 * 3 - 1)
    with pytest.raises(UsageError, match="16x8 pixels in 3 frames; at most 383"):
        media.read(tmp_path / "a.gif")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tiff"])
def test_a_damaged_picture_is_one_message(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a.{suffix}"
    frames((40, 30))[0].save(file)
    data = file.read_bytes()
    rng = random.Random(7)
    for trial in range(60):
        changed = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        file.write_bytes(changed[: rng.randrange(len(changed))] if trial % 2 else changed)
        with suppress(UsageError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            media.read(file)
