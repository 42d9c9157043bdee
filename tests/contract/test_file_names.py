"""A file's name says what is in it without its folder: no two files of the packages have one name."""

from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("latentc", "bench", "compiler", "runtimes", "targets", "artifacts")

# What every package may have, and what every target has.
OF_EACH = {"__init__.py", "__main__.py", "target.py", "file_format.py"}


def repeated(names: list[str]) -> set[str]:
    return {name for name, count in Counter(names).items() if count > 1} - OF_EACH


def test_no_two_files_have_one_name() -> None:
    assert repeated(["a.py", "b.py", "a.py", "target.py", "target.py"]) == {"a.py"}
    files = [file.name for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    assert len(files) > 300 and not repeated(files)
