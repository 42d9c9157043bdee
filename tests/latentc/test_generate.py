"""`latentc generate`: what reaches the pipeline, and what becomes of its pictures."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from latentc.api import drawing as pipelines
from latentc.commands.generate import OWN
from runtimes.flaws import Flaw
from runtimes.forecaster import Count
from runtimes.meter import MethodTime, Timings
from tests.latentc.artifacts_made import made

TIMINGS = Timings(total=1.5, opening=0.5, components={"unet.forward": MethodTime(2, 1.0)}, steps=(0.5, 0.5))

TASKS = {
    "text-to-image": "diffusers:StableDiffusionPipeline",
    "inpaint": "diffusers:StableDiffusionInpaintPipeline",
}


class Fake:
    """Stands for a loaded pipeline: remembers its calls, draws pictures whose red is the seed."""

    note = ""

    def __init__(self) -> None:
        self.loaded: dict[str, Any] = {}
        self.calls: list[dict[str, Any]] = []
        self.frames = 1
        self.audio: tuple[Any, ...] = ()
        self.closed = False
        self.flaws: tuple[Flaw, ...] = ()
        self.counted: Count | None = None
        self.said = ""

    def __enter__(self) -> Fake:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.closed = True

    def generate(self, /, prompt: str | None, **given: Any) -> SimpleNamespace:
        given.pop("progress", None)
        self.calls.append({"prompt": prompt, **given})
        seed = 40 if given["seed"] is None else given["seed"]
        images = given.get("images", 1)
        seeds = tuple(seed + i for i in range(images))
        pictures = [Image.new("RGB", (2, 2), (s % 256, 0, 0)) for s in seeds for _ in range(self.frames)]
        parameters = {"prompt": prompt, "steps": given.get("steps"), "seed": seed, "images": images}
        return SimpleNamespace(
            images=tuple(pictures),
            seed=seed,
            seeds=seeds,
            timings=TIMINGS,
            parameters=parameters,
            outputs={"image_embeds": 1},
            flaws=self.flaws,
            frames=tuple(tuple(pictures[i : i + self.frames]) for i in range(0, len(pictures), self.frames))
            if self.frames > 1
            else (),
            audio=self.audio,
            sample_rate=8000,
            frame_rate=None,
            calls=self.counted,
            note=self.said,
        )


@pytest.fixture
def fake(monkeypatch, tmp_path):
    made(tmp_path / "out", pipelines=TASKS)
    monkeypatch.chdir(tmp_path)
    found = Fake()

    def load(path: Any, **given: Any) -> Fake:
        found.loaded = given
        return found

    monkeypatch.setattr(pipelines, "load", load)
    monkeypatch.setattr("runtimes.pipeline.load", load)
    return found


def text(name: str) -> dict[str, Any]:
    with Image.open(name) as image:
        return dict(json.loads(image.text["latentc"]))


def test_engines_are_trusted_for_one_command(
    latentc: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By a variable, which the processes that it starts have, too."""
    from artifacts.trusted_engines import TRUST

    monkeypatch.delenv(TRUST, raising=False)
    seen: list[str | None] = []

    def load(*args: Any, **options: Any) -> Any:
        seen.append(os.environ.get(TRUST))
        return Fake()

    monkeypatch.setattr(pipelines, "load", load)
    made(tmp_path / "out")
    for options in ((), ("--trust-engines",), ()):
        latentc("generate", tmp_path / "out", "a", "-o", tmp_path / "a.png", *options)
    assert seen == [None, "1", None]


def test_where_it_runs_reaches_the_pipeline(latentc, fake):
    options = ("--device", "unet=gpu,vae=cpu", "--strict", "--memory", "6G")
    ended = latentc("generate", "out", "a circle", "-o", "a.png", *options)
    assert ended.code == 0, ended.err
    loaded = {name: fake.loaded[name] for name in ("device", "strict", "memory")}
    assert loaded == {"device": "unet=gpu,vae=cpu", "strict": True, "memory": 6_000_000_000}
    assert latentc("generate", "out", "a circle", "--memory", "much").code == 2


def test_one_prompt_one_picture(latentc, fake, tmp_path):
    ended = latentc(
        "generate", "out", "a circle", "-o", "a.png", "--steps", 3, "--guidance", 2, "--size", "64x32"
    )
    assert ended.code == 0, ended.err
    assert ended.out == "a.png (seed 40)\n"
    call = fake.calls[0]
    assert (call["prompt"], call["steps"], call["guidance"], call["size"]) == ("a circle", 3, 2.0, (64, 32))
    assert text("a.png") == {"prompt": "a circle", "steps": 3, "seed": 40, "images": 1}
    assert fake.closed


