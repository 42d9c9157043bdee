"""Sizes that are asked for: what no call can have is refused before any call is made."""

from __future__ import annotations

import pytest

from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import DimRange
from compiler.capture import declared_sizes
from compiler.capture.capture import capture
from compiler.capture.declared_sizes import SizeRange
from compiler.source import open_model


def span(most: int) -> DimRange:
    return DimRange(min=1, max=most)


def square(side: int) -> SizeRange:
    return SizeRange(span(side), span(side))


@pytest.mark.parametrize(
    ("size", "batch", "frames", "tokens", "message"),
    [
        (square(100_000), None, None, None, "--size asks for 100,000 pixels of a side; at most 65,536"),
        (SizeRange(span(64), span(10**9)), None, None, None, "--size asks for"),
        (None, span(10**9), None, None, "--batch asks for 1,000,000,000 pictures at once; at most 1,024"),
        (None, None, span(10**9), None, "--frames asks for"),
        (None, None, None, span(10**9), "--tokens asks for"),
        (
            square(4096),
            span(1024),
            None,
            None,
            "would have 17,179,869,184 pixels in all; at most 268,435,456",
        ),
        (square(1024), None, span(1024), None, "smaller --size"),
    ],
)
def test_figures_have_limits(
    size: SizeRange | None,
    batch: DimRange | None,
    frames: DimRange | None,
    tokens: DimRange | None,
    message: str,
) -> None:
    with pytest.raises(UsageError) as refused:
        declared_sizes.check(size, batch, frames, tokens)
    assert message in f"{refused.value.message} {refused.value.hint}"


def test_what_is_usual_passes() -> None:
    declared_sizes.check(None, None, None, None)
    declared_sizes.check(square(1024), span(8), None, span(308))


def test_memory_is_asked_for_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(declared_sizes, "shortage", lambda needed: f"{needed} bytes")
    with pytest.raises(LatentcError, match="takes about 5242880 bytes"):
        declared_sizes.check(square(256), None, None, None)


def test_a_capture_refuses_them() -> None:
    with pytest.raises(UsageError, match="--batch asks for"):
        capture(open_model("shapes"), batch=span(10**9))
