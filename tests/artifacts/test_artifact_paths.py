from __future__ import annotations

import ntpath
import os
import posixpath
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifacts.artifact_paths import clashes, entries, fault, shown

# Text with what matters in paths far more often than chance would have it.
pieces = st.sampled_from(
    ["..", ".", "/", "\\", "C:", ":", "\x00", "con", "NUL", ".x", " ", "a", "B", "é", "//", "~"]
)
names = st.lists(pieces | st.text(max_size=3), max_size=6).map("".join)


@given(names)
def test_what_passes_stays_below_the_root_on_every_system(name: str) -> None:
    if fault(name):
        return
    for module, root in ((posixpath, "/root"), (ntpath, "C:\\root")):
        joined = module.normpath(module.join(root, name))
        assert joined.startswith(root + module.sep)
        assert joined == root + module.sep + name.replace("/", module.sep)
    assert "\x00" not in name
    name.encode("utf-8")


@given(st.lists(st.text("abcXYZ0123456789-_", min_size=1, max_size=9), min_size=1, max_size=5))
def test_plain_names_pass(segments: list[str]) -> None:
    assert not fault("/".join([*segments, "model.onnx_data"]))


@pytest.mark.parametrize(
    "name",
    ["", "/", "/a", "a/", "a//b", ".", "./a", "a/..", "../a", "a/../../b", "\\a", "a\\..\\b", "C:",
     "c:a", "a:b", "//server/share", "a\x00", "a\n", "a.", "a ", "a /b", "con", "Con.txt", "x/LPT1",
     "COM¹.bin", "a?", 'a"', "a|b", "a\u202eb", "a\ud800", "x" * 2000, "a/" * 40 + "b"],
)  # fmt: skip
def test_what_is_refused(name: str) -> None:
    assert fault(name)


@pytest.mark.parametrize(
    "name", ["console", "com10", "nullable/aux_loss", ".hidden", "a..b", "tokenizer 2/x.json"]
)
def test_what_only_looks_like_it(name: str) -> None:
    assert not fault(name)


@given(
    st.lists(st.lists(st.sampled_from(["a", "b", "c.d"]), min_size=1, max_size=3).map("/".join), unique=True)
)
def test_lowercase_names_clash_only_as_file_and_folder(paths: list[str]) -> None:
    folders = {path[:i] for path in paths for i, letter in enumerate(path) if letter == "/"}
    assert bool(list(clashes(paths))) == bool(folders & set(paths))


@pytest.mark.parametrize(
    "pair",
    [("a", "a"), ("a/b", "A/b"), ("a/b", "A/c"), ("a", "a/b"), ("a/b", "a"),
     ("é", unicodedata.normalize("NFD", "é")), ("straße", "STRASSE"), ("x/Y/z", "x/y/w"), ("a", "A/b")],
)  # fmt: skip
def test_clashes(pair: tuple[str, str]) -> None:
    assert list(clashes(pair)) == [pair]


def test_deep_names_are_compared_within_seconds() -> None:
    """All beginnings of each name are: folding them anew took minutes for a manifest's worth of these."""
    deep = "/".join(["Aé" * 8] * 31)
    started = time.process_time()
    assert list(clashes(f"{deep}/{number}" for number in range(5_000))) == []
    assert time.process_time() - started < 5


def test_names_that_do_not_clash() -> None:
    assert list(clashes(["a/b", "a/c", "ab", "a.b", "A_b/c"])) == []


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
def test_entries_lists_links_and_does_not_follow_them(tmp_path) -> None:
    (tmp_path / "root" / "a" / "empty").mkdir(parents=True)
    (tmp_path / "root" / "a" / "f").write_text("x")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "s").write_text("x")
    os.symlink(tmp_path / "secret", tmp_path / "root" / "link")
    os.symlink(tmp_path / "nowhere", tmp_path / "root" / "dangling")
    assert list(entries(tmp_path / "root")) == ["a/f", "dangling", "link"]


def test_shown_escapes_what_a_terminal_acts_on() -> None:
    assert shown("a/é b") == "'a/é b'"
    assert shown("\x1b[2Jx") == "'\\x1b[2Jx'"
