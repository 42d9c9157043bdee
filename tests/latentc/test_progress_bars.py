from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from artifacts.progress import Event
from latentc.progress_bars import Bars, bars


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def display():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[amount]}"))
    return Progress(*columns, console=console, auto_refresh=False)


def drawn(display: Progress) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(*display.get_renderables())
    return console.file.getvalue()


def test_nothing_is_drawn_where_stderr_is_no_terminal(capsys):
    with bars() as progress:
        progress(Event("work", 1, 2))
        progress(Event("work", 2, 2))
        progress(Event("a small file", 9, 9, "bytes"))
    assert capsys.readouterr() == ("", "")


def test_notes_are_told_there_too_on_stderr(capsys):
    with bars() as progress:
        progress(Event("unet: reused", 1, 1))
    assert capsys.readouterr() == ("", "unet: reused\n")


def test_nothing_is_told_where_there_is_no_stderr(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    with bars() as progress:
        progress(Event("unet: reused", 1, 1))
    assert capsys.readouterr().out == ""


def test_bars_are_drawn_where_there_is_no_stdout(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setenv("TERM", "xterm")
    with bars() as progress:
        progress(Event("unet", 1, 4))
    assert "unet" in terminal.getvalue()


def test_bars_are_drawn_on_a_terminal_and_gone_afterwards(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with bars() as progress:
        progress(Event("unet", 1, 4))
    assert "unet" in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[2K")


def test_a_bar_shows_the_tasks_own_words_and_how_much_is_done(display):
    show = Bars(display)
    show(Event("unet: [weights]", 0, 4_000_000, "bytes"))
    show(Event("unet: [weights]", 2_000_000, 4_000_000, "bytes"))
    show(Event("drawing", 3, 20, "steps"))
    text = drawn(display)
    assert "unet: [weights]" in text
    assert "2.0 MB/4.0 MB" in text
    assert "3/20 steps" in text


def test_a_finished_task_goes_away_and_others_stay(display):
    show = Bars(display)
    show(Event("first", 1, 2))
    show(Event("waiting", 0, None))
    show(Event("first", 2, 2))
    assert "first" not in drawn(display)
    assert "waiting" in drawn(display)


def test_a_task_may_come_again(display):
    show = Bars(display)
    for _ in range(2):
        show(Event("drawing", 1, 2))
        assert "drawing" in drawn(display)
        show(Event("drawing", 2, 2))
    assert not display.tasks


def test_what_is_over_at_once_is_told_in_a_line(display):
    show = Bars(display)
    show(Event("unet: [reused]", 1, 1))
    assert not display.tasks
    assert display.console.file.getvalue() == "unet: [reused]\n"
