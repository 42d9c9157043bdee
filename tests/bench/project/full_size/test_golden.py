"""Which golden models are exported at a time. Threads stand in for processes."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection

import pytest

from bench.project.full_size import golden

PEAKS = {"large": 1000, "middle": 700, "small": 200, "enormous": 9000}


class End:
    """A process's end of a pipe: it is closed when the process ends, whoever closed another handle before."""

    def __init__(self, real: Connection) -> None:
        self.send, self.ended = real.send, real.close

    def close(self) -> None:
        pass


class Process(threading.Thread):
    exitcode = -9

    def run(self) -> None:
        args = self._args  # type: ignore[attr-defined]
        super().run()
        args[-1].ended()


class Context:
    Process = Process

    @staticmethod
    def Pipe(duplex: bool) -> tuple[Connection, End]:
        ours, theirs = multiprocessing.Pipe(duplex)
        return ours, End(theirs)


class Told:
    """Notes who begins and who runs then; `hold` keeps one going until another has begun."""

    def __init__(self, hold: dict[str, str]) -> None:
        self.begun: list[tuple[str, set[str]]] = []
        self._running: set[str] = set()
        self._hold = hold
        self._events = {name: threading.Event() for name in PEAKS}

    def __call__(self, name: str, update: bool) -> tuple[str, bool]:
        self._running.add(name)
        self.begun.append((name, set(self._running)))
        self._events[name].set()
        if name in self._hold:
            assert self._events[self._hold[name]].wait(20)
        self._running.remove(name)
        return name, update


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Told]:
    def planned(names: list[str], room: int, processes: int = 2, **hold: str) -> Told:
        told = Told(hold)
        monkeypatch.setattr(golden, "_context", Context)
        monkeypatch.setattr(golden, "_peak", PEAKS.__getitem__)
        monkeypatch.setattr(golden, "_progress_line", told)
        done = list(golden.run(names, False, golden.LIBRARIES + room, processes))
        assert sorted(done) == sorted((name, False) for name in names)
        return told

    return planned


def test_what_does_not_fit_lets_a_smaller_one_go_first(plan: Callable[..., Told]) -> None:
    told = plan(["large", "middle", "small"], 1250, large="small")
    assert [name for name, _ in told.begun] == ["large", "small", "middle"]
    assert told.begun[1] == ("small", {"large", "small"})
    assert "large" not in told.begun[2][1]


def test_no_more_at_a_time_than_there_are_cores(plan: Callable[..., Told]) -> None:
    told = plan(["large", "middle", "small"], 5000, large="middle")
    assert all(len(running) <= 2 for _, running in told.begun)
    assert all(len(running) == 1 for _, running in plan(["large", "middle", "small"], 5000, 1).begun)


def test_one_that_fits_nowhere_runs_alone(plan: Callable[..., Told]) -> None:
    told = plan(["enormous", "small"], 500)
    assert all(len(running) == 1 for _, running in told.begun)


def test_a_process_that_dies_is_a_failure_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(name: str, update: bool, pipe: End) -> None:
        if name != "b":
            pipe.send((name, False))

    monkeypatch.setattr(golden, "_context", Context)
    monkeypatch.setattr(golden, "_answer", answer)
    assert sorted(golden.run(["a", "b", "c"], False, 4000, 1)) == [
        ("a", False),
        ("b: its process ended with status -9.", True),
        ("c", False),
    ]


def test_a_bug_is_a_failure_with_its_trace() -> None:
    ours, theirs = multiprocessing.Pipe(duplex=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(golden, "_progress_line", lambda name, update: 1 / 0)
        golden._answer("a", False, theirs)
    text, failed = ours.recv()
    assert failed and "ZeroDivisionError" in text and text.startswith("a: ")
