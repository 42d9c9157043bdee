"""Every end of a command is one message: full disks and pipes that are closed, and JSON also then."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from artifacts.errors import LatentcError
from latentc import cli


def run(*words: str, stdout: Any = subprocess.PIPE, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "latentc", *words],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, **env},
        timeout=120,
    )


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """`ends(error, *words)`: exit status, stdout and stderr of `latentc inspect` that ends in `error`."""

    def end(error: BaseException, *words: str) -> tuple[Any, str, str]:
        def fails(*args: Any, **kwargs: Any) -> Any:
            raise error

        monkeypatch.setattr("latentc.api.inspecting.inspect", fails)
        with pytest.raises(SystemExit) as ended:
            cli.main(["inspect", "out", *words])
        return ended.value.code, *capsys.readouterr()

    return end


ENDS: dict[str, tuple[BaseException, int, str]] = {
    "a message": (LatentcError("it is damaged.", "Compile it again."), 1, "it is damaged."),
    "the system refuses": (
        OSError(errno.EIO, "Input/output error", "/x"),
        1,
        "/x cannot be used: Input/output error.",
    ),
    "descriptors": (OSError(errno.EMFILE, "Too many open files", "/x"), 1, "too many files are open"),
    "memory": (MemoryError(), 1, "there is not enough memory."),
    "usage": (click.UsageError("wrong"), 2, "wrong"),
    "interrupted": (KeyboardInterrupt(), 130, "nterrupted"),
}


@pytest.mark.parametrize(("error", "status", "words"), ENDS.values(), ids=ENDS)
def test_one_message_and_with_json_the_same_as_json(
    ends: Any, error: BaseException, status: int, words: str
) -> None:
    code, out, err = ends(error)
    assert (code, out) == (status, "") and words in err and "Traceback" not in err
    code, out, err = ends(error, "--json")
    assert code == status and words in err
    document = json.loads(out)
    assert words in document["error"] and document["status"] == status and isinstance(document["hint"], str)


def test_no_message_commands_a_terminal(ends: Any) -> None:
    """It may quote what a stranger wrote."""
    error = LatentcError("'\x1b[2J\u202e\x07' is no class.\nIt is\tthe second line.", "Compile\r it.")
    code, _, err = ends(error)
    assert code == 1
    assert err == "Error: '\\x1b[2J\\u202e\\x07' is no class.\nIt is\\tthe second line.\nCompile\\r it.\n"


def test_bugs_keep_their_traceback(ends: Any) -> None:
    for bug in (RuntimeError("a bug"), ValueError("a bug"), OSError("without a number")):
        with pytest.raises(type(bug), match=str(bug)):
            ends(bug)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["inspect", "out", "--json"], True),
        (["inspect", "--json", "--no-such"], True),
        (["graph", "show", "a", "--json"], True),
        (["inspect", "out"], False),
        (["inspect", "--", "--json"], False),
        (["bench", "out", "--json", "file.json"], False),  # which takes a file
        (["no-such-command", "--json"], False),
        ([], False),
    ],
)
def test_which_commands_print_json(words: list[str], expected: bool) -> None:
    assert cli._prints_json(words) is expected


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize(
    "words",
    [["--help"], pytest.param(["inspect", "no-such-model", "--json"], marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_stdout_that_is_full(words: list[str], unbuffered: str) -> None:
    with open("/dev/full", "w") as full:
        done = run(*words, stdout=full, PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) <= 2
    assert "Error: " in done.stderr and "Traceback" not in done.stderr
    assert "no-such-model" in done.stderr or "standard output cannot be written" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="its pipes end otherwise")
def test_a_reader_that_has_gone_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as pipe:
        done = run("compile", "--help", stdout=pipe)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(os.name == "nt", reason="no shell that closes a stream")
@pytest.mark.parametrize("closed", ["2>&-", "2>&- >&-", "2>&- <&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed(tmp_path: Path, closed: str) -> None:
    """A file that is opened must not take the number of a stream, where anybody's messages would land in it."""
    file, script = tmp_path / "weights", tmp_path / "script.py"
    script.write_text(
        f"""
import os, sys
from artifacts.progress import Event
from latentc import cli
from latentc.progress_bars import bars

def run(*_):
    kept = os.open({str(file)!r}, os.O_WRONLY | os.O_CREAT)
    os.write(2, b"a library in C")
    print("a library in Python", file=sys.stderr, flush=True)
    with bars() as progress:
        progress(Event("a note", 1, 1))
    os.write(kept, b"weights")
    raise SystemExit(7)

cli._run = run
cli.main([])
"""
    )
    root = str(Path(cli.__file__).parents[1])
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" "$1" {closed}', sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": root},
        timeout=120,
        check=False,
    )
    assert (done.returncode, file.read_bytes()) == (7, b"weights")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no shell that closes a stream")
@pytest.mark.parametrize(
    ("words", "status"), [("targets", 0), ("inspect no-such-model", 1), ("inspect --no", 2)]
)
def test_commands_without_a_stderr_end_as_with_one(words: str, status: int) -> None:
    shell = ["sh", "-c", f'exec "$0" -m latentc {words} 2>&-', sys.executable]
    assert subprocess.run(shell, stdout=subprocess.DEVNULL, timeout=120, check=False).returncode == status
