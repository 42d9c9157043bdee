"""`latentc bom`: what an artifact is made of, for tools that keep track of that."""

from __future__ import annotations

import click


@click.command(
    name="bom",
    short_help="Write a bill of materials (CycloneDX).",
    epilog="""\b
Examples:
  latentc bom out
  latentc bom out -o bom.cdx.json
""",
)
@click.argument("artifact", type=click.Path())
@click.option(
    "--output", "-o", type=click.Path(), metavar="FILE", help="Where to write it.  [default: stdout]"
)
def command(artifact: str, output: str | None) -> None:
    """Write the bill of materials of ARTIFACT, as CycloneDX 1.6 JSON: the model and its licence where it was
    recorded, the SHA-256 of its weights and of every file, the tools that compiled it, and what was measured.

    No file but the manifest is read; latentc verify does that. Needs latentc[bom].
    """
    from latentc.api import sharing

    text = sharing.bom(artifact, output)
    if output is None:
        click.echo(text, nl=False)
    else:
        click.echo(f"Written: {output}")
