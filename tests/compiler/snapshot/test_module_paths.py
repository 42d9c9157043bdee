"""Paths seen from one another, and many of them written as one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.snapshot.module_paths import absolute, compress, expand, relative

PART = st.sampled_from(["a", "b", "0", "1", "2", "10"])
PATH = st.lists(PART, max_size=5).map(".".join)


@given(PATH, PATH)
def test_a_relative_path_leads_back(own, other):
    assert absolute(own, relative(own, other)) == other


@pytest.mark.parametrize(
    ("own", "other", "seen"),
    [
        ("blocks.3.attn", "blocks.3.norm", "^norm"),
        ("blocks.3.norm", "blocks.2.ff", "^^-1.ff"),
        ("blocks.3", "blocks.4", "^+1"),
        ("blocks.3", "blocks.3.attn.to_q", "attn.to_q"),
        ("", "conv_in", "conv_in"),
        ("a", "a", ""),
    ],
)
def test_neighbours_look_alike_from_everywhere(own, other, seen):
    assert relative(own, other) == seen


@given(st.sets(PATH, min_size=1))
def test_what_is_compressed_expands_again(paths):
    assert sorted(path for written in compress(paths) for path in expand(written)) == sorted(paths)


def test_lists_become_ranges():
    paths = [f"blocks.{i}.attn.{j}" for i in range(12) for j in (0, 2)]
    assert compress(paths) == ["blocks.{0..11}.attn.{0,2}"]
    assert compress([*paths, "blocks.3.attn.1", ""]) == [
        "",
        "blocks.3.attn.{0..2}",
        "blocks.{0..2,4..11}.attn.{0,2}",
    ]
