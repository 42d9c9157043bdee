"""`latentc grid`: what reaches the pipelines, and what is refused."""

from __future__ import annotations

import pytest
from PIL import Image

from runtimes.flaws import Flaw
from tests.latentc.test_generate import fake as fake


def test_a_grid_is_drawn_and_then_found_again(latentc, fake, tmp_path):
    args = ("grid", "out", "--prompt", "a", "--x", "steps=2,3", "--y", "guidance=1,2", "--cell", 32)
    ended = latentc(*args, "--arg", "eta=0.5", "--size", "64x32")
    assert ended.code == 0, ended.err
    assert "(4 pictures, 0 of them were there already)" in ended.out
    assert [(call["steps"], call["guidance"]) for call in fake.calls] == [
        (2, 1.0),
        (2, 2.0),
        (3, 1.0),
        (3, 2.0),
    ]
    assert {(call["prompt"], call["seed"], call["size"], call["eta"]) for call in fake.calls} == {
        ("a", 0, "64x32", 0.5)
    }
    assert fake.loaded["task"] == "text-to-image"
    with Image.open(tmp_path / "grid" / "grid.png") as sheet:
        assert sheet.width > 64
    assert "4 of them" in latentc(*args, "--arg", "eta=0.5", "--size", "64x32").out
    assert len(fake.calls) == 4


def test_how_far_forecasts_may_be_off_is_an_axis(latentc, fake):
    ended = latentc("grid", "out", "--prompt", "a", "--x", "accelerate=off,0.1,auto")
    assert ended.code == 0, ended.err
    assert [call["accelerate"] for call in fake.calls] == ["off", "0.1", "auto"]
    ended = latentc("grid", "out", "--prompt", "a", "--x", "accelerate=off,-1")
    assert ended.code == 2 and "off, auto or a tolerance of at least 0; found '-1'" in ended.err


def test_an_axis_of_any_name_reaches_the_pipeline(latentc, fake):
    """Which says that it has none of it."""
    assert latentc("grid", "out", "--prompt", "a", "--x", "self=1").code == 0
    assert [call["self"] for call in fake.calls] == [1]


def test_flaws_are_warned_of_once(latentc, fake):
    fake.flaws = (Flaw("black", (0,), "", "the picture is black.", "Compile it again."),)
    ended = latentc("grid", "out", "--prompt", "a", "--x", "seed=0,1")
    assert ended.code == 0, ended.err
    assert ended.err.count("Warning: the picture is black.\nCompile it again.\n") == 1
    assert fake.closed


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["out"], "Missing option '--x'"),
        (["out", "--x", "steps"], "is no axis"),
        (["out", "--x", "steps=1", "--z", "seed=1"], "--z needs --y"),
        (["--x", "steps=1"], "needs an ARTIFACT"),
        (["out", "--x", "steps=1", "--mask", "m.png"], "--mask needs --image"),
        (["out", "--x", "steps=1", "--arg", "guidance=3"], "'guidance' cannot be given so: use --guidance"),
        (["out", "--x", "steps=1", "--arg", "cancel=3"], "'cancel' cannot be given so"),
        (["out", "--x", "progress=1"], "'progress' is no axis"),
        (["out", "--x", f"eta={'[' * 5000}"], "nested too deep"),
    ],
)
def test_wrong_requests(latentc, fake, args, message):
    ended = latentc("grid", *args)
    assert ended.code == 2
    assert message in " ".join(ended.err.split())
    assert not fake.calls
