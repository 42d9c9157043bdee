"""The group: lazy commands, suggestions, and what each kind of ending looks like."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import click
import pytest

from artifacts.errors import LatentcError, UsageError
from latentc import cli
from tests.latentc.artifacts_made import made


@pytest.fixture
def command_that(monkeypatch):
    """Makes `latentc inspect` raise what the test says."""

    def use(error: BaseException) -> None:
        @click.command()
        @click.argument("anything", nargs=-1)
        def command(anything: tuple[str, ...]) -> None:
            raise error

        monkeypatch.setattr("latentc.commands.inspect.command", command)

    return use


def test_every_command_is_listed_with_its_short_help(latentc):
    ended = latentc("--help")
    assert ended.code == 0
    for name in cli.COMMANDS:
        command = cli.group.get_command(click.Context(cli.group), name)
        assert command is not None
        listed = next(line for line in ended.out.splitlines() if line.strip().startswith(f"{name} "))
        assert listed.split(maxsplit=1)[1] == command.get_short_help_str(80)


def test_a_wrong_command_suggests_the_nearest(latentc):
    ended = latentc("complie", "a", "b")
    assert ended.code == 2
    assert "No such command 'complie'. Did you mean 'compile'?" in ended.err


def test_a_command_like_no_other_lists_them_all(latentc):
    assert (
        "There are: compile, generate, grid, tune, serve, bench, inspect, verify, sign, bom, push, targets, graph."
        in latentc("xyzzy").err
    )


def test_a_wrong_option_suggests_the_nearest(latentc):
    ended = latentc("compile", "--tarqet", "openvino", "a", "b")
    assert ended.code == 2
    assert "Did you mean" in ended.err
    assert "--target" in ended.err


def test_a_failure_prints_message_and_hint_and_exits_1(latentc, command_that):
    command_that(LatentcError("it needs a file, found none.", "Try: latentc targets"))
    ended = latentc("inspect", "x")
    assert ended.code == 1
    assert ended.err == "Error: it needs a file, found none.\nTry: latentc targets\n"


def test_a_usage_error_exits_2(latentc, command_that):
    command_that(UsageError("no target 'x'."))
    assert latentc("inspect", "x").code == 2


def test_an_interrupt_is_one_line_and_130(latentc, command_that):
    command_that(KeyboardInterrupt())
    ended = latentc("inspect", "x")
    assert (ended.code, ended.err.strip()) == (130, "Interrupted.")


def test_a_bug_keeps_its_traceback(command_that):
    command_that(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        cli.main(["inspect", "x"])


def test_version_is_the_installed_one(latentc):
    from importlib.metadata import version

    assert latentc("--version").out == f"latentc {version('latentc')}\n"


def test_python_m_latentc_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "latentc", "--help"], capture_output=True, text=True, check=True
    )
    assert "compile" in done.stdout


def test_a_character_that_the_terminal_lacks_is_escaped(tmp_path):
    made(tmp_path / "größe")
    done = subprocess.run(
        [sys.executable, "-m", "latentc", "inspect", str(tmp_path / "größe")],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "latentc", "verify", "--json", str(tmp_path / "größe")],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=True,
    )
    assert json.loads(done.stdout)["artifact"].endswith("größe")


def test_a_reader_that_leaves_early_is_no_error():
    code = "import sys; sys.argv = ['latentc', '--help']; import latentc.cli as c; c.main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.wait()
