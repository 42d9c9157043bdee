"""What pictures that are drawn faster are held to."""

from __future__ import annotations

import hashlib

import pytest

from artifacts.evidence_records import SpeedTrial
from compiler.speed_gate import Gate, Setting, prompts_digest
from tests.compiler.test_speed_tuning import FakeDrawn


@pytest.mark.parametrize(
    ("psnr", "worst_below", "held"), [(45.0, 3.0, True), (44.9, 6.0, False), (45.5, 2.0, False)]
)
def test_the_mean_and_the_worst_are_held(psnr: float, worst_below: float, held: bool) -> None:
    good = FakeDrawn(lambda *_: 60.0).run(["a"], Setting("", 20), 0.0)
    run = FakeDrawn(lambda *_: psnr).run(["a"], Setting("", 20), 0.1)  # whose worst is 3 dB lower
    gate = Gate(45.0, (), worst_below)
    assert gate.admits([good]) and gate.admits([good, run]) is held
    assert (gate.nearness(run) >= 45.0) is held


def test_the_nearest_is_told_by_its_worst_too() -> None:
    trial = SpeedTrial(way="bf16", combination="bf16", psnr=50.0, worst_psnr=40.0)
    assert Gate(45.0, ()).nearness(trial) == 46.0 and Gate(45.0, (), 12.0).nearness(trial) == 50.0


def test_prompts_are_told_by_their_lines() -> None:
    assert prompts_digest(["a", "b"]) == hashlib.sha256(b"a\nb").hexdigest()
