"""A finished artifact's numbers, measured again: its files against PyTorch and the model it came from."""

from __future__ import annotations

from artifacts.errors import LatentcError
from artifacts.hashing import file_record
from artifacts.manifest import Evidence, Manifest
from artifacts.pinned import Pinned
from artifacts.progress import Progress, silent
from artifacts.verify import Artifact
from compiler.capture.arguments import parse_given
from compiler.capture.capture import Capture, SizeRange, capture
from compiler.capture.split import NotOneGraph, Submodule
from compiler.evidence.compare import compare
from compiler.evidence.graphs import Checker
from compiler.source import ModelSource, open_model
from runtimes.compute import AUTO, broken, choose, device_of
from runtimes.sessions import table as sessions
from targets import table as targets


def recheck(
    artifact: Artifact, progress: Progress = silent, compute: str = AUTO
) -> dict[str, tuple[Evidence, ...]]:
    """Compares every graph of a verified artifact with PyTorch, at one set of shapes.

    The dry run of the compile is repeated for the inputs. A graph whose check needs more memory than there is
    is "not measured".

    Args:
        compute: the only type to measure; "auto" for fp32 and what runs here by default.

    Returns:
        Folder of the graph -> what was measured, for each type.

    Raises:
        LatentcError: the model is not there or not the one that was compiled, the libraries installed here
            call it in another way, or a graph is beyond its tolerance; of a type that the manifest says the graph
            is not computed in by default, that is no error.
        UsageError: the device does not have the type, or the artifact's target is not installed here.
    """
    manifest = artifact.manifest
    device = device_of(sessions.get(manifest.target), AUTO)
    tolerance = targets.get(manifest.target).requirements.tolerance
    if device is not None:
        for graph in manifest.graphs:
            choose(compute, device, graph)
    source = _source(manifest, progress)
    captured = _capture(manifest, source, progress)
    methods = {method.folder: method for method in captured.methods}
    states = {method.graph: method.state for part in manifest.components for method in part.methods}
    found: dict[str, tuple[Evidence, ...]] = {}
    verified = Pinned(artifact)
    with Checker() as checker:
        for graph in manifest.graphs:
            method = methods.get(graph.folder)
            recorded = (graph.inputs, graph.outputs, states.get(graph.folder))
            if method is None or (method.inputs, method.outputs, method.state) != recorded:
                raise LatentcError(
                    f"the installed libraries do not call '{graph.folder}' as those it was compiled with.",
                    "See what differs: latentc verify ARTIFACT (its notes on the toolchain).",
                )
            found[graph.folder] = compare(
                checker,
                source.component(method.component),
                method,
                artifact.root / graph.model_file,
                target=manifest.target,
                tolerance=tolerance,
                precision=graph.precision,
                weights=graph.weights,
                built=graph.built,
                parameters=graph.parameters,
                check="quick",
                progress=progress,
                compute=compute,
            )
            verified.check(graph.folder)
            for measured in found[graph.folder]:
                if measured.broken and not broken(graph, measured.compute):
                    raise LatentcError(
                        f"'{graph.folder}' is computed in {measured.compute} here, and is not PyTorch's: "
                        f"{measured.broken}.",
                        "Run it with --compute fp32, or compile the model again on this machine.",
                    )
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
    split = {part: NotOneGraph(part, f"'{part}' was compiled in parts.") for part in _split(manifest)}
    return capture(
        source, tuple(manifest.pipelines), size, manifest.sizes["batch"], given, progress, split=split
    )


def _split(manifest: Manifest) -> set[Submodule]:
    """The modules whose parts are graphs of the artifact, in place of themselves."""
    split: set[Submodule] = set()
    for component in manifest.components:
        for method in component.methods:
            names = method.method.split(".")[:-1]
            split |= {Submodule(component.name, ".".join(names[:end])) for end in range(len(names))}
    return split
