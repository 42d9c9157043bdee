"""A user's folder whose files are called as modules of ours and of Python's are."""

from __future__ import annotations

from pathlib import Path

NAMES = (
    "artifacts", "bench", "compiler", "json", "random", "runtimes/__init__", "targets/__init__", "tests/__init__",
)  # fmt: skip


def strangers(folder: Path) -> Path:
    """Writes into a new folder what prints and ends with status 3 where it is imported."""
    for name in NAMES:
        file = folder / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"print('{name} was run', flush=True)\nraise SystemExit(3)\n", encoding="utf-8")
    return folder
