"""A pipeline that several threads share: closed while it is used, drawn with by many, and copied by a fork."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artifacts.errors import LatentcError
from artifacts.progress import Event, Progress, silent
from runtimes import graphs as module
from runtimes.graphs import Graphs
from runtimes.process_lock import ProcessLock
from tests.runtimes import tiny
from tests.runtimes.conftest import Compiled
from tests.runtimes.test_graphs import Factory


@pytest.fixture
def factory(monkeypatch: pytest.MonkeyPatch) -> Factory:
    factory = Factory()
    monkeypatch.setattr(module.session_table, "get", lambda target: factory)
    return factory


def pool(progress: Progress = silent) -> Graphs:
    return Graphs(Path(), tiny.manifest(), "cpu", None, progress)


class Paused:
    """A method of an object that waits, in another thread, until the test lets it go on."""

    def __init__(self, owner: Any, name: str) -> None:
        self.inside, self.go_on = threading.Event(), threading.Event()
        method = getattr(owner, name)

        def paused(*args: Any, **kwargs: Any) -> Any:
            self.inside.set()
            assert self.go_on.wait(20)
            return method(*args, **kwargs)

        setattr(owner, name, paused)


def started(work: Callable[[], object]) -> tuple[threading.Thread, list[str]]:
    """A thread that does `work`, and what that ends in."""
    ends: list[str] = []

    def caught() -> None:
        try:
            work()
            ends.append("done")
        except LatentcError as error:
            ends.append(error.message)

    thread = threading.Thread(target=caught, daemon=True)
    thread.start()
    return thread, ends


def test_closed_while_a_graph_is_opened(factory: Factory) -> None:
    graphs, opening = pool(), Paused(factory, "open")
    thread, ends = started(lambda: graphs.open("unet"))
    assert opening.inside.wait(20)
    graphs.close()  # does not wait
    opening.go_on.set()
    thread.join(20)
    assert ends == ["the pipeline is closed."]
    assert [session.closed for session in factory.sessions] == [1]


def test_closed_while_a_graph_runs_and_another_call_waits_for_it(factory: Factory) -> None:
    graphs = pool()
    graphs.open_all()
    running = Paused(factory.sessions[1], "run")
    inputs = {"sample": np.ones(2, np.float32)}
    calls = [started(lambda: graphs.run("unet", inputs)) for _ in range(3)]
    assert running.inside.wait(20)
    graphs.close()
    assert [session.closed for session in factory.sessions] == [1, 0, 1, 1]  # not below a call that uses it
    running.go_on.set()
    for thread, ends in calls:
        thread.join(20)
        assert ends == ["the pipeline is closed."]
    assert [session.closed for session in factory.sessions] == [1, 1, 1, 1]


def test_closed_by_who_is_told_that_a_graph_opens(factory: Factory) -> None:
    def close(event: Event) -> None:
        graphs.close()

    graphs = pool(close)
    with pytest.raises(LatentcError, match="the pipeline is closed"):
        graphs.run("unet", {})
    assert [session.closed for session in factory.sessions] == [1]


def test_closed_while_others_open_and_run_at_random(factory: Factory) -> None:
    inputs = {"sample": np.ones(2, np.float32)}
    for _ in range(50):
        graphs = pool()
        barrier = threading.Barrier(5)

        def work(graphs: Graphs = graphs, barrier: threading.Barrier = barrier) -> None:
            barrier.wait(20)
            for graph in ("unet", "vae_decoder", "unet"):
                graphs.run(graph, inputs)

        calls = [started(work) for _ in range(4)]
        barrier.wait(20)
        graphs.close()
        for thread, ends in calls:
            thread.join(20)
            assert ends in (["done"], ["the pipeline is closed."])
        assert not graphs._sessions
    assert {session.closed for session in factory.sessions} <= {1}


@pytest.mark.slow
def test_eight_threads_draw_what_each_draws_alone(compiled: Compiled) -> None:
    def draw(pipeline: Any, seed: int) -> bytes:
        result = pipeline.generate("a red circle", seed=seed, steps=2, size=(32, 32))
        assert (result.seed, len(result.timings.steps)) == (seed, 2)
        return bytes(np.asarray(result.images[0]).tobytes())

    alone = [draw(compiled.pipeline(), seed) for seed in range(8)]
    shared, pictures = compiled.pipeline(), dict[int, bytes]()
    calls = [
        started(lambda seed=seed: pictures.__setitem__(seed, draw(shared, seed)))  # type: ignore[misc]
        for seed in range(8)
    ]
    for thread, ends in calls:
        thread.join(60)
        assert ends == ["done"]
    assert [pictures[seed] for seed in range(8)] == alone


def test_nothing_keeps_the_classes_of_a_pipeline_that_is_gone(compiled: Compiled) -> None:
    """Each load makes classes of its own, and some hundred functions with them."""
    compiled.pipeline()
    gc.collect()
    before = sum(isinstance(item, type) for item in gc.get_objects())
    for _ in range(3):
        pipeline = compiled.pipeline()
        pipeline.close()
        del pipeline
    gc.collect()
    assert sum(isinstance(item, type) for item in gc.get_objects()) == before


def test_a_lock_of_another_process(
    monkeypatch: pytest.MonkeyPatch, factory: Factory, compiled: Compiled
) -> None:
    lock, graphs, pipeline = ProcessLock(), pool(), compiled.pipeline()
    graphs.open_all()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    for use in (lock.acquire, lambda: graphs.run("unet", {}), lambda: pipeline.generate("a", steps=1)):
        with pytest.raises(LatentcError, match="a fork of it") as refused:
            use()
        assert "spawn" in refused.value.hint
    graphs.close()
    assert {session.closed for session in factory.sessions} == {0}  # they are the first process's


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_is_told_so_also_while_another_thread_draws(factory: Factory) -> None:
    graphs = pool()
    graphs.open_all()
    running = Paused(factory.sessions[1], "run")
    thread, _ = started(lambda: graphs.run("unet", {"sample": np.ones(2, np.float32)}))
    assert running.inside.wait(20)
    child = os.fork()
    if not child:
        status = 1
        try:
            graphs.run("unet", {})  # its lock is held by a thread that is not here
        except LatentcError:
            graphs.close()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    running.go_on.set()
    thread.join(20)
    assert status == 0