def test_weights_of_words_reach_the_pipeline(latentc, fake):
    for options, weighted in ((("--weighted",), True), ((), False)):
        assert latentc("generate", "out", "a red++ hat", "-o", "a.png", *options).code == 0
        assert fake.calls[-1]["weighted"] is weighted and fake.calls[-1]["prompt"] == "a red++ hat"
    assert latentc("generate", "out", "a hat", "--arg", "weighted=true").code == 2


def test_accelerated_pictures_say_how_many_calls_were_made(latentc, fake):
    fake.counted = Count(12, 20)
    ended = latentc("generate", "out", "a", "--accelerate", "0.1")
    assert ended.out == "out.png (seed 40, 12 of 20 calls)\n" and fake.loaded["accelerate"] == "0.1"
    latentc("generate", "out", "a")
    assert fake.loaded["accelerate"] == "auto"


@pytest.mark.parametrize("asked", ["-0.1", "fast", "nan"])
def test_what_is_no_tolerance(latentc, fake, asked):
    ended = latentc("generate", "out", "a", "--accelerate", asked)
    assert ended.code == 2 and f"'{asked}' is none of off, auto and a tolerance of at least 0" in ended.err


def test_options_that_are_not_given_are_the_pipelines(latentc, fake):
    latentc("generate", "out", "a")
    call = fake.calls[0]
    absent = (
        "negative_prompt",
        "image",
        "mask",
        "strength",
        "steps",
        "guidance",
        "seed",
        "size",
        "scheduler",
    )
    assert all(call[name] is None for name in absent)


def test_the_drawn_seed_holds_for_all_prompts(latentc, fake):
    ended = latentc("generate", "out", "a", "b", "-o", "p{index:02}.png")
    assert ended.out == "p00.png (seed 40)\np01.png (seed 40)\n"
    assert [call["seed"] for call in fake.calls] == [None, 40]


def test_each_picture_carries_its_own_seed(latentc, fake):
    latentc("generate", "out", "a", "--images", 2, "--seed", 7)
    assert [text(f"out-{i}.png")["seed"] for i in range(2)] == [7, 8]
    assert [text(f"out-{i}.png")["images"] for i in range(2)] == [1, 1]
    with Image.open("out-1.png") as image:
        assert image.getpixel((0, 0)) == (8, 0, 0)


def test_a_flaw_is_a_warning_told_once_and_no_failure(latentc, fake):
    fake.flaws = (Flaw("black", (1,), "", "1 of 2 pictures are black.", "Compile it again."),)
    ended = latentc("generate", "out", "a", "b", "--images", 2)
    assert ended.code == 0
    assert ended.err.count("Warning: 1 of 2 pictures are black.\nCompile it again.\n") == 1
    assert "black" not in ended.out
    found = json.loads(latentc("generate", "out", "a", "--images", 2, "--json").out)
    assert [row["flaws"] for row in found] == [[], ["black"]]
    fake.flaws = (Flaw("not finite", (), "vae.decode", "It is not finite.", "Compile it again."),)
    found = json.loads(latentc("generate", "out", "a", "--json").out)
    assert [row["flaws"] for row in found] == [["not finite"]]


def test_prompts_from_a_file(latentc, fake, tmp_path):
    (tmp_path / "prompts.txt").write_text("\ufeffein größerer Kreis\n\n  b  \n", encoding="utf-8")
    ended = latentc("generate", "out", "--prompts", "prompts.txt", "--seed", 1, "--json")
    assert [call["prompt"] for call in fake.calls] == ["ein größerer Kreis", "b"]
    found = json.loads(ended.out)
    assert [row["file"] for row in found] == ["out-0.png", "out-1.png"]
    assert found[0]["timings"]["components"]["unet.forward"] == {"calls": 2, "seconds": 1.0}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "generate needs a PROMPT, or --prompts FILE"),
        (["a", "--prompts", "p.txt"], "not from both"),
        (["--prompts", "empty.txt"], "empty.txt holds no prompt"),
        (["--prompts", "latin.txt"], "latin.txt is not UTF-8 text: invalid continuation byte, byte 0xe9"),
        (["--prompts", "none.txt"], "none.txt cannot be read: No such file"),
        (["--prompts", "."], "cannot be read: "),
        (["a", "--fps", "nan"], "no finite number"),
        (["a", "--mask", "m.png"], "--mask needs --image"),
        (["a", "--strength", "0.5"], "--strength needs --image"),
        (["a", "--strength", "1.5", "--image", "m.png"], "not in the range"),
        (["a", "--size", "64..128"], "expected WIDTHxHEIGHT"),
        (["a", "--image", "none.png"], "cannot be read"),
        (["a", "--arg", "steps=3"], "use --steps"),
        (["a", "--arg", "negative_prompt=b"], "use --negative"),
        (["a", "-o", "a.jpg"], "one of .png, .mp4, .gif, .webp, .wav"),
    ],
)
def test_wrong_requests_exit_2_before_any_work(latentc, fake, tmp_path, args, message):
    (tmp_path / "p.txt").write_text("a")
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "latin.txt").write_bytes("un caf\xe9 rouge".encode("latin-1"))
    ended = latentc("generate", "out", *args)
    assert ended.code == 2
    assert message in " ".join(ended.err.split())
    assert not fake.calls


