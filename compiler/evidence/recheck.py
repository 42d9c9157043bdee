"""A finished artifact's numbers, measured again: its files against PyTorch and the model it came from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from artifacts import artifact_paths
from artifacts.errors import LatentcError
from artifacts.evidence_records import Evidence
from artifacts.hashing import file_record, record_path
from artifacts.manifest import GraphRecord, Manifest
from artifacts.pinned import Pinned
from artifacts.progress import Progress, silent
from artifacts.verification import Artifact
from compiler.capture.arguments import parse_arguments
from compiler.capture.capture import Capture, capture
from compiler.capture.declared_sizes import SizeRange
from compiler.capture.infer import Method
from compiler.capture.split import NotOneGraph, Submodule
from compiler.evidence.claims import contents, require_schemes, stored_in
from compiler.evidence.file_comparison import compare
from compiler.evidence.graph_evidence import Checker
from compiler.evidence.merged_files import located
from compiler.evidence.where import Finding, Locator
from compiler.model_source import ModelSource
from compiler.plan import parameters
from compiler.road import NONE, Road
from compiler.source import open_model
from runtimes.compute import AUTO, broken, choose, device_of
from runtimes.sessions import session_table as sessions
from runtimes.sessions.exact_sizes import sized
from targets import target_table as targets
from targets.target_contract import Target


def recheck(
    artifact: Artifact,
    progress: Progress = silent,
    compute: str = AUTO,
    on_findings: Callable[[tuple[Finding, ...]], None] | None = None,
    loras: Sequence[Path] = (),
) -> dict[str, tuple[Evidence, ...]]:
    """Compares every graph of a verified artifact with PyTorch, at one set of shapes.

    The dry run of the compile is repeated for the inputs. A graph whose check needs more memory than there is
    is "not measured". Tolerances are ours; what the manifest says of graphs and calls is held to the files and to the
    dry run.

    Args:
        compute: the only type to measure; "auto" for fp32 and what runs here by default.
        on_findings: is told where a graph leaves its tolerance in a type that fails it; where that is an error, the
            error says so. None: nobody asks.
        loras: where adapters are that were merged; those that are beside the model need not be named.

    Returns:
        Folder of the graph -> what was measured, for each type.

    Raises:
        LatentcError: the model is not there or not the one that was compiled, the libraries installed here
            call it in another way, the manifest says what the files are not, or a graph is beyond its tolerance; of
            a type that the manifest says the graph is not computed in by default, that is no error.
        UsageError: the device does not have the type, or the artifact's target is not installed here.
    """
    manifest = artifact.manifest
    factory = sessions.get(manifest.target)
    device = device_of(factory, AUTO)
    target = targets.get(manifest.target)
    if device is not None:
        for graph in manifest.graphs:
            choose(compute, device, graph)
    source = _source(manifest, progress, loras)
    captured = _capture(manifest, source, progress)
    _require_source(manifest, source, captured)
    methods = _methods(manifest, captured)
    evidence: dict[str, tuple[Evidence, ...]] = {}
    verified = Pinned(artifact)
    with Checker() as checker:
        for graph in manifest.graphs:
            method = methods[graph.folder]
            stored = None
            if device is not None and not factory.lacks(graph.built):
                # A session looks through its file before anything parses it.
                kind = choose(compute, device, graph)
                opened = sized(factory, graph.inputs, graph.dims)
                opened.open(artifact.root / graph.model_file, AUTO, kind, None, graph.built).close()
                stored = contents(target, factory, graph, artifact.root)
                require_schemes(graph, stored)
            evidence[graph.folder] = compare(
                checker,
                source,
                method,
                artifact.root / graph.model_file,
                target=target.name,
                tolerance=target.requirements.tolerance,
                precision=graph.precision,
                weights=graph.weights,
                approximations=graph.approximations,
                built=graph.built,
                parameters=parameters(method, captured),
                check="quick",
                progress=progress,
                compute=compute,
                stored=stored_in(graph, stored),
                locator=None
                if on_findings is None
                else _locator(graph, target, captured, method, source, progress),
                on_findings=on_findings or (lambda findings: None),
            )
            verified.check(graph.folder)
            for measured in evidence[graph.folder]:
                if measured.broken and not broken(graph, measured.compute):
                    raise LatentcError(
                        f"'{graph.folder}' is computed in {measured.compute} here, and is not PyTorch's: "
                        f"{measured.broken}.",
                        "Run it with --compute fp32, or compile the model again on this machine.",
                    )
    return evidence


def _locator(
    graph: GraphRecord,
    target: Target,
    captured: Capture,
    method: Method,
    source: ModelSource,
    progress: Progress,
) -> Locator:
    """Looks for an error in a graph, beside the graph that a compile would make of the model now."""
    from compiler.export.graph_export import export_graph

    road = Road.to(
        target,
        graph.precision,
        ",".join(graph.rewrites) or NONE,
        approximate=",".join(graph.approximations),
    )
    component = source.component(method.component)
    weights = captured.weights[method.component]
    largest = {name: span.max for name, span in graph.dims.items()}
    return Locator(lambda: export_graph(component, method, weights), road, progress, largest)


def _methods(manifest: Manifest, captured: Capture) -> dict[str, Method]:
    """Folder of each graph -> what calls it, which is what the manifest says of it.

    Raises:
        LatentcError: it is something else, a graph that the pipeline calls is not there, or one too many is.
    """
    graphs = {graph.folder: graph for graph in manifest.graphs}
    calls = {
        record.graph: (part.name, part.class_path, record)
        for part in manifest.components
        for record in part.methods
    }
    if calls.keys() != graphs.keys() or len(calls) != sum(len(part.methods) for part in manifest.components):
        raise LatentcError(
            "the manifest's components and graphs are not each other's: "
            f"{', '.join(sorted(calls.keys() ^ graphs.keys())) or 'one graph answers several calls'}.",
            "Compile the model again.",
        )
    methods = {method.folder: method for method in captured.methods}
    for folder in (*graphs, *methods):
        same = folder in graphs and folder in methods
        if same:
            graph, method, (component, class_path, record) = graphs[folder], methods[folder], calls[folder]
            same = (graph.inputs, graph.outputs, graph.dims) == (method.inputs, method.outputs, method.dims)
            same &= (component, class_path) == (method.component, captured.classes[method.component])
            same &= (record.method, record.arguments, record.result, record.state) == (
                method.method,
                method.arguments,
                method.result,
                method.state,
            )
        if not same:
            raise LatentcError(
                f"the installed libraries do not call '{folder}' as those it was compiled with.",
                "See what differs: latentc verify ARTIFACT (its notes on the toolchain).",
            )
    return methods


def _require_source(manifest: Manifest, source: ModelSource, captured: Capture) -> None:
    """Every weight file that the graphs' components have is one whose hash the manifest tells.

    Raises:
        LatentcError: one is not; the reference would be weights that nobody has compared.
    """
    recorded = {record.path for record in manifest.source.weights}
    for name in dict.fromkeys(method.component for method in captured.methods):
        for file in source.component(name).weight_files:
            path = record_path(source.root, file)
            if path not in recorded:
                raise LatentcError(
                    f"{manifest.source.id} is not the model that was compiled: the manifest does not tell {path}.",
                    "Compile it again, or bring the model back.",
                )


def _source(manifest: Manifest, progress: Progress, loras: Sequence[Path] = ()) -> ModelSource:
    """The model that the manifest names, if its weight files are the same."""
    spec = manifest.source.spec
    source = open_model(manifest.source.id if spec is None else located(spec, loras, progress))
    # Single files, adapters and other components lie where the specification says.
    elsewhere = set() if manifest.source.spec is None else _files(source)
    for record in manifest.source.weights:
        if record.path not in elsewhere and (fault := artifact_paths.fault(record.path)):
            raise LatentcError(
                f"the manifest names a weight file of the source that {fault}: {artifact_paths.shown(record.path)}.",
                "Compile the model again.",
            )
        file = source.root / record.path
        if not file.is_file() or file_record(source.root, file, progress) != record:
            raise LatentcError(
                f"{manifest.source.id} is not the model that was compiled: "
                f"{record.path} is missing or has changed.",
                "Compile it again, or bring the model back.",
            )
    return source


def _files(source: ModelSource) -> set[str]:
    """The files that the source's weights are made of, as records name them."""
    files = [file for component in source.modules for file in component.weight_files]
    return {record_path(source.root, file) for file in (*files, *source.added)}


