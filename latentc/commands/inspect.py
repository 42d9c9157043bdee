"""`latentc inspect`: what is in an artifact, or in a model before it is compiled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from latentc.params import PixelsType, json_option

if TYPE_CHECKING:
    from artifacts.manifest import GraphRecord, Manifest
    from latentc.api.inspecting import ModelSummary


@click.command(
    name="inspect",
    short_help="Show what is in an artifact or a model.",
    epilog="""\b
Examples:
  latentc inspect out
  latentc inspect shapes --json
  latentc inspect out --against other
""",
)
@click.argument("artifact_or_model", metavar="ARTIFACT|MODEL")
@click.option(
    "--against",
    type=click.Path(),
    metavar="ARTIFACT",
    help="Instead: in which files this other artifact differs, and what the manifests say of the reason.",
)
@json_option("Print it as JSON; of an artifact, the whole manifest.")
@click.option(
    "--memory",
    is_flag=True,
    help="Print what an artifact's graphs need while they are open, and which stay open with the memory that is free.",
)
@click.option(
    "--size", type=PixelsType(), metavar="WxH", help="With --memory: of the picture. [default: the largest]"
)
def command(
    artifact_or_model: str,
    against: str | None,
    json_output: bool,
    memory: bool,
    size: tuple[int, int] | None,
) -> None:
    """Show an artifact's components, parameters, precision, bytes, shapes and evidence; of a quantized
    one also its ten worst weights.

    Of a MODEL (a diffusers folder, a hub id or a built-in name): its components and parameters. No weight is
    read in either case; latentc verify does that.
    """
    from latentc import show
    from latentc.api import inspecting
    from latentc.progress_bars import bars

    if size is not None and not memory:
        raise click.UsageError("--size is of what --memory tells; ask for both.")
    if against is not None and memory:
        raise click.UsageError("--against and --memory are two questions; ask one.")
    if against is not None:
        _print_differences(artifact_or_model, against, json_output)
        return
    with bars() as progress:
        described = inspecting.inspect(artifact_or_model, progress=progress)
    if memory:
        if isinstance(described, inspecting.ModelSummary):
            raise click.UsageError("--memory is of artifacts; compile the model first.")
        _print_memory(described, size, json_output)
    elif isinstance(described, inspecting.ModelSummary):
        if json_output:
            show.as_json(_as_json(described))
        else:
            _print_model(described)
    elif json_output:
        show.as_json(described.model_dump(mode="json"))
    else:
        _print_manifest(described)


def _print_differences(first: str, second: str, json_output: bool) -> None:
    import json
    from dataclasses import asdict
    from pathlib import Path

    from artifacts.difference import field_differences, file_differences
    from artifacts.manifest_reading import read_manifest
    from latentc import show

    manifests = read_manifest(Path(first).absolute()), read_manifest(Path(second).absolute())
    files, fields = file_differences(*manifests), field_differences(*manifests)
    if json_output:
        show.as_json(
            {"files": [asdict(file) for file in files], "fields": [asdict(field) for field in fields]}
        )
        return
    for file in files:
        click.echo(str(file))
    if not files:
        click.echo(f"All {len(manifests[0].files)} files are the same.")
    if fields:
        show.table(
            ("manifest", "first", "second"),
            (
                (difference.field, json.dumps(difference.first), json.dumps(difference.second))
                for difference in fields
            ),
        )


def _print_manifest(manifest: Manifest) -> None:
    from latentc import evidence, show

    methods = {
        graph.folder: sorted(
            f"{component.name}.{method.method}"
            for component in manifest.components
            for method in component.methods
            if method.graph == graph.folder
        )
        for graph in manifest.graphs
    }
    size = {
        graph.folder: sum(f.size for f in manifest.files if f.path.startswith(f"{graph.folder}/"))
        for graph in manifest.graphs
    }
    show.table(
        ("graph", "answers", "weights", "parameters", "bytes", "error to PyTorch"),
        (
            (
                graph.folder,
                ", ".join(dict.fromkeys(methods[graph.folder])),
                graph.precision + _schemes(graph),
                show.number(graph.parameters),
                show.size(size[graph.folder]),
                evidence.lines(graph.evidence),
            )
            for graph in manifest.graphs
        ),
        right=("parameters", "bytes"),
    )
    click.echo()
    show.table(
        ("graph", "inputs", "outputs"),
        (
            (graph.folder, _specs(graph, graph.inputs), _specs(graph, graph.outputs))
            for graph in manifest.graphs
        ),
    )
    click.echo()
    source = manifest.source.id + (f" at {manifest.source.revision}" if manifest.source.revision else "")
    facts = {
        "source": source + (f", licence {manifest.source.license}" if manifest.source.license else ""),
        "target": f"{manifest.target}, device {manifest.device}, weights in {manifest.precision}",
        "measured": evidence.measured_in(manifest) or "in no type that is known",
        "tasks": ", ".join(manifest.pipelines),
        "sizes": ", ".join(f"{name} {dim.text}" for name, dim in manifest.sizes.items()),
        "opened by": ", ".join(("latentc", *_other_loaders(manifest))),
        "on disk": show.size(sum(file.size for file in manifest.files)),
        "compiled": manifest.created,
        "toolchain": ", ".join(f"{name} {version}" for name, version in sorted(manifest.toolchain.items())),
    }
    if manifest.options:
        facts["options"] = ", ".join(f"{name}={value}" for name, value in manifest.options.items())
    for name, value in facts.items():
        click.echo(f"{name:<10}{show.plain(value)}")
    for line in _made_of(manifest):
        click.echo(show.plain(line))
    for component in manifest.components:
        if parts := {m.graph for m in component.methods if "." in m.method}:
            click.echo(
                show.plain(f"in parts  {component.name}: {len(parts)} graphs, its own Python between them")
            )
    for drawn in manifest.pipeline_evidence:
        click.echo(show.plain(evidence.pipeline_line(drawn)))
    for part in manifest.left_out:
        click.echo(show.plain(evidence.left_out_line(part)))
    for graph in manifest.graphs:
        if graph.rewrites:
            click.echo(show.plain(f"rewritten {graph.folder}: {', '.join(graph.rewrites)}"))
    for graph in manifest.graphs:
        if graph.approximations:
            click.echo(show.plain(evidence.approximation_line(graph)))
    for graph in manifest.graphs:
        for line in graph.kept_fp32:
            click.echo(show.plain(f"in fp32   {graph.folder}: {line}"))
    for graph in manifest.graphs:
        if details := "; ".join(f"{name} {value}" for name, value in graph.built.items() if _is_plain(value)):
            click.echo(show.plain(f"built     {graph.folder}: {details}"))
    for line in (*evidence.forecast_lines(manifest), *evidence.speed_lines(manifest)):
        click.echo(show.plain(line))
    if rows := evidence.trials(manifest):
        show.table(evidence.TRIALS, rows, right=evidence.TRIALS[2:6])
    if any(graph.weights for graph in manifest.graphs):
        _print_quantized(manifest)
    else:
        for pictures in manifest.pictures:
            click.echo(show.plain(evidence.pictures_line(pictures)))


def _print_memory(manifest: Manifest, picture: tuple[int, int] | None, json_output: bool) -> None:
    from artifacts.memory import available
    from latentc import show
    from runtimes.memory_plan import memory_plan

    # What the process takes by itself is of what is free, too.
    plan = memory_plan(manifest, available(), picture=picture, process=True)
    graphs = plan.graphs.values()
    if json_output:
        show.as_json(
            {
                "graphs": [
                    {
                        "graph": graph.graph,
                        "opening": graph.opening,
                        "open": graph.opened,
                        "mapped": graph.mapped,
                        "call": graph.call(graph.largest),
                        "total": graph.total,
                        "basis": "measured" if graph.measured else "derived",
                    }
                    for graph in graphs
                ],
                "process": plan.process,
                "ways": [{"way": way.text, "bytes": way.bytes} for way in plan.ways],
                "together": plan.together,
                "smallest": plan.smallest,
                "free": plan.budget,
                "plan": plan.text,
            }
        )
        return
    show.table(
        ("graph", "open", "a call", "at most", "files mapped", "basis"),
        (
            (
                graph.graph,
                show.size(graph.opened),
                show.size(graph.call(graph.largest)),
                show.size(graph.total),
                show.size(graph.mapped),
                "measured" if graph.measured else "derived",
            )
            for graph in graphs
        ),
        right=("open", "a call", "at most", "files mapped"),
    )
    if plan.process:
        click.echo(f"The process takes {show.size(plan.process)} beside them.")
    for way in plan.ways:
        click.echo(f"{show.size(way.bytes):>9}  {way.text}")
    click.echo(f"Free are {show.size(plan.budget or 0)}: {plan.text}.")
    if not plan.measured:
        click.echo(
            "What is derived is of file sizes and declared shapes, not measured; what a graph computes within is not "
            "in it."
        )


def _made_of(manifest: Manifest) -> Iterator[str]:
    """What the model was made of beside its folder."""
    spec = manifest.source.spec
    if spec is None:
        return
    if spec.config:
        yield f"config    {spec.config}"
    for name, place in spec.components.items():
        yield f"component {name}: {place if isinstance(place, str) else ', '.join(place)}"
    for adapter in spec.adapters:
        yield f"adapter   {adapter.file.removesuffix(adapter.name)}{adapter.text}"
    for embedding in spec.embeddings:
        yield f"embedding {embedding.file}: {embedding.token}, SHA-256 {embedding.sha256}"
    for ip_adapter in spec.ip_adapters:
        yield f"IP-Adapter {ip_adapter.file}, SHA-256 {ip_adapter.sha256}"
    if spec.spare_tokens:
        yield f"tokens    {spec.spare_tokens} vectors of textual inversions can be loaded"


def _other_loaders(manifest: Manifest) -> tuple[str, ...]:
    from artifacts.errors import UsageError
    from targets import target_table
    from targets.other_loaders import opened_by

    try:
        return tuple(opened_by(manifest, target_table.get(manifest.target).loaders))
    except UsageError:  # the target is another package's, which is not installed here
        return ()


def _is_plain(value: object) -> bool:
    """Whether people read it as it is; the rest of what a target says is for its session."""
    return isinstance(value, (str, int, float)) and value != ""


def _print_quantized(manifest: Manifest) -> None:
    from latentc import evidence, show

    click.echo()
    click.echo(evidence.quantized_line(manifest))
    for measured in filter(None, map(evidence.calibration_line, manifest.graphs)):
        click.echo(show.plain(measured))
    for pictures in manifest.pictures:
        click.echo(show.plain(evidence.pictures_line(pictures)))
    for note, keys in evidence.notes(manifest).items():
        more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
        click.echo(show.plain(f"  {note} ({keys[0]}{more})"))
    worst = evidence.worst_weights(manifest)
    if not worst:
        return
    click.echo("The worst of them:")
    show.table(
        ("graph", "weight", "scheme", "bits", "relative error"),
        (
            (
                folder,
                weight.key,
                weight.scheme,
                f"{8 * weight.bytes / weight.parameters:.2f}" if weight.parameters else "-",
                f"{error:.2%}",
            )
            for folder, weight, error in worst
        ),
        right=("bits", "relative error"),
    )


def _schemes(graph: GraphRecord) -> str:
    schemes = sorted({weight.scheme.partition(":")[0] for weight in graph.weights} - {"none"})
    return f", {' and '.join(schemes)}" if schemes else ""


def _specs(graph: GraphRecord, specs: Any) -> str:
    def dim(value: int | str) -> str:
        if isinstance(value, int):
            return str(value)
        return f"{value}={graph.dims[value].text}" if value in graph.dims else value

    return "\n".join(f"{s.name} {s.dtype}[{', '.join(dim(d) for d in s.shape)}]" for s in specs)


def _as_json(model: ModelSummary) -> dict[str, Any]:
    return {
        "id": model.id,
        "folder": str(model.folder),
        "revision": model.revision,
        "pipeline": model.pipeline,
        "components": [
            {"name": part.name, "class": part.class_name}
            if part.parameters is None
            else {
                "name": part.name,
                "class": part.class_name,
                "parameters": part.parameters,
                "bytes": part.bytes,
                "dtypes": dict(part.dtypes),
                "files": list(part.files),
            }
            for part in model.components
        ],
    }


def _print_model(model: ModelSummary) -> None:
    from latentc import show

    click.echo(show.plain(f"{model.id}: {model.pipeline} in {model.folder}"))
    show.table(
        ("component", "class", "stored as", "parameters", "bytes"),
        (
            (
                part.name,
                part.class_name,
                ", ".join(part.dtypes),
                "" if part.parameters is None else show.number(part.parameters),
                "" if part.parameters is None else show.size(part.bytes),
            )
            for part in model.components
        ),
        right=("parameters", "bytes"),
    )
