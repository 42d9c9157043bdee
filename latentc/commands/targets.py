"""`latentc targets`: what can be compiled for, and what is missing here."""

from __future__ import annotations

import click

from latentc.params import json_option


@click.command(
    name="targets",
    short_help="List the targets, and what is missing for each.",
    epilog="""\b
Example:
  latentc targets
""",
)
@json_option("Print them as JSON, with each target's own options.")
def command(json_output: bool) -> None:
    """List the targets: what each is, whether it can be used here, and if not, what installs it."""
    from dataclasses import asdict

    from latentc import show
    from latentc.api.listing import targets

    listed = targets()
    if json_output:
        show.as_json([asdict(target) for target in listed])
        return
    show.table(
        ("target", "what it is", "precisions", "devices here"),
        (
            (
                target.name,
                target.summary,
                ", ".join(target.precisions),
                ", ".join(_device(name, target.computes[name]) for name in target.devices)
                if target.available
                else f"no: {target.reason}; run: {target.install}",
            )
            for target in listed
        ),
    )
    options = [(target.name, option) for target in listed for option in target.options]
    if options:
        click.echo()
        show.table(
            ("target", "--option", "default", "what it does"),
            ((name, option.name, option.default, option.help) for name, option in options),
        )


def _device(name: str, computes: tuple[str, ...]) -> str:
    """ "cpu (bf16, fp32)": with the types that it computes in, the default first."""
    return f"{name} ({', '.join(computes)})" if computes else name
