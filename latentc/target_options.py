"""A target's own options: what they are, and a command that takes them beside its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from latentc.api.listing import OptionInfo, options_of

if TYPE_CHECKING:
    from targets.target_contract import Target

_META = "latentc.target_options"


class TargetCommand(click.Command):
    """A command with ``--target``, which takes the options of the target that is named as its own, too.

    ``--gpu sm89`` is ``--option gpu=sm89``; ``--target NAME --help`` lists them. With ``--rebuild`` the target is
    that of the artifact.
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
        return own + [
            _option(option)
            for option in options_of(target.options)
            if f"--{option.name.replace('_', '-')}" not in taken
        ]


def passed_options(ctx: click.Context) -> tuple[tuple[str, str], ...]:
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
    if name is None and "--rebuild" in args:
        name = _compiled_for(args)
    if name is None:
        return None
    from targets import target_table

    return target_table.get(name)


def _compiled_for(args: list[str]) -> str | None:
    """The target of the artifact that the arguments name; None where they name nothing, as the command says itself.

    Raises:
        LatentcError: it is no artifact.
    """
    from pathlib import Path

    from artifacts.manifest import MANIFEST_NAME
    from artifacts.manifest_reading import read_manifest

    # An option's value may come first; it is no folder with a manifest.
    words = [arg for arg in args if not arg.startswith("-")]
    folders = [word for word in words if (Path(word) / MANIFEST_NAME).is_file()]
    return read_manifest(Path((folders or words)[0])).target if words else None


def _option(option: OptionInfo) -> click.Option:
    def keep(ctx: click.Context, parameter: click.Parameter, value: str | bool | None) -> None:
        if value is not None:
            ctx.meta[_META][1][option.name] = str(value)

    name = f"--{option.name.replace('_', '-')}"
    flag = isinstance(option.default, bool)
    return click.Option(
        [f"{name}/--no-{name[2:]}" if flag else name, option.name],
        type=bool if flag else str,
        default=None,
        metavar=None if flag else "VALUE",
        expose_value=False,
        callback=keep,
        help=option.help.replace("``", ""),
    )