def _capture(manifest: Manifest, source: ModelSource, progress: Progress) -> Capture:
    size = SizeRange(height=manifest.sizes["height"], width=manifest.sizes["width"])
    overrides = parse_arguments(manifest.arguments)
    split = {part: NotOneGraph(part, f"'{part}' was compiled in parts.") for part in _split(manifest)}
    batch = manifest.sizes["batch"]
    tasks = tuple(manifest.pipelines)

    def captured(fixed_rows: Collection[tuple[str, str]]) -> Capture:
        return capture(
            source,
            tasks,
            size,
            batch,
            overrides,
            progress,
            split=split,
            frames=manifest.sizes.get("frames"),
            tokens=manifest.sizes.get("tokens"),
            fixed_rows=fixed_rows,
        )

    first = captured(())
    fixed_rows = _fixed_rows(manifest, first.methods)
    return captured(fixed_rows) if fixed_rows else first


def _fixed_rows(manifest: Manifest, methods: Sequence[Method]) -> set[tuple[str, str]]:
    """Those of the methods that have a graph for each number of rows in the artifact."""
    graphs = {graph.folder: graph for graph in manifest.graphs}
    compiled = {
        (part.name, record.method): graphs[record.graph]
        for part in manifest.components
        for record in part.methods
        if record.graph in graphs
    }
    fixed_rows: set[tuple[str, str]] = set()
    for method in methods:
        graph = compiled.get((method.component, method.method))
        shapes = {} if graph is None else {spec.name: spec.shape for spec in graph.inputs}
        for spec in method.inputs:
            for size, now in zip(spec.shape, shapes.get(spec.name, ()), strict=False):
                if size in method.rows and isinstance(now, int):
                    fixed_rows.add((method.component, method.method))
    return fixed_rows


def _split(manifest: Manifest) -> set[Submodule]:
    """The modules whose parts are graphs of the artifact, in place of themselves."""
    split: set[Submodule] = set()
    for component in manifest.components:
        for method in component.methods:
            names = method.method.split(".")[:-1]
            split |= {Submodule(component.name, ".".join(names[:end])) for end in range(len(names))}
    return split
