from __future__ import annotations

from bench import markdown_tables


def test_columns_of_figures_are_at_the_right() -> None:
    assert markdown_tables.table(
        ["", "name", "bytes"], [("a", "", "1"), ("b", "c", "20")], right=["bytes"]
    ) == ("| | name | bytes |\n| --- | --- | ---: |\n| a |  | 1 |\n| b | c | 20 |")
