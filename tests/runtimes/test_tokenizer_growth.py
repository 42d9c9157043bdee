"""Tokenizers that were made to fill the memory or to break their library: one message."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Tokenizer

from artifacts.errors import LatentcError
from runtimes.refusals import panics, refusals
from runtimes.tokenizer_growth import check_growth

DOUBLING = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
TAKEN = {
    "none": None,
    "of one character": {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "\u2581"},
    "that take away": {
        "type": "Sequence",
        "normalizers": [{"type": "Replace", "pattern": {"String": "\u0300"}, "content": ""}] * 500,
    },
    "that double six times": {"type": "Sequence", "normalizers": [DOUBLING] * 6},
}  # fmt: skip
REFUSED = {
    "that double seven times": {"type": "Sequence", "normalizers": [DOUBLING] * 7},
    "that double without an end": {"type": "Sequence", "normalizers": [DOUBLING] * 100_000},
    "sequences in sequences": {
        "type": "Sequence",
        "normalizers": [{"type": "Sequence", "normalizers": [DOUBLING] * 4}] * 2,
    },
    "a text before each character": {"type": "Replace", "pattern": {"String": ""}, "content": "x" * 64},
    "a text for each character": {"type": "Replace", "pattern": {"Regex": "."}, "content": "x" * 65},
}


def tokenizer(**fields: Any) -> bytes:
    model = {"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"}
    empty = dict.fromkeys(
        ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    )
    return json.dumps({"version": "1.0", "added_tokens": [], "model": model, **empty, **fields}).encode()


@pytest.mark.parametrize("name", TAKEN)
def test_rules_of_published_kinds(name: str) -> None:
    check_growth(tokenizer(normalizer=TAKEN[name]), "tokenizer.json")


@pytest.mark.parametrize("name", REFUSED)
def test_rules_that_fill_the_memory(name: str) -> None:
    with pytest.raises(
        LatentcError, match=r"tokenizer\.json: its normalizers make a text up to [\d,]+ times"
    ):
        check_growth(tokenizer(normalizer=REFUSED[name]), "tokenizer.json")


BROKEN = {
    "an expression that tries for ever": {
        "pre_tokenizer": {
            "type": "Split", "pattern": {"Regex": "^(a+)+$"}, "behavior": "Isolated", "invert": False
        }
    },
    "a token that there is not": {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "X", "type_id": 0}}],
            "pair": [],
            "special_tokens": {},
        }
    },
    "a table that is cut off": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAAAAAA"}},
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_panic_is_an_error_with_its_words(name: str) -> None:
    with pytest.raises(LatentcError, match="the tokenizer's own code fails: "), refusals(object(), {}):
        Tokenizer.from_str(tokenizer(**BROKEN[name]).decode()).encode("a" * 40 + "!")


def test_what_is_no_panic_passes() -> None:
    with pytest.raises(KeyboardInterrupt), panics():
        raise KeyboardInterrupt
