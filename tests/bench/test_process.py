"""Workers as processes: what they answer, what becomes of their errors, what they print, their memory."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from artifacts.errors import LatentcError, UsageError
from artifacts.resident import Watch
from artifacts.worker import serving
from bench import drawing_worker, process
from bench.process import Worker, WorkerBug, forget


@pytest.fixture
def asked():
    with Worker("out", serving("tests.bench.odd_engine:drawing")) as found:
        yield found


def draw(asked: Worker, prompt: str, out: Path) -> dict[str, object]:
    return asked.request(do="draw", prompt=prompt, seed=7, steps=2, guidance=None, size=[4, 8], out=str(out))


def test_a_picture_comes_back_with_its_times(asked: Worker, tmp_path: Path) -> None:
    assert asked.request(do="prepare")["seconds"] >= 0  # What it printed is no answer.
    told = draw(asked, "a", tmp_path / "a.npz")
    assert told == {
        "seconds": 1.5,
        "steps": [0.5, 0.25],
        "first_step": None,
        "components": {"unet.forward": [2, 0.5]},
        "calls": None,
    }
    image, latents = drawing_worker.load(tmp_path / "a.npz")
    assert image.shape == (4, 8, 3) and (image == 7).all()
    assert latents is not None and latents.shape == (2, 4)


def test_errors_keep_their_kind_hint_and_traceback(asked: Worker, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="out: no device") as told:
        asked.request(do="open")
    assert told.value.hint == "See: latentc targets"
    with pytest.raises(WorkerBug, match=r"(?s)Traceback.*KeyError: 'oops'"):
        draw(asked, "bug", tmp_path / "a.npz")
    assert draw(asked, "a", tmp_path / "a.npz")["seconds"] == 1.5  # It goes on after an error.


def test_a_process_that_dies_is_told_with_its_last_words(asked: Worker, tmp_path: Path) -> None:
    said = r"out: its process ended with status 3 before it answered\.\n(?s:.*)last words"
    with pytest.raises(LatentcError, match=said):
        draw(asked, "die", tmp_path / "a.npz")


def test_latents_that_are_not_shown_are_none(tmp_path: Path) -> None:
    drawing_worker.save(tmp_path / "a.npz", drawing_worker.Drawn(np.zeros((2, 2, 3), np.uint8), 1.0))
    assert drawing_worker.load(tmp_path / "a.npz")[1] is None


def test_memory_that_was_taken_is_seen(asked: Worker, tmp_path: Path) -> None:
    asked.request(do="prepare")
    with Watch(asked.pid) as watch:
        pass
    before = watch.peaks()
    with Watch(asked.pid) as watch:
        draw(asked, "memory", tmp_path / "a.npz")
        draw(asked, "a", tmp_path / "a.npz")
    after = watch.peaks()
    assert after.total - before.total > 50 << 20
    if sys.platform == "linux":
        assert after.anonymous is not None and before.anonymous is not None
        assert after.anonymous - before.anonymous > 50 << 20
        assert before.anonymous is not None and before.file_backed is not None
        assert before.total >= max(before.anonymous, before.file_backed)


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the page cache cannot be told here")
def test_files_are_dropped_from_the_page_cache_and_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1" * 9999)
    assert forget([tmp_path / "a"])
    assert (tmp_path / "a").read_bytes() == b"1" * 9999


def test_a_system_that_cannot_drop_files_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process.sys, "platform", "win32")
    assert not forget([tmp_path / "missing"])
