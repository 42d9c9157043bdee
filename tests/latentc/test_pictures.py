from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from artifacts.errors import LatentcError, UsageError
from latentc import pictures
from latentc.whole_file import whole_file
from runtimes import media


def names(path: Path, count: int) -> list[str]:
    found = pictures.template(str(path), count)
    return [pictures.numbered(found, index).name for index in range(count)]


def test_one_picture_keeps_its_name(tmp_path):
    assert names(tmp_path / "out.png", 1) == ["out.png"]


def test_several_pictures_are_numbered(tmp_path):
    assert names(tmp_path / "out.png", 2) == ["out-0.png", "out-1.png"]


def test_the_index_goes_where_the_braces_are(tmp_path):
    assert names(tmp_path / "a{index:03}b.png", 2) == ["a000b.png", "a001b.png"]
    assert names(tmp_path / "a{index}.png", 1) == ["a0.png"]


def test_one_name_for_several_pictures_is_refused(tmp_path):
    with pytest.raises(UsageError, match="names one file for 2 pictures"):
        names(tmp_path / "a{{b}}.png", 2)


@pytest.mark.parametrize("name", ["out.jpg", "out", ".png/x"])
def test_only_png_is_written(tmp_path, name):
    with pytest.raises(UsageError, match=r"must be a \.png file"):
        pictures.template(str(tmp_path / name), 1)


@pytest.mark.parametrize(
    "name",
    [
        "{seed}.png",
        "{.png",
        "{}.png",
        "{index.real.x}.png",
        "{index:q}.png",
        "{0}.png",
        "{index.real}.png",
        "{index!r}.png",
        "{index:>99999999999}.png",
        "{index:099999999999}.png",
        "{index:f}.png",
    ],
)
def test_other_braces_are_refused(tmp_path, name):
    with pytest.raises(UsageError, match="only {index} may stand in braces"):
        pictures.template(str(tmp_path / name), 1)


def test_a_disk_that_takes_nothing_is_one_message(tmp_path, monkeypatch):
    """Neither does it let anything be removed."""

    def refused(self, *args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "unlink", refused)
    with (
        pytest.raises(LatentcError, match=r"out\.gif cannot be written: Read-only file system"),
        whole_file(tmp_path / "out.gif") as partial,
    ):
        refused(partial)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_device_and_a_pipe_stay_what_they_are(tmp_path):
    """Whoever may write into the folder of devices could replace one."""
    pipe, link = tmp_path / "pipe.png", tmp_path / "null.png"
    os.mkfifo(pipe)
    link.symlink_to(os.devnull)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    for path in (pipe, link):
        with whole_file(path) as place:
            assert place == path
            place.write_bytes(b"a picture")
    assert os.read(reader, 100) == b"a picture"
    os.close(reader)
    assert pipe.is_fifo()
    assert link.is_symlink()
    with pytest.raises(LatentcError, match="it is a folder"), whole_file(tmp_path):
        pass


def test_a_name_as_long_as_the_disk_takes(tmp_path):
    path = tmp_path / f"{'n' * 251}.gif"
    with whole_file(path) as partial:
        assert partial.suffix == ".gif"
        partial.write_bytes(b"a picture")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_missing_folder_is_told_before_any_work(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        pictures.template(str(tmp_path / "none" / "out.png"), 1)


@pytest.mark.parametrize(("folder", "word"), [("new", "new"), ("ünï cödé", "'ünï cödé'")])
def test_a_folder_that_is_not_there_is_made_by_the_command_that_is_told(
    folder: str, word: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    shell = word.replace("'", '"') if os.name == "nt" else word
    with pytest.raises(UsageError) as caught:
        pictures.template(f"{folder}/{{index}}.png", 1)
    assert caught.value.hint == f"Make it: mkdir {shell}"
    with pytest.raises(UsageError) as caught:
        pictures.template(f"{folder}/in/{{index}}.png", 1)
    assert caught.value.hint.startswith("Make it: mkdir" if os.name == "nt" else "Make it: mkdir -p ")


def test_a_png_carries_its_parameters(tmp_path):
    path = tmp_path / "out.png"
    parameters = {
        "prompt": "ein Kreis, 日本",
        "negative_prompt": "blur",
        "steps": 20,
        "seed": 7,
        "strength": None,
    }
    pictures.write(Image.new("RGB", (4, 4), "red"), path, parameters)
    with Image.open(path) as image:
        text = image.text
        assert image.convert("RGB").getpixel((0, 0)) == (255, 0, 0)
    assert text["parameters"] == "ein Kreis, 日本\nNegative prompt: blur\nSteps: 20, Seed: 7"
    assert json.loads(text["latentc"]) == parameters
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]


def test_reading_turns_a_photo_upright_and_converts(tmp_path):
    photo = Image.new("RGB", (4, 2))
    exif = photo.getexif()
    exif[0x0112] = 6  # taken with the camera on its side
    photo.save(tmp_path / "photo.jpg", exif=exif)
    assert media.picture(tmp_path / "photo.jpg", "RGB").size == (2, 4)
    assert media.picture(tmp_path / "photo.jpg", "L").mode == "L"


def test_what_is_no_picture_is_refused(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(UsageError, match="is not a picture"):
        media.picture(tmp_path / "a.png", "RGB")
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        media.picture(Path(tmp_path / "b.png"), "RGB")
