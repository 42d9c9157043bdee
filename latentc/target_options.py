"""A target's own options: what they are, and a command that takes them beside its own."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from targets.base import Target

_META = "latentc.target_options"


def described(options: type[Any]) -> list[dict[str, Any]]:
    """Name, default and help of each option of a target's dataclass."""
    return [
        {"name": field.name, "default": field.default, "help": _help(options, field.name)}
        for field in dataclasses.fields(options)
    ]


def _help(options: type[Any], name: str) -> str:
    """What the class's docstring says of one attribute: its line "name: ..." and the deeper ones after it."""
    found: list[str] = []
    depth = -1
    for line in (inspect.getdoc(options) or "").splitlines():
        indent = len(line) - len(line.lstrip())
        if found and (indent <= depth or not line.strip()):
            break
        if found:
            found.append(line.strip())
        elif line.strip().startswith(f"{name}:"):
            depth = indent
            found.append(line.strip().partition(":")[2].strip())
    return " ".join(found)


class TargetCommand(click.Command):
    """A command with ``--target``, which takes the options of the target that is named as its own, too.

    ``--gpu sm89`` is ``--option gpu=sm89``; ``--target NAME --help`` lists them.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_META] = (_named(args), {})
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        own = super().get_params(ctx)
        target, _ = ctx.meta.get(_META, (None, {}))
        if target is None:
            return own
        taken = {text for parameter in own for text in parameter.opts}
        return own + [_option(row) for row in described(target.options) if f"--{row['name']}" not in taken]


def given(ctx: click.Context) -> tuple[tuple[str, str], ...]:
    """The target's own options that the command line held, as NAME and VALUE."""
    return tuple(ctx.meta[_META][1].items()) if _META in ctx.meta else ()


def _named(args: list[str]) -> Target | None:
    """The target that the arguments name, if they do.

    Raises:
        UsageError: there is no such target.
    """
    name = None
    for i, arg in enumerate(args):
        if arg in ("--target", "-t"):
            name = args[i + 1] if i + 1 < len(args) else None
        elif arg.startswith("--target="):
            name = arg.partition("=")[2]
    if name is None:
        return None
    from targets import table

    return table.get(name)


def _option(row: dict[str, Any]) -> click.Option:
    def keep(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
        if value is not None:
            ctx.meta[_META][1][row["name"]] = value

    return click.Option(
        [f"--{row['name'].replace('_', '-')}", row["name"]],
        type=str,
        metavar="VALUE",
        expose_value=False,
        callback=keep,
        help=f"{row['help'].replace('``', '')}",
    )
