"""Collections of garbage are rare in processes of ours, and in a user's only while libraries are imported."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from artifacts import garbage, worker, worker_loop
from latentc import cli

OTHERS = (20, 30)


@pytest.fixture(autouse=True)
def thresholds() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


@pytest.mark.parametrize(
    "before, after",
    [(700, garbage.ALLOCATIONS), (0, 0), (garbage.ALLOCATIONS + 1, garbage.ALLOCATIONS + 1)],
    ids=["Python's own", "never", "rarer"],
)
def test_what_is_rarer_stays(before: int, after: int) -> None:
    gc.set_threshold(before, *OTHERS)
    garbage.collect_rarely()
    assert gc.get_threshold() == (after, *OTHERS)


def test_a_users_own_comes_back() -> None:
    gc.set_threshold(500, *OTHERS)
    with pytest.raises(RuntimeError), garbage.rare_collections():
        assert gc.get_threshold() == (garbage.ALLOCATIONS, *OTHERS)
        raise RuntimeError
    assert gc.get_threshold() == (500, *OTHERS)


def test_the_last_of_several_threads_brings_it_back() -> None:
    gc.set_threshold(500, *OTHERS)
    first, second = garbage.rare_collections(), garbage.rare_collections()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert gc.get_threshold() == (garbage.ALLOCATIONS, *OTHERS)
    second.__exit__(None, None, None)
    assert gc.get_threshold() == (500, *OTHERS)


def thresholds_of_a_worker() -> worker_loop.Work:
    """Answers each job with its process's thresholds."""
    return lambda line: gc.get_threshold()


def test_workers_and_commands_collect_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    with worker.Worker(worker.serving(f"{__name__}:thresholds_of_a_worker")) as process:
        assert process.ask({})[0] == garbage.ALLOCATIONS
    gc.set_threshold(700, *OTHERS)
    seen: list[int] = []
    monkeypatch.setattr(cli, "_run", lambda words, prints_json: seen.append(gc.get_threshold()[0]))
    cli.main(["targets"])
    assert seen == [garbage.ALLOCATIONS]


def test_pipelines_that_were_closed_are_looked_for_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    monkeypatch.setattr(garbage, "release", lambda: looked.append(number))
    monkeypatch.setattr(garbage, "_closed", 0)
    for number in range(3 * garbage.CLOSED):  # noqa: B007
        garbage.collect_closed()
        garbage.count_closed()
    assert looked == [garbage.CLOSED, 2 * garbage.CLOSED]
