"""`latentc sign`: whoever has the public key can tell who made an artifact."""

from __future__ import annotations

import click


@click.command(
    name="sign",
    short_help="Sign an artifact with a private key.",
    epilog="""\b
Examples:
  latentc sign out --key PRIVATE.pem
  latentc verify out --public-key PUBLIC.pem
""",
)
@click.argument("artifact", type=click.Path())
@click.option(
    "--key",
    type=click.Path(),
    required=True,
    metavar="FILE",
    help="The private key: a PEM file of the curve P-256, P-384 or P-521.",
)
def command(artifact: str, key: str) -> None:
    """Sign all of ARTIFACT with a private key, in the format of OpenSSF's model signing.

    The signature is the file latentc.sig in the artifact. It covers every file and the manifest, and so what the
    manifest says of the source's weights. Nothing is sent anywhere. Needs latentc[sign].
    """
    from latentc.api import sharing
    from latentc.progress_bars import bars

    with bars() as progress:
        file = sharing.sign(artifact, key, progress=progress)
    click.echo(f"Signed: {file}")
