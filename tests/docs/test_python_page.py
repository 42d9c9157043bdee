"""Every line of docs/python.md runs, in one session and in an empty folder."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import latentc

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> list[tuple[int, str]]:
    """(line of the page, code) of each example."""
    text = PAGE.read_text(encoding="utf-8")
    return [(text.count("\n", 0, match.start(1)), match[1]) for match in BLOCK.finditer(text)]


@pytest.mark.slow
@pytest.mark.usefixtures("one_checker")
def test_every_line_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compiler import auto, build

    def without_search(request: Any, budget: Any, progress: Any, on_plan: Any) -> Any:
        assert budget == auto.Budget(max_bytes=8_000_000)
        return build.compile(replace(request, quantize="int8", check="none"), progress, on_plan)

    # The search itself takes minutes, and is run by tests/compiler/test_measured_whole.py.
    monkeypatch.setattr(auto, "compile", without_search)
    monkeypatch.chdir(tmp_path)
    session: dict[str, Any] = {"__name__": "session"}
    for line, code in blocks():
        tree = ast.increment_lineno(ast.parse(code), line)
        exec(compile(tree, str(PAGE), "exec"), session)  # noqa: S102 (our own page)
    for written in ("out", "sized", "small", "dml-again", "copy"):
        assert (tmp_path / written / "latentc.json").is_file()
    assert latentc.verify("copy").ok
    assert session["manifest"].sizes["batch"].max == 4
    assert session["stop"].is_set() and session["verified"].numerics
    session["pipe"].close()
    with pytest.raises(latentc.LatentcError, match="closed"):
        session["pipe"].generate("a large red circle", steps=1)


def test_every_public_name_is_shown() -> None:
    text = PAGE.read_text(encoding="utf-8")
    unshown = {"__version__"}
    missing = [
        name for name in latentc.__all__ if name not in unshown and not re.search(rf"\b{name}\b", text)
    ]
    assert not missing
