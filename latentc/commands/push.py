"""`latentc push`: an artifact on the Hugging Face hub, where `latentc generate owner/name` finds it."""

from __future__ import annotations

import click

from latentc.params import json_option


@click.command(
    name="push",
    short_help="Put an artifact on the Hugging Face hub.",
    epilog="""\b
Examples:
  latentc push out owner/name
  latentc push out owner/name --private --revision int8
  latentc generate owner/name "a large red circle"
""",
)
@click.argument("artifact", type=click.Path())
@click.argument("name", metavar="OWNER/NAME")
@click.option("--private", is_flag=True, help="Where the repository is made: for its owner alone.")
@click.option("--revision", metavar="BRANCH", help="The branch; made where there is none.  [default: main]")
@json_option("Print name, commit and address as JSON.")
def command(artifact: str, name: str, private: bool, revision: str | None, json_output: bool) -> None:
    """Put ARTIFACT on the hub as OWNER/NAME, in one commit, with a model card made from its manifest.

    Every file is compared with the manifest first. A signature goes along. Log in before: hf auth login.
    """
    from dataclasses import asdict

    from latentc import show
    from latentc.api import sharing
    from latentc.progress_bars import bars

    with bars() as progress:
        pushed = sharing.push(artifact, name, private=private, revision=revision, progress=progress)
    if json_output:
        show.as_json(asdict(pushed))
    else:
        click.echo(f"{pushed.url} has it, at commit {pushed.commit}.")
        click.echo(f'Draw with it: latentc generate {pushed.id}@{pushed.commit} "PROMPT"')
