"""Which prompts are drawn when none are given, and what they say where that can be read back."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts.errors import UsageError

if TYPE_CHECKING:
    from bench.reference.drawing import Caption

DEFAULT_COUNT = 8


@dataclass(frozen=True)
class Defaults:
    """What is drawn when nothing else is asked for. guidance: None is the pipeline's own."""

    prompts: tuple[str, ...]
    guidance: float | None


GENERAL = Defaults(
    (
        "a photo of a lighthouse on a cliff at dawn",
        "a red bicycle leaning against a brick wall",
        "a bowl of ramen with a boiled egg, studio lighting",
        "portrait of an old fisherman with a gray beard",
        "a watercolor painting of a mountain village in winter",
        "a cat asleep on a pile of books",
        "an astronaut riding a horse on the moon",
        "a street market at night in the rain, neon signs",
    ),
    None,
)


def _shapes() -> Defaults:
    from bench.reference.drawing import split

    return Defaults(tuple(caption.text for caption in split()[1][:DEFAULT_COUNT]), 3.0)


# Models whose pictures can only be of what they were trained on: it was given no other words. Their guidance
# is the one that they are judged with (bench/reference/README.md).
BUILTIN = {"shapes": _shapes}


def defaults(model: str) -> Defaults:
    """What to draw with the model of that id."""
    return BUILTIN[model]() if model in BUILTIN else GENERAL


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
    found = tuple(line.strip() for line in lines if line.strip())
    if not found:
        raise UsageError(f"the prompt file {path} holds no prompt.", hint)
    return found


def captions(prompts: Sequence[str]) -> tuple[Caption, ...] | None:
    """What each prompt says in the words of the built-in model's judge; None unless all do."""
    known = _captions()
    found = [known.get(prompt) for prompt in prompts]
    kept = tuple(caption for caption in found if caption is not None)
    return kept if len(kept) == len(prompts) else None


@functools.cache
def _captions() -> Mapping[str, Caption]:
    from bench.reference.drawing import all_captions

    return {caption.text: caption for caption in all_captions()}
