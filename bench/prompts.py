"""Prompts of the user's own, and what prompts say where that can be read back."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts import named_files
from artifacts.errors import UsageError

if TYPE_CHECKING:
    from bench.reference.shape_scenes import Caption

_HINT = "It is a text file with one prompt on each line."


def read(path: Path) -> tuple[str, ...]:
    """The prompts in a text file, one on each line that is not blank.

    Raises:
        UsageError: it cannot be read, or holds none.
    """
    try:
        data = named_files.read_bytes(path)
    except OSError as error:
        raise UsageError(f"the prompt file {path} cannot be read: {error.strerror}.", _HINT) from None
    return parse(data, f"the prompt file {path}")


def parse(data: bytes, source: str) -> tuple[str, ...]:
    """The prompts in a text; `source` names it in errors.

    Raises:
        UsageError: it is not UTF-8, or holds none.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = f"{error.reason}, byte 0x{error.object[error.start]:02x}"
        raise UsageError(f"{source} is not UTF-8 text: {at}. Save it as UTF-8.", _HINT) from None
    prompts = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not prompts:
        raise UsageError(f"{source} holds no prompt.", _HINT)
    return prompts


def captions(prompts: Sequence[str]) -> tuple[Caption, ...] | None:
    """What each prompt says in the words of the built-in model's judge; None unless all do."""
    by_prompt = _captions()
    matches = [by_prompt.get(prompt) for prompt in prompts]
    known_captions = tuple(caption for caption in matches if caption is not None)
    return known_captions if len(known_captions) == len(prompts) else None


@functools.cache
def _captions() -> Mapping[str, Caption]:
    from bench.reference.shape_scenes import all_captions

    return {caption.text: caption for caption in all_captions()}
