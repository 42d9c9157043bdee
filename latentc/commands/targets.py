"""`latentc targets`: what can be compiled for, and what is missing here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from runtimes.sessions.base import Device
    from targets.base import Target


@click.command(
    name="targets",
    short_help="List the targets, and what is missing for each.",
    epilog="""\b
Example:
  latentc targets
""",
)
@click.option(
    "--json", "json_output", is_flag=True, help="Print them as JSON, with each target's own options."
)
def command(json_output: bool) -> None:
    """List the targets: what each is, whether it can be used here, and if not, what installs it."""
    from latentc import show
    from targets import table

    described = [_describe(name, table.get(name)) for name in table.names()]
    if json_output:
        show.as_json(described)
        return
    show.table(
        ("target", "what it is", "precisions", "devices here"),
        (
            (
                row["name"],
                row["summary"],
                ", ".join(row["precisions"]),
                ", ".join(_device(name, row["computes"][name]) for name in row["devices"])
                if row["available"]
                else f"no: {row['reason']}; run: {row['install']}",
            )
            for row in described
        ),
    )
    options = [(row["name"], option) for row in described for option in row["options"]]
    if options:
        click.echo()
        show.table(
            ("target", "--option", "default", "what it does"),
            ((name, o["name"], o["default"], o["help"]) for name, o in options),
        )


def _describe(name: str, target: Target) -> dict[str, Any]:
    from latentc.target_options import described

    here = target.available()
    devices = _devices(name) if here.ok else ()
    order = ("fp32", "fp16", "bf16")
    return {
        "name": name,
        "summary": target.summary,
        "available": here.ok,
        "reason": here.reason,
        "install": here.install,
        "precisions": sorted(target.requirements.precisions, key=order.index),
        "dynamic_shapes": target.requirements.dynamic_shapes,
        "opset": list(target.requirements.opset),
        "options": described(target.options),
        "devices": {device.name: device.description for device in devices},
        "computes": {device.name: list(device.computes) for device in devices},
        "toolchain": dict(target.toolchain()) if here.ok else {},
    }


def _device(name: str, computes: list[str]) -> str:
    """ "cpu (bf16, fp32)": with the types that it computes in, the default first."""
    return f"{name} ({', '.join(computes)})" if computes else name


def _devices(name: str) -> tuple[Device, ...]:
    from runtimes.sessions import table

    # A target can be built for devices that nothing here runs.
    return table.get(name).devices() if name in table.names() else ()
