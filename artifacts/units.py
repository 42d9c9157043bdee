"""Numbers as people write and read them."""

from __future__ import annotations

import re


def whole_number(text: str) -> int | None:
    """The number in decimal digits, of which there are at most 18; None for any other text.

    `str.isdigit` also holds for superscripts, and `int` refuses thousands of digits: both end in a ValueError.
    """
    return int(text) if re.fullmatch(r"\d{1,18}", text.strip(), re.ASCII) else None


def parse_bytes(text: str) -> int | None:
    """Bytes of "600M", "1.5G" or "6GB", in decimal units; a plain number is bytes. None for what is no size."""
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)([KMGT]?)B?", text.strip().upper(), re.ASCII)
    count = int(float(match[1]) * 1000 ** " KMGT".index(match[2] or " ")) if match else 0
    return count if count >= 1 else None


def size(count: float) -> str:
    """A number of bytes in decimal units: "14.3 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.95:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"
