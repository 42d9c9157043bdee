"""`latentc verify`: is an artifact still what was published, and does it still compute what PyTorch does?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from latentc.params import compute_option

if TYPE_CHECKING:
    from artifacts.manifest import Evidence, Manifest
    from artifacts.verify import Finding


@click.command(
    name="verify",
    short_help="Check an artifact's files, and its numbers too.",
    epilog="""\b
Examples:
  latentc verify out
  latentc verify out --numerics
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
@click.option("--json", "json_output", is_flag=True, help="Print what was found as JSON.")
def command(artifact: str, numerics: bool, compute: str, json_output: bool) -> None:
    """Check ARTIFACT against its manifest: hashes, sizes, links, unlisted files, toolchain.

    Exits with 1 when anything is wrong, or when numbers were asked for and could not be measured. A toolchain
    other than the one that compiled it is told and is no fault.
    """
    from pathlib import Path

    from artifacts.reading import read_manifest
    from artifacts.verify import Artifact, verify
    from latentc import show
    from latentc.evidence import is_measured
    from latentc.progress import bars

    if compute != "auto" and not numerics:
        raise click.UsageError("--compute is what --numerics computes in: it needs --numerics.")
    root = Path(artifact).absolute()
    manifest = read_manifest(root)
    changed = _changed_tools(manifest.toolchain)
    evidence: dict[str, tuple[Evidence, ...]] = {}
    with bars() as progress:
        findings = verify(root, progress=progress)
        if numerics and not findings:
            from compiler.evidence.recheck import recheck

            evidence.update(recheck(Artifact(root, manifest), progress, compute))
    unmeasured = [folder for folder, found in evidence.items() if not is_measured(found)]
    ok = not findings and not unmeasured
    if json_output:
        show.as_json(
            {
                "artifact": str(root),
                "ok": ok,
                "findings": [{"path": f.path, "problem": f.problem} for f in findings],
                "toolchain": [{"package": n, "compiled": was, "installed": now} for n, was, now in changed],
                "numerics": {
                    folder: [each.model_dump(mode="json") for each in found]
                    for folder, found in evidence.items()
                },
            }
        )
    else:
        _print(manifest, findings, changed, evidence, asked=numerics)
        if unmeasured:
            click.echo(f"The numbers of {', '.join(unmeasured)} are not measured, and may be wrong.")
    raise SystemExit(0 if ok else 1)


def _print(
    manifest: Manifest,
    findings: tuple[Finding, ...],
    changed: list[tuple[str, str, str | None]],
    evidence: dict[str, tuple[Evidence, ...]],
    asked: bool,
) -> None:
    from latentc import show
    from latentc.evidence import lines

    for package, was, now in changed:
        click.echo(f"note: compiled with {package} {was}, here is {now or 'none'}.")
    for finding in findings:
        click.echo(str(finding))
    if findings:
        click.echo(f"{len(findings)} of {len(manifest.files)} files are wrong. Compile the model again.")
        if asked:
            click.echo("Numbers: not measured, since the files are not those that were compiled.")
        return
    total = show.size(sum(file.size for file in manifest.files))
    click.echo(f"All {len(manifest.files)} files ({total}) are as they were compiled.")
    if evidence:
        show.table(
            ("graph", "error to PyTorch"), ((folder, lines(found)) for folder, found in evidence.items())
        )


def _changed_tools(recorded: dict[str, str]) -> list[tuple[str, str, str | None]]:
    """(package, version that compiled, version installed here or None) where the two differ."""
    from importlib.metadata import PackageNotFoundError, version
    from platform import python_version

    changed = []
    for package, was in recorded.items():
        try:
            now: str | None = python_version() if package == "python" else version(package)
        except PackageNotFoundError:
            now = None
        if now != was:
            changed.append((package, was, now))
    return changed
