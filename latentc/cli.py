"""The `latentc` command: finds a command's module, runs it, and turns errors into exit statuses.

Nothing heavy is imported here or at the top of a command's module: `--help` has to answer at once.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn, cast

import click

from artifacts import telemetry
from artifacts.errors import LatentcError
from runtimes.quiet import quiet_libraries

# Name -> module:object and what `latentc --help` says of it, in the order in which it lists them. The words stand
# here, beside each command's own docstring (a test compares them), so that help imports no command.
COMMANDS: dict[str, tuple[str, str]] = {
    "compile": ("latentc.commands.compile:command", "Compile a diffusers pipeline for a target."),
    "generate": ("latentc.commands.generate:command", "Draw pictures with an artifact."),
    "grid": ("latentc.commands.grid:command", "Draw one picture over up to three options."),
    "bench": ("latentc.commands.bench:command", "Measure speed, memory and quality against PyTorch."),
    "inspect": ("latentc.commands.inspect:command", "Show what is in an artifact or a model."),
    "verify": ("latentc.commands.verify:command", "Check an artifact's files, and its numbers too."),
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


def _fail(error: LatentcError) -> NoReturn:
    print(f"Error: {error.message}", file=sys.stderr)
    if error.hint:
        print(error.hint, file=sys.stderr)
    raise SystemExit(error.exit_code)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs one command and exits: 0 done, 1 it failed, 2 the request was wrong, 130 interrupted.

    A `LatentcError` is printed without a traceback; any other exception is a bug and keeps its own.
    """
    telemetry.off()
    quiet_libraries()
    # A character that the terminal's encoding lacks is escaped; it must not end the command.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    extra: dict[str, Any] = {} if args is None else {"args": list(args)}
    try:
        group.main(prog_name="latentc", standalone_mode=False, **extra)
    except LatentcError as error:
        _fail(error)
    except click.ClickException as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    except (click.Abort, KeyboardInterrupt):
        print("Interrupted.", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        # The reader (head, less) has gone; keep the interpreter from complaining when it flushes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    raise SystemExit(0)
