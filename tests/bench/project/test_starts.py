"""Starts as a person makes them: which process is timed, what is cold, and what the table says."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import LatentcError
from bench.project.peers import starts
from bench.project.peers.contenders import PEERS
from bench.project.peers.starts import SCRIPTS, Script, Waited, measure, table


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Scripts of a line or two, in this interpreter."""

    known = dict(SCRIPTS)
    monkeypatch.setattr(starts, "SCRIPTS", known)

    def make(name: str, text: str) -> Script:
        known[name] = text
        return Script(name, sys.executable, name, tmp_path, (tmp_path / "weights",), dict(os.environ))

    (tmp_path / "weights").write_bytes(b"1")
    return make


def test_a_start_is_from_the_process_to_the_end_of_the_first_step(scripted: Any, tmp_path: Path) -> None:
    first = "assert steps == 4 and prompt == 'a cat'\nprint(time.time(), flush=True)\nos._exit(3)\n"
    with (tmp_path / "errors.txt").open("w+") as errors:
        assert 0 < scripted("quick", first).run("a cat", 4, tmp_path, errors) < 60
        with pytest.raises(LatentcError, match="broken made no first step: ValueError: no such model"):
            scripted("broken", "raise ValueError('no such model')").run("a", 4, tmp_path, errors)


def test_they_take_turns_and_one_that_fails_is_a_row(
    scripted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[tuple[str, str]] = []

    def run(self: Script, prompt: str, steps: int, cache: Path, errors: Any) -> float:
        order.append((self.name, cache.name))
        if self.name == "broken":
            raise LatentcError("broken made no first step: no")
        return float(len(order))

    forgotten: list[int] = []
    monkeypatch.setattr(Script, "run", run)
    monkeypatch.setattr(starts, "forget", lambda files: forgotten.append(len(files)))
    waited = measure([scripted(name, "") for name in ("ours", "theirs", "broken")], "a cat", 4, 2)
    assert [name for name, _ in order] == "ours ours theirs theirs broken theirs theirs ours ours".split()
    assert len({cache for name, cache in order if name == "ours"}) == 2 and forgotten == [1] * 5
    assert (waited["ours"].cold, waited["ours"].warm) == ([1.0, 8.0], [2.0, 9.0])
    text = table(waited, frozenset({"ours"}))
    assert "| ours | 4.50 s | 5.50 s | 1.00 | 1.00 |" in text
    assert "| theirs | 4.50 s | 5.50 s | | |" in text.replace("|  |", "| |").replace("|  |", "| |")
    assert "| broken | broken made no first step: no |" in text


def test_every_peers_script_is_there() -> None:
    assert {peer.loader for peer in PEERS if peer.loader} | {"latentc"} == set(SCRIPTS)
    for text in SCRIPTS.values():
        compile(text, "script", "exec")
    assert "from_pretrained(folder)" in SCRIPTS["latentc"] and table({"a": Waited()}, frozenset()).count("|")
