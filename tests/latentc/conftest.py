"""Running a command as the console script does, in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from latentc.cli import main


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def latentc(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """`latentc(*args)`: runs one command."""

    def run(*args: object) -> Ended:
        with pytest.raises(SystemExit) as stop:
            main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Ended(int(str(stop.value.code)), captured.out, captured.err)

    return run
