"""Which graphs are opened while libraries are imported, and when."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import LatentcError
from artifacts.progress import silent
from artifacts.verification import Opening
from runtimes import graphs as module
from runtimes import opening_ahead
from runtimes.graphs import Graphs
from runtimes.opening_ahead import largest, open_ahead
from runtimes.pipeline import load
from tests.runtimes import tiny
from tests.runtimes.conftest import Compiled
from tests.runtimes.test_graphs import Factory
from tests.runtimes.test_memory_plan import SIZES, USES, measured


@pytest.fixture
def factory(monkeypatch: pytest.MonkeyPatch) -> Factory:
    factory = Factory()
    monkeypatch.setattr(module.session_table, "get", lambda target: factory)
    monkeypatch.setattr(opening_ahead, "largest", lambda sizes: ["unet", "text_encoder"])
    return factory


def opened_ahead(pool: Graphs, holds: Callable[[str], bool]) -> None:
    open_ahead(pool, holds)
    assert pool.ahead is not None
    pool.ahead.join()


def opened(factory: Factory) -> list[str]:
    return [model_file.parent.name for model_file, *_ in factory.opened]


def test_the_largest_hold_nine_tenths() -> None:
    sizes = {"text_encoder": 123, "unet": 860, "vae_encoder": 34, "vae_decoder": 49}
    assert largest(sizes) == ["unet", "text_encoder"]
    assert largest({"a": 1, "b": 1}) == ["a", "b"] and largest({}) == [] and largest({"a": 0}) == []


def test_graphs_open_one_after_the_other_when_their_files_hold(factory: Factory) -> None:
    pool, asked = Graphs(Path(), measured(USES), "cpu", None, silent, budget=10**4), []

    def holds(graph: str) -> bool:
        asked.append((graph, len(factory.opened)))
        return True

    opened_ahead(pool, holds)
    assert asked == [("unet", 0), ("text_encoder", 1)] and opened(factory) == ["unet", "text_encoder"]
    pool.open("unet")
    assert len(factory.opened) == 2
    pool.close()
    assert [session.closed for session in factory.sessions] == [1, 1]
    opened_ahead(pool, holds)  # Nothing opens any more, and nothing is told.
    assert len(factory.opened) == 2


def test_what_does_not_hold_is_not_opened_and_nothing_after_it(factory: Factory) -> None:
    pool = Graphs(Path(), measured(USES), "cpu", None, silent, budget=10**4)
    opened_ahead(pool, lambda graph: graph != "unet")
    assert factory.opened == []


def test_where_not_all_graphs_can_stay_open_none_is_opened_before_it_is_called(factory: Factory) -> None:
    whole = sum(SIZES.values()) + 10 + 90 + 4096 + 10
    for budget, expected in ((whole - 1, []), (whole, ["unet", "text_encoder"])):
        factory.opened.clear()
        pool = Graphs(Path(), measured(USES), "cpu", None, silent, budget=budget)
        assert pool.plan.fits_in_any_order == bool(expected)
        opened_ahead(pool, lambda graph: True)
        assert opened(factory) == expected


def test_what_does_not_open_is_told_to_who_needs_it(
    factory: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> Any:
        raise LatentcError("the vendor refuses it.")

    monkeypatch.setattr(factory, "open", refuse)
    pool = Graphs(Path(), measured(USES), "cpu", None, silent)
    opened_ahead(pool, lambda graph: True)
    with pytest.raises(LatentcError, match="the vendor refuses it"):
        pool.open("unet")


def test_without_a_thread_each_graph_is_opened_by_who_needs_it(
    factory: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pool = Graphs(Path(), measured(USES), "cpu", None, silent)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        open_ahead(pool, lambda graph: True)
    assert pool.ahead is None and factory.opened == []
    pool.open("unet")
    pool.close()


@pytest.mark.parametrize("fault", ["", "changed", "missing", "beside"])
def test_a_graph_is_opened_when_its_own_folder_holds_whatever_is_wrong_elsewhere(
    compiled: Compiled, tmp_path: Path, fault: str, factory: Factory
) -> None:
    root = tiny.publish(compiled.root, tmp_path / "artifact")
    graph = root / "unet" / "model.fake"
    if fault == "changed":
        graph.write_text(graph.read_text()[::-1])
    elif fault == "missing":
        graph.unlink()
    elif fault == "beside":
        (root / "unet" / "model.bin").write_bytes(b"weights")
    with Opening(root) as opening:
        assert opening.holds("unet") == (not fault) and opening.holds("text_encoder")
    if not fault:
        pipe = load(root)
        pipe.open()
        pipe.close()
    else:
        with pytest.raises(LatentcError, match="is not what was compiled"):
            load(root)
    assert "opening" not in {thread.name for thread in threading.enumerate()}
    assert ("unet" in opened(factory)) == (not fault)
    assert all(session.closed for session in factory.sessions)