def test_image_and_mask_choose_the_task_where_the_artifact_has_it(latentc, fake):
    Image.new("RGB", (4, 4)).save("i.png")
    Image.new("L", (4, 4)).save("m.png")
    latentc("generate", "out", "a")
    assert fake.loaded["task"] == "text-to-image"
    latentc("generate", "out", "a", "--image", "i.png", "--mask", "m.png", "--strength", 0.5)
    assert fake.loaded["task"] == "inpaint"
    assert fake.calls[-1]["image"].mode == "RGB"
    assert fake.calls[-1]["mask"].mode == "L"
    latentc("generate", "out", "a", "--image", "i.png")
    assert fake.loaded["task"] is None
    latentc("generate", "out", "a", "--task", "other", "--device", "gpu.0")
    assert (fake.loaded["task"], fake.loaded["device"]) == ("other", "gpu.0")


def test_a_pipelines_own_parameters_are_json_or_text(latentc, fake):
    latentc("generate", "out", "--arg", "class_labels=[207]", "--arg", "mode=fast")
    assert fake.calls[0]["prompt"] is None
    assert (fake.calls[0]["class_labels"], fake.calls[0]["mode"]) == ([207], "fast")


def test_every_parameter_of_generate_is_an_option_and_not_an_arg():
    parameters = inspect.signature(pipelines.Pipeline.generate).parameters.values()
    assert {p.name for p in parameters if p.kind is not p.VAR_KEYWORD} == {"self", *OWN}


def test_frames_of_a_video_are_numbered_and_share_its_seed(latentc, fake):
    fake.frames = 3
    latentc("generate", "out", "a", "--images", 2, "--seed", 5)
    assert [text(f"out-{i}.png")["seed"] for i in range(6)] == [5, 5, 5, 6, 6, 6]


def test_a_pipeline_without_pictures_says_what_it_has(latentc, fake):
    fake.frames = 0
    ended = latentc("generate", "out", "a")
    assert ended.code == 1
    assert "returned no pictures, videos or sound (it returned: image_embeds)" in ended.err


def test_a_video_is_one_file_for_each(latentc, fake):
    fake.frames = 3
    ended = latentc(
        "generate", "out", "a", "--images", 2, "--seed", 5, "--frames", 3, "-o", "clip.gif", "--fps", 4
    )
    assert ended.out.splitlines() == ["clip-0.gif (seed 5)", "clip-1.gif (seed 6)"]
    assert fake.calls[0]["frames"] == 3
    with Image.open("clip-1.gif") as opened:
        assert opened.info["duration"] == 750  # three equal frames are one in the file


def test_files_are_given_by_arg(latentc, fake, tmp_path):
    Image.new("RGB", (4, 2)).save("photo.png")
    (tmp_path / "frames").mkdir()
    for at in range(2):
        Image.new("RGB", (2, 2)).save(tmp_path / "frames" / f"{at}.png")
    latentc(
        "generate", "out", "a", "--arg", "image=@photo.png", "--arg", "video=@frames/", "--strength", "0.5"
    )
    call = fake.calls[0]
    assert call["image"].size == (4, 2) and [frame.size for frame in call["video"]] == [(2, 2)] * 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--arg", "video=@nowhere.mp4"), "there is no file nowhere.mp4"),
        (("--arg", "image=photo.png"), "use --image"),
        (("--arg", "seed=@photo.png"), "use --seed"),
        (("-o", "out.jpg"), "the output must be one of .png, .mp4"),
    ],
)
def test_a_file_or_output_that_cannot_be_is_a_usage_error(latentc, fake, arguments, says):
    ended = latentc("generate", "out", "a", *arguments)
    assert ended.code == 2 and says in ended.err
    assert fake.calls == []


def test_what_stands_in_for_the_device_is_told(latentc, fake):
    fake.note = "it runs on the CPU now"
    ended = latentc("generate", "out", "a hat")
    assert ended.code == 0
    assert "Note: it runs on the CPU now" in ended.err


def test_why_an_artifact_that_was_tuned_makes_all_calls_is_told_once(latentc, fake):
    fake.said = "all calls are made, as guidance is 7.5"
    ended = latentc("generate", "out", "a hat", "a scarf")
    assert ended.code == 0
    assert ended.err.count("Note: all calls are made") == 1


def test_a_pipeline_without_prompts_needs_none(latentc, fake, tmp_path):
    made(tmp_path / "other", pipelines={"text-to-image": "diffusers:DDIMPipeline"})
    assert latentc("generate", "other", "--steps", 2).code == 0
    assert fake.calls[0]["prompt"] is None
