"""The `latentc` command: finds a command's module, runs it, and turns errors into exit statuses.

Nothing heavy is imported here or at the top of a command's module: `--help` has to answer at once.
"""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn, cast

import click

from artifacts import foreseen, garbage, telemetry, temporary
from artifacts.errors import LatentcError
from latentc.show import plain
from runtimes.quiet import quiet_libraries

# Name -> module:object and what `latentc --help` says of it, in the order in which it lists them. The words stand
# here, beside each command's own docstring (a test compares them), so that help imports no command.
COMMANDS: dict[str, tuple[str, str]] = {
    "compile": ("latentc.commands.compile:command", "Compile a diffusers pipeline for a target."),
    "generate": ("latentc.commands.generate:command", "Draw pictures with an artifact."),
    "grid": ("latentc.commands.grid:command", "Draw one picture over up to three options."),
    "tune": ("latentc.commands.tune:command", "Find the fastest way to draw that keeps pictures near."),
    "serve": ("latentc.commands.serve:command", "Serve artifacts over HTTP."),
    "bench": ("latentc.commands.bench:command", "Measure speed, memory and quality against PyTorch."),
    "inspect": ("latentc.commands.inspect:command", "Show what is in an artifact or a model."),
    "verify": ("latentc.commands.verify:command", "Check an artifact's files, and its numbers too."),
    "sign": ("latentc.commands.sign:command", "Sign an artifact with a private key."),
    "bom": ("latentc.commands.bom:command", "Write a bill of materials (CycloneDX)."),
    "push": ("latentc.commands.push:command", "Put an artifact on the Hugging Face hub."),
    "targets": ("latentc.commands.targets:command", "List the targets, and what is missing for each."),
    "graph": ("latentc.commands.graph:command", "Snapshot a model's graphs, and say what changed."),
}

INTERRUPTED = 130  # what a shell reports for a command ended by Ctrl-C


class LazyGroup(click.Group):
    """A group that imports a command when it is run, and suggests the nearest one for a wrong name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        return cast(click.Command, getattr(import_module(module), attribute))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in COMMANDS:
            from difflib import get_close_matches

            near = get_close_matches(name, COMMANDS, n=1)
            hint = f"Did you mean '{near[0]}'?" if near else f"There are: {', '.join(COMMANDS)}."
            raise click.UsageError(f"No such command '{name}'. {hint}", ctx)
        return super().resolve_command(ctx, args)


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        import latentc

        click.echo(f"latentc {latentc.__version__}")
        ctx.exit()


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version.",
)
def group() -> None:
    """Compiles any diffusers pipeline for the device it will run on, and proves that the result is right.

    \b
    Examples:
      latentc compile shapes out --target openvino
      latentc generate out "a large red circle at the left on a blue background" -o out.png
    """


def _say(*lines: str) -> None:
    """Prints lines to stderr, if there is one that takes them.

    Messages quote files that others wrote: nothing in them is a command to a terminal.
    """
    if sys.stderr is None:
        return
    with suppress(OSError):
        for line in (part for text in lines for part in text.split("\n")):
            if line:
                print(plain(line), file=sys.stderr)
        sys.stderr.flush()


def _fail(message: str, hint: str, status: int, as_json: bool, shown: bool = False) -> NoReturn:
    """Ends the command: the message goes to stderr, and to stdout as JSON where that was asked for.

    Args:
        shown: whether stderr has the message already.
    """
    if not shown:
        _say(f"Error: {message}", hint)
    if as_json and sys.stdout is not None:
        try:
            print(json.dumps({"error": message, "hint": hint, "status": status}, indent=2))
            sys.stdout.flush()
        except OSError:
            _drop_stdout()
    raise SystemExit(status)


class _Stdout(io.FileIO):
    """Standard output, whose errors say that they are its own."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise StdoutError(error.errno, error.strerror or "") from error


class StdoutError(OSError):
    """Standard output takes no more."""


def _open_standard_streams() -> None:
    """Has standard streams that are closed (``2>&-``, a program without a console) be the null device.

    Else the next file that is opened, one of an artifact perhaps, takes the number of such a stream, and what a library
    in C prints lands in it; and libraries in Python fail at a `sys.stderr` that is None.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def _named_stdout() -> None:
    """Has what goes wrong with standard output raise `StdoutError`, and escapes characters that its encoding lacks."""
    stream = sys.stdout
    if not isinstance(stream, io.TextIOWrapper):
        return
    stream.reconfigure(errors="backslashreplace")
    raw = getattr(stream.buffer, "raw", stream.buffer)  # Python may have been told not to buffer
    if (
        stream is not sys.__stdout__ or type(raw) is not io.FileIO
    ):  # A console of Windows has a class of its own.
        return
    file = _Stdout(stream.fileno(), "wb", closefd=False)
    sys.stdout = io.TextIOWrapper(
        cast(Any, file) if raw is stream.buffer else io.BufferedWriter(file),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _drop_stdout() -> None:
    """Nobody reads stdout, or it takes no more: what is left for it goes nowhere, also when the interpreter ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.stdout.flush()


def _prints_json(words: Sequence[str]) -> bool:
    """Whether a command line asks for JSON on stdout; it may be wrong in all else."""
    command: click.Command | None = group
    context = click.Context(group)
    for word in words:
        if word == "--":
            break
        if isinstance(command, click.Group):
            command = command if word.startswith("-") else command.get_command(context, word)
        elif word == "--json" and command is not None:
            return any(isinstance(p, click.Option) and p.is_flag and word in p.opts for p in command.params)
    return False


def _run(args: Sequence[str], as_json: bool) -> NoReturn:
    """Runs one command, and exits with its status, or with that of a message that was printed."""
    status: Any = 0
    try:
        try:
            with temporary.own_folder():
                group.main(args=list(args), prog_name="latentc", standalone_mode=False)
        except SystemExit as ended:
            status = ended.code
        if sys.stdout is not None:
            sys.stdout.flush()
    except LatentcError as error:
        _fail(error.message, error.hint, error.exit_code, as_json)
    except click.ClickException as error:
        with suppress(OSError):
            error.show()
        _fail(error.format_message(), "", error.exit_code, as_json, shown=True)
    except (click.Abort, KeyboardInterrupt):
        _say("Interrupted.")
        _fail("interrupted.", "", INTERRUPTED, as_json, shown=True)
    except (StdoutError, BrokenPipeError) as error:
        _drop_stdout()
        if error.errno != errno.EPIPE:  # else the reader (head, less) has what it wanted
            _say(f"Error: standard output cannot be written: {error.strerror}.")
        raise SystemExit(1) from None
    except foreseen.KINDS as error:
        if (translated := foreseen.message(error)) is None:
            raise
        _fail(translated.message, translated.hint, translated.exit_code, as_json)
    raise SystemExit(status)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs one command and exits: 0 done, 1 it failed, 2 the request was wrong, 130 interrupted.

    A `LatentcError`, and what the system refuses (`artifacts.foreseen`), is printed without a traceback; any other
    exception is a bug and keeps its own.
    """
    telemetry.off()
    garbage.collect_rarely()
    quiet_libraries()
    _open_standard_streams()
    _named_stdout()
    words = sys.argv[1:] if args is None else list(args)
    _run(words, _prints_json(words))
