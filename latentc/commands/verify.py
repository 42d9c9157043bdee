"""`latentc verify`: is an artifact still what was published, and does it still compute what PyTorch does?"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from latentc.params import compute_option, json_option, trust_engines_option

if TYPE_CHECKING:
    from latentc.api.inspecting import Verification


@click.command(
    name="verify",
    short_help="Check an artifact's files, and its numbers too.",
    epilog="""\b
Examples:
  latentc verify out
  latentc verify out --numerics
  latentc verify out --numerics --where
  latentc verify out --public-key PUBLIC.pem
""",
)
@click.argument("artifact", type=click.Path())
@click.option(
    "--numerics",
    is_flag=True,
    help="Also compare each component with PyTorch again; needs the model that it was compiled from.",
)
@compute_option(
    "With --numerics: the only type to compute in. [auto: fp32, and what latentc generate computes in here]"
)
@trust_engines_option
@click.option(
    "--where",
    is_flag=True,
    help="With --numerics: where a component leaves its tolerance, name the first nodes that do; needs latentc[debug].",
)
@click.option(
    "--lora",
    "loras",
    multiple=True,
    type=click.Path(),
    metavar="PATH",
    help="With --numerics: where a LoRA is that was merged when it was compiled. May be repeated. "
    "[default: in the model's folder, or beside it]",
)
@click.option(
    "--public-key",
    type=click.Path(),
    metavar="KEY",
    help="Also hold it to its signature: by this key, a PEM file of whom you trust; needs latentc[sign].",
)
@click.option(
    "--signature",
    type=click.Path(),
    metavar="FILE",
    help="The signature.  [default: latentc.sig in ARTIFACT]",
)
@json_option("Print what was found as JSON.")
def command(
    artifact: str,
    numerics: bool,
    compute: str,
    where: bool,
    loras: tuple[str, ...],
    public_key: str | None,
    signature: str | None,
    json_output: bool,
) -> None:
    """Check ARTIFACT against its manifest: hashes, sizes, links, unlisted files, toolchain.

    Exits with 1 when anything is wrong, or when numbers were asked for and could not be measured. A toolchain
    other than the one that compiled it is told and is no fault.
    """
    from latentc import show
    from latentc.api import inspecting
    from latentc.progress_bars import bars

    if compute != "auto" and not numerics:
        raise click.UsageError("--compute is what --numerics computes in: it needs --numerics.")
    if where and not numerics:
        raise click.UsageError("--where is asked of what --numerics measures: it needs --numerics.")
    if loras and not numerics:
        raise click.UsageError("--lora is what --numerics compares with: it needs --numerics.")
    if signature is not None and public_key is None:
        raise click.UsageError("--signature is held to the key of whom you trust: it needs --public-key.")
    with bars() as progress:
        verified = inspecting.verify(
            artifact,
            numerics=numerics,
            compute=compute,
            where=where,
            loras=loras,
            signature=signature,
            public_key=public_key,
            progress=progress,
        )
    if json_output:
        show.as_json(
            {
                "artifact": str(verified.root),
                "ok": verified.ok,
                "manifest_digest": verified.manifest.digest or None,
                "signed": None
                if verified.signed is None
                else {"signature": str(verified.signed.file), "public_key": str(verified.signed.public_key)},
                "findings": [{"path": f.path, "problem": f.problem} for f in verified.findings],
                "toolchain": [asdict(change) for change in verified.toolchain],
                "numerics": {
                    folder: [measurement.model_dump(mode="json") for measurement in measured]
                    for folder, measured in verified.numerics.items()
                },
                "where": [node.model_dump(mode="json") for node in verified.where],
            }
        )
    else:
        _print(verified, numerics=numerics)
        if verified.unmeasured:
            names = show.plain(", ".join(verified.unmeasured))
            click.echo(f"The numbers of {names} are not measured, and may be wrong.")
    raise SystemExit(0 if verified.ok else 1)


def _print(verified: Verification, numerics: bool) -> None:
    from latentc import show
    from latentc.evidence import lines

    manifest, findings = verified.manifest, verified.findings
    if not manifest.digest:
        click.echo(
            "note: the manifest has no digest of its own, as those of earlier versions: a change in it is not noticed."
        )
    for tool in verified.toolchain:
        installed = tool.installed or "none"
        click.echo(show.plain(f"note: compiled with {tool.package} {tool.compiled}, here is {installed}."))
    for finding in findings:
        click.echo(str(finding))
    if findings:
        click.echo(f"{len(findings)} of {len(manifest.files)} files are wrong. Compile the model again.")
        if numerics:
            click.echo("Numbers: not measured, since the files are not those that were compiled.")
        return
    total = show.size(sum(file.size for file in manifest.files))
    click.echo(f"All {len(manifest.files)} files ({total}) are as they were compiled.")
    if verified.signed is not None:
        click.echo(f"They are signed with the key {verified.signed.public_key} ({verified.signed.file}).")
    if verified.numerics:
        show.table(
            ("graph", "error to PyTorch"),
            ((folder, lines(measured)) for folder, measured in verified.numerics.items()),
        )
    for node in verified.where:
        click.echo(show.plain(node))
