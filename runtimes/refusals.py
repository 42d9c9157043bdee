"""What a pipeline's own code refuses, in its words: sizes, strengths, numbers of steps, arguments of wrong types."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from artifacts.error_text import one_line
from artifacts.errors import LatentcError, UsageError

# What diffusers, transformers, NumPy, torch and Pillow raise for arguments that they do not take: most check few of
# them, and fail where the first one is used.
_KINDS = (
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
)

# Words of diffusers' checks: "`height` and `width` have to be divisible by 8 but are 50 and 50."
_MULTIPLE = re.compile(r"divisible by (\d{1,4})\b")

_OWN = Path(__file__).resolve().parents[1]


@contextmanager
def refusals(pipeline: Any, request: Mapping[str, Any]) -> Iterator[None]:
    """While it is open, what the libraries' code raises in a call of `pipeline` is a UsageError with their words.

    What this project's own code raises within the call is a bug, and passes as it is; `passing`
    (`runtimes.callers_code`) keeps what the caller's own code raises from here.

    Args:
        request: what the call was asked for, by the names of `generate`.
    """
    try:
        with panics():
            yield
    except LatentcError:
        raise
    except _KINDS as error:
        if _is_own(error.__traceback__):
            raise
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise UsageError(
            f"{type(pipeline).__name__} refuses this request: {kind}{_words(error)}.",
            _hint(str(error), request),
        ) from error


@contextmanager
def panics() -> Iterator[None]:
    """While it is open, a panic of code in Rust, which tokenizers are, is a LatentcError: it is no `Exception`."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise LatentcError(
            f"the tokenizer's own code fails: {_words(error)}.",
            "Its files are damaged, or it takes no such text: try another prompt, or compile the model again.",
        ) from None


def _is_own(trace: TracebackType | None) -> bool:
    """Whether the frame that raised is this project's."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and _is_ours(trace.tb_frame.f_code.co_filename)


def _is_ours(file: str) -> bool:
    path = Path(file)
    return path.is_relative_to(_OWN) and path.relative_to(_OWN).parts[:1] in _PACKAGES


# The folders beside this one, by what lies in them: a virtual environment may lie there, too.
_PACKAGES = frozenset((child.name,) for child in _OWN.iterdir() if (child / "__init__.py").is_file())


def _words(error: BaseException) -> str:
    return one_line(error, 600) if str(error).strip() else "it says nothing more"


def multiple_of(words: str) -> int:
    """What an error says that the sides of pictures are multiples of; 0 where it says nothing of it."""
    match = _MULTIPLE.search(words)
    of_frames = "frame" in words and not any(side in words for side in ("height", "width"))
    return int(match[1]) if match and not of_frames else 0


def nearest_sizes(multiple: int, width: int, height: int) -> list[str]:
    """The sizes of such sides that are nearest to one: the next smaller, and the next larger."""
    ends = ((side // multiple * multiple, -(-side // multiple) * multiple) for side in (width, height))
    (left, right), (lower, upper) = ((max(multiple, down), max(multiple, up)) for down, up in ends)
    return list(dict.fromkeys((f"{left}x{lower}", f"{right}x{upper}")))


def _hint(words: str, request: Mapping[str, Any]) -> str:
    width, height = request.get("width"), request.get("height")
    multiple = multiple_of(words)
    if multiple and isinstance(width, int) and isinstance(height, int):
        return f"The nearest sizes: {', '.join(nearest_sizes(multiple, width, height))}"
    named = ", ".join(f"{name}={value}" for name, value in request.items() if _is_short(value))
    return f"It was asked for: {named}" if named else ""


def _is_short(value: Any) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, (str, list)) and 0 < len(str(value)) <= 60)
