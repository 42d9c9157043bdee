"""Prompts of the user's own, and what prompts say where that can be read back."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts.errors import UsageError

if TYPE_CHECKING:
    from bench.reference.shape_scenes import Caption


def read(path: Path) -> tuple[str, ...]:
    """The prompts in a text file, one on each line that is not blank.

    Raises:
        UsageError: it cannot be read, or holds none.
    """
    hint = "It is a text file with one prompt on each line."
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UsageError(f"the prompt file {path} is not UTF-8 text.", hint) from None
    except OSError as error:
        raise UsageError(f"the prompt file {path} cannot be read: {error.strerror}.", hint) from None
    prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts:
        raise UsageError(f"the prompt file {path} holds no prompt.", hint)
    return prompts


def captions(prompts: Sequence[str]) -> tuple[Caption, ...] | None:
    """What each prompt says in the words of the built-in model's judge; None unless all do."""
    known = _captions()
    matches = [known.get(prompt) for prompt in prompts]
    known_captions = tuple(caption for caption in matches if caption is not None)
    return known_captions if len(known_captions) == len(prompts) else None


@functools.cache
def _captions() -> Mapping[str, Caption]:
    from bench.reference.shape_scenes import all_captions

    return {caption.text: caption for caption in all_captions()}
