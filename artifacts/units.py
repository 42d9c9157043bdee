"""Numbers for people."""

from __future__ import annotations


def size(count: float) -> str:
    """A number of bytes in decimal units: "14.3 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.95:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"
