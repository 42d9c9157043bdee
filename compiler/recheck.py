"""A finished artifact's numbers, measured again: its files against PyTorch and the model it came from."""

from __future__ import annotations

from artifacts.errors import LatentcError
from artifacts.hashing import file_record
from artifacts.manifest import Evidence, GraphRecord, Manifest
from artifacts.progress import Event, Progress, silent
from artifacts.verify import Artifact
from compiler.capture.arguments import parse_given
from compiler.capture.capture import Capture, SizeRange, capture
from compiler.capture.infer import Method
from compiler.capture.samples import write_points
from compiler.check import Checker, Job, memory_available, memory_needed
from compiler.source import ComponentSource, ModelSource, open_model


def recheck(artifact: Artifact, progress: Progress = silent) -> dict[str, Evidence]:
    """Compares every graph of a verified artifact with PyTorch, at one set of shapes.

    The dry run of the compile is repeated for the inputs. A graph whose check needs more memory than there is
    is "not measured".

    Returns:
        Folder of the graph -> what was measured.

    Raises:
        LatentcError: the model is not there or not the one that was compiled, the libraries installed here
            call it in another way, or a graph is beyond its tolerance.
    """
    manifest = artifact.manifest
    source = _source(manifest, progress)
    captured = _capture(manifest, source, progress)
    methods = {method.folder: method for method in captured.methods}
    found: dict[str, Evidence] = {}
    with Checker() as checker:
        for graph in manifest.graphs:
            method = methods.get(graph.folder)
            if method is None or (method.inputs, method.outputs) != (graph.inputs, graph.outputs):
                raise LatentcError(
                    f"the installed libraries do not call '{graph.folder}' as those it was compiled with.",
                    "See what differs: latentc verify ARTIFACT (its notes on the toolchain).",
                )
            found[graph.folder] = _measure(artifact, graph, method, source, checker, progress)
    return found


def _source(manifest: Manifest, progress: Progress) -> ModelSource:
    """The model that the manifest names, if its weight files are the same."""
    source = open_model(manifest.source.id)
    for record in manifest.source.weights:
        file = source.root / record.path
        if not file.is_file() or file_record(source.root, file, progress) != record:
            raise LatentcError(
                f"{manifest.source.id} is not the model that was compiled: "
                f"{record.path} is missing or has changed.",
                "Compile it again, or bring the model back.",
            )
    return source


def _capture(manifest: Manifest, source: ModelSource, progress: Progress) -> Capture:
    size = SizeRange(height=manifest.sizes["height"], width=manifest.sizes["width"])
    given = parse_given(manifest.arguments)
    return capture(source, tuple(manifest.pipelines), size, manifest.sizes["batch"], given, progress)


def _measure(
    artifact: Artifact,
    graph: GraphRecord,
    method: Method,
    source: ModelSource,
    checker: Checker,
    progress: Progress,
) -> Evidence:
    needed, available = memory_needed(graph.parameters), memory_available()
    if needed > available:
        reason = f"it takes {needed / 2**30:.1f} GiB of memory; {available / 2**30:.1f} GiB are free"
        return Evidence(check="not measured", reason=reason)
    component: ComponentSource = next(c for c in source.components if c.name == method.component)
    task = f"{graph.folder}: comparing with PyTorch"
    progress(Event(task, 0, None))
    with write_points(method, 1) as points:
        job = Job(
            target=artifact.manifest.target,
            device="auto",
            precision=graph.precision,
            schemes=tuple(sorted({weight.scheme.partition(":")[0] for weight in graph.weights})),
            model_file=str(artifact.root / graph.model_file),
            component=component.name,
            library=component.library,
            class_name=component.class_name,
            folder=str(component.folder),
            method=method.method,
            arguments=method.arguments,
            inputs=method.inputs,
            outputs=method.outputs,
            points=tuple(str(point) for point in points),
        )
        evidence = checker.run(job, "quick")
    progress(Event(task, 1, 1))
    return evidence
