"""docs/cli.md from the commands' own help: `make docs` writes it, and a test compares it."""

from __future__ import annotations

from pathlib import Path

import click

from latentc.cli import COMMANDS, group

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
WIDTH = 96

HEAD = """\
# Commands

<!-- Written by `make docs`; edit the commands' help instead. -->

Exit statuses and errors: [errors.md](errors.md).
"""


def help_of(command: click.Command, name: str, parent: click.Context | None = None) -> str:
    """What `--help` prints, in lines of at most `WIDTH`."""
    context = click.Context(
        command, info_name=name, parent=parent, terminal_width=WIDTH, help_option_names=["-h", "--help"]
    )
    return "\n".join(line.rstrip() for line in command.get_help(context).splitlines())


def page() -> str:
    """The whole page."""
    top = click.Context(group, info_name="latentc", terminal_width=WIDTH, help_option_names=["-h", "--help"])
    parts = [HEAD, f"## latentc\n\n```text\n{help_of(group, 'latentc')}\n```\n"]
    for name in COMMANDS:
        command = group.get_command(top, name)
        assert command is not None
        parts.append(f"## latentc {name}\n\n```text\n{help_of(command, name, top)}\n```\n")
        if isinstance(command, click.Group):
            context = click.Context(command, info_name=name, parent=top)
            for inner, child in sorted(command.commands.items()):
                text = help_of(child, inner, context)
                parts.append(f"### latentc {name} {inner}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8", newline="\n")
    print(f"wrote {PAGE}")
