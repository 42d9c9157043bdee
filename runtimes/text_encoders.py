"""Which components of a pipeline are text encoders, and which tokenizer belongs to each.

diffusers pairs the two by their names only: a pipeline that has several calls them `text_encoder` and `tokenizer`,
`text_encoder_2` and `tokenizer_2`. Neither the objects nor their configs know of each other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

_ENCODER, _TOKENIZER = "text_encoder", "tokenizer"


def encoders(names: Iterable[str]) -> Iterator[str]:
    """The names of text encoders among a pipeline's components."""
    return (name for name in names if name.startswith(_ENCODER))


def pairs(names: Collection[str]) -> Iterator[tuple[str, str]]:
    """The names of text encoders among a pipeline's components, each with its tokenizer's; one without is left out."""
    for name in encoders(names):
        tokenizer = _TOKENIZER + name.removeprefix(_ENCODER)
        if tokenizer in names:
            yield name, tokenizer
