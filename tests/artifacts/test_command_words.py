"""Words of commands in hints: what is printed can be typed."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from artifacts import command_words
from artifacts.command_words import quoted
from artifacts.errors import LatentcError
from artifacts.manifest_reading import read_manifest


@pytest.mark.parametrize(
    "text", ["out", "/a/b-c_d.e", "a b/c d", "ünï cödé", "it's", "$HOME", "a;rm", '["x"]', ""]
)
def test_a_shell_reads_one_word_again(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(command_words.os, "name", "posix")
    assert shlex.split(f"latentc verify {quoted(text)}") == ["latentc", "verify", text]
    assert quoted("/a/b-c_d.e") == "/a/b-c_d.e"


@pytest.mark.parametrize(
    ("text", "word"),
    [(r"C:\out", r"C:\out"), (r"C:\my out", r'"C:\my out"'), ('a"b', r'"a\"b"'), ("a&b", '"a&b"')],
)
def test_windows_takes_double_quotes(monkeypatch: pytest.MonkeyPatch, text: str, word: str) -> None:
    monkeypatch.setattr(command_words.os, "name", "nt")
    assert quoted(text) == word


def test_a_hint_names_a_folder_with_a_space(tmp_path: Path) -> None:
    root = tmp_path / "a b" / "c d"
    with pytest.raises(LatentcError) as caught:
        read_manifest(root)
    assert (
        caught.value.hint == f"Make an artifact with: latentc compile MODEL {quoted(root)} --target openvino"
    )
    assert quoted(root) != str(root)
