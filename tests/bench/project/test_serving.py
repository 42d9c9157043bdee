from __future__ import annotations

from pathlib import Path

import pytest

from artifacts.errors import LatentcError
from bench.project.serving import BEGIN, END, GROWTH, PAGE, Load, Outcome, table, write_page


def load(**changes: object) -> Load:
    """Of two minutes: 300 pictures that are right."""
    memory = [(float(seconds), 10**9) for seconds in range(121)]
    fields = {"seconds": 120.0, "differences": [0] * 299 + [1], "waits": [1.0] * 300, "memory": memory}
    return Load(**{**fields, **changes})  # type: ignore[arg-type]


def outcome(loop: float = 150.0, **changes: object) -> Outcome:
    return Outcome("openvino", 1, (loop, loop), load(**changes))


def test_what_holds_passes_and_each_claim_fails_by_itself() -> None:
    assert outcome().passed and outcome().ratio == 1
    assert not outcome(loop=170.0).passed
    assert not outcome(lost=["429"]).passed
    assert not outcome(differences=[0] * 299 + [2]).passed
    grown = [(float(seconds), 10**9 + (seconds > 90) * (GROWTH + 1)) for seconds in range(121)]
    assert not outcome(memory=grown).passed
    warm = [(float(seconds), 10**9 * (seconds > 50)) for seconds in range(121)]
    assert outcome(memory=warm).passed


def test_the_table_stands_in_the_page(tmp_path: Path) -> None:
    page = tmp_path / "serve.md"
    page.write_text(f"before\n\n{BEGIN}\n\nold\n\n{END}\n\nafter\n", encoding="utf-8")
    write_page(table([outcome()]), page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| openvino | 1 | 150 | 150 | 1.00 | 0 | 0 | 300 | 299 | 1000 MB, +0.0 MB | 1.0 s |" in text
    page.write_text("no place", encoding="utf-8")
    with pytest.raises(LatentcError, match="no place for the table"):
        write_page("", page)


def test_the_page_has_a_place_for_it() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.index(BEGIN) < text.index(END)
