"""Numbers as people write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import UsageError
from artifacts.units import whole_number
from compiler.quantize import scheme_table
from runtimes.generate_options import parse_size
from runtimes.media import _natural
from runtimes.sessions.common import THREADS, threads
from runtimes.tiles import parse_tile
from targets.graph.onnx_files import parse_fixed

ODD = ("\u00b2", "\u0663", "9" * 5000, "1e3", "0x10", "1_0", "", "-1", "+1", "1.0", "nan")
"""What `str.isdigit` or `int` would take for a number, or fail at."""


def test_whole_numbers() -> None:
    assert [whole_number(text) for text in ("0", " 64 ", "007", "9" * 18)] == [0, 64, 7, 10**18 - 1]
    assert [whole_number(text) for text in ODD] == [None] * len(ODD)


READERS: dict[str, Callable[[str], Any]] = {
    "size": parse_size,
    "tile": parse_tile,
    "fixed dimensions": lambda text: parse_fixed(f"batch={text}"),
    "a scheme's group": lambda text: scheme_table.options("int4", {"group": text}),
}


@pytest.mark.parametrize("text", [text for text in ODD if text])
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_number_is_a_usage_error(reader: str, text: str) -> None:
    with pytest.raises(UsageError):
        READERS[reader](text)


@pytest.mark.parametrize("text", [*(text for text in ODD if text), "0", "1025", "many"])
def test_threads_of_the_environment(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(THREADS, text)
    with pytest.raises(UsageError, match="positive integer of at most 1024"):
        threads()


@pytest.mark.parametrize("size", [5.5, True, (1, 2, 3), ("a", "b"), (64,), b"64"])
def test_what_is_no_size(size: Any) -> None:
    if size == (64,):
        assert parse_size(size) == (64, 64)
        return
    with pytest.raises(UsageError):
        parse_size(size)


def test_frames_with_odd_digits_have_an_order() -> None:
    names = ["1\u00b22.png", f"{'9' * 30}.png", "10.png", "9.png"]
    assert [Path(name).name for name in sorted(map(Path, names), key=_natural)][1:3] == ["9.png", "10.png"]
