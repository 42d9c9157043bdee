from __future__ import annotations

import json

import pytest
from rich.console import Console

from latentc import show


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (14_300_000, "14.3 MB"),
        (999_960, "1.0 MB"),
        (5e12, "5.00 TB"),
    ],
)
def test_sizes(count, text):
    assert show.size(count) == text


@pytest.mark.parametrize(("count", "text"), [(7, "7"), (7_200_000, "7.2 M"), (11_900_000_000, "11.90 G")])
def test_numbers(count, text):
    assert show.number(count) == text


def test_what_a_terminal_would_act_on_is_escaped():
    assert show.plain("a\x1b[31mb") == "a\\x1b[31mb"
    assert show.plain("grün 日本") == "grün 日本"


def test_a_table_fits_in_100_columns_and_takes_cells_literally(capsys):
    rows = [("a[bold]b", "long " * 60, "12"), ("c", "two\nlines", "3")]
    show.table(("name", "text", "figure"), rows, right=("figure",))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    assert "a[bold]b" in out
    assert out.count("long") == 60
    assert out.splitlines()[2].rstrip().endswith("12")


def test_json_has_no_nan(capsys):
    show.as_json({"a": [float("nan"), 1.5], "b": float("inf")})
    assert json.loads(capsys.readouterr().out) == {"a": [None, 1.5], "b": None}


@pytest.mark.parametrize("width", [20, 40, 60])
def test_a_terminal_that_is_too_narrow_for_a_table_gets_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    monkeypatch.setattr(show, "_console", lambda: Console(width=width))
    columns = ("graph", "inputs", "outputs", "parameters")
    rows = [
        ("unet", "encoder_hidden_states\ntimestep", "out_sample_of_the_unet", "859.5 M"),
        ("vae", "a", "b", "1"),
    ]
    show.table(columns, rows, right=("parameters",))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "graph: unet",
        "inputs: encoder_hidden_states",
        "  timestep",
        "outputs: out_sample_of_the_unet",
        "parameters: 859.5 M",
    ]
    assert lines[5:7] == ["", "graph: vae"]


def test_no_color_is_no_style_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert show._console().color_system is None
