"""What diffusers' pipelines do with `self.progress_bar(...)` and with the tqdm that it returns."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch

from artifacts.progress import Event
from runtimes.bars import Bars
from runtimes.meter import Cancelled, Meter


class Told:
    """A pipeline's `progress_bar`, and what it tells."""

    def __init__(self, runs: int = 1, cancel: threading.Event | None = None) -> None:
        self.events: list[Event] = []
        self.meter = Meter(cancel=cancel)
        self.bars = Bars(self.meter, self.events.append, runs)
        self.progress_bar = self.bars.bar

    def numbers(self, task: str = "denoising") -> list[tuple[float, float | None]]:
        return [(e.completed, e.total) for e in self.events if e.task == task]


TIMESTEPS: tuple[tuple[Callable[[], Iterable[Any]], int | None], ...] = (
    (lambda: torch.tensor([9, 5, 1]), 3),
    (lambda: torch.flip(torch.tensor([1.0, 5.5, 9.0]), (0,)), 3),
    (lambda: torch.tensor([7]), 1),  # As a truth value it is True, and a tensor of one 0 is False.
    (lambda: torch.tensor([0]), 1),
    (lambda: torch.tensor([]), 0),
    (lambda: np.array([9, 5, 1]), 3),
    (lambda: [9, 5, 1], 3),
    (lambda: range(3), 3),
    (lambda: enumerate([9, 5]), None),
    (lambda: (t for t in (9, 5)), None),
)


@pytest.mark.parametrize(("made", "total"), TIMESTEPS)
def test_any_timesteps_are_iterated(made: Callable[[], Iterable[Any]], total: int | None) -> None:
    told = Told()
    assert list(told.progress_bar(made())) == list(made())
    count = len(list(made()))
    assert told.numbers() == [(i, total) for i in range(count + 1)]
    assert len(told.meter.steps) == count


def test_a_bar_is_counted_by_hand() -> None:
    told = Told()
    with told.progress_bar(total=3) as bar:
        bar.update()
        bar.set_description("refining")
        bar.set_postfix(loss=1.0)
        bar.set_postfix_str("x")
        bar.update(n=2)
    bar.close()
    assert sorted(set(told.numbers())) == [(0, 3), (1, 3), (3, 3)]
    assert len(told.meter.steps) == 2
    assert (bar.n, bar.total, len(bar), bool(bar), bar.disable, bar.format_dict["n"]) == (
        3,
        3,
        3,
        True,
        True,
        3,
    )


def test_a_bar_is_moved_by_its_attributes() -> None:
    told = Told()
    bar = told.progress_bar(None, 3)
    bar.total, bar.n = 5, 4
    bar.refresh()
    assert told.numbers() == [(0, 3), (4, 5)]
    bar.reset(total=2)
    bar.update(None)
    assert told.numbers()[-1] == (0, 2)


def test_a_bar_without_a_length() -> None:
    told = Told()
    bar = told.progress_bar()
    bar.update()
    assert told.numbers() == [(0, None), (1, None)] and list(bar) == []


def test_loops_within_a_loop_as_marigold_has_them(capsys: pytest.CaptureFixture[str]) -> None:
    told = Told()
    for _ in told.progress_bar(range(0, 4, 2), leave=True, desc="Marigold predictions..."):
        for _ in told.progress_bar(torch.tensor([9, 5, 1]), leave=False, desc="Diffusion steps..."):
            pass
    assert told.numbers("Marigold predictions") == [(0, 2), (1, 2), (2, 2)]
    assert told.numbers("Diffusion steps") == [(0, 3), (1, 3), (2, 3), (3, 3)] * 2
    assert len(told.meter.steps) == 6  # The denoiser's, not those of the loop around them.
    assert capsys.readouterr() == ("", "")


def test_options_of_a_tqdm_that_no_pipeline_uses_yet() -> None:
    told = Told()
    assert list(told.progress_bar([1], None, "decoding", False, position=1, ncols=80)) == [1]
    assert told.numbers("decoding") == [(0, 1), (1, 1)]


def test_all_loops_of_one_batch_go_by_its_number() -> None:
    told = Told(runs=2)
    for batch in (1, 2):
        told.bars.batch = batch
        for _ in range(2):  # A prior and a decoder.
            list(told.progress_bar([1]))
    tasks = [event.task for event in told.events]
    assert tasks == ["denoising, batch 1 of 2"] * 4 + ["denoising, batch 2 of 2"] * 4


def test_an_update_stops_where_it_is_asked_to() -> None:
    cancel = threading.Event()
    bar = Told(cancel=cancel).progress_bar(total=2)
    bar.update()
    cancel.set()
    with pytest.raises(Cancelled):
        bar.update()
