"""An artifact made again from the graphs that it holds, without the model: for another device, or newer tools."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.cache import cache_dir
from artifacts.creation_time import created_now
from artifacts.errors import LatentcError, UsageError
from artifacts.evidence_records import Evidence, PictureEvidence, PipelineEvidence
from artifacts.hashing import content_key
from artifacts.manifest import FileRecord, GraphRecord, Manifest
from artifacts.pinned import Pinned
from artifacts.progress import Event, Progress, silent
from artifacts.verification import Artifact, open_artifact
from artifacts.workspace import Workspace
from compiler.passes.pass_table import simplify
from runtimes.sessions.onnx_structure import check_onnx
from targets import target_table as targets
from targets.options_from_text import parse
from targets.target_contract import Context, Target

if TYPE_CHECKING:
    import onnx_ir as ir

AGAIN = "built again without the model"


@dataclass(frozen=True)
class RebuildRequest:
    """What to make again, and where to.

    Attributes:
        artifact: the folder of an artifact that `compile` made.
        out: the new artifact's folder; it appears when all is done. It may be `artifact`, with `force`.
        options: the target's own, by name; the others are as the artifact was compiled with.
        force: replace an artifact that is at `out`.
    """

    artifact: Path
    out: Path
    options: Mapping[str, str] = field(default_factory=dict)
    force: bool = False


def rebuild(request: RebuildRequest, progress: Progress = silent) -> Artifact:
    """Makes the target's files again from the graphs in an artifact, and publishes the new artifact.

    Weights are streamed as in a compile. What had been measured of the earlier files is named in the manifest,
    as theirs: the new ones have not been measured.

    Raises:
        UsageError: an option that the target has not, or that is in the graphs already.
        LatentcError: the artifact does not hold, holds no graphs, or they cannot be built; OUT does not appear.
    """
    artifact = open_artifact(request.artifact, progress=progress)
    manifest, verified = artifact.manifest, Pinned(artifact)
    target = targets.get(manifest.target)
    options = _options(target, manifest, request.options)
    files = {file.path: file for file in manifest.files}
    graph_files = {graph.folder: _kept(target, artifact, graph, files) for graph in manifest.graphs}
    availability = target.available()
    if not availability.ok:
        raise LatentcError(
            f"target '{target.name}' cannot be built here: {availability.reason}.", availability.install
        )
    created_now()  # What the environment says of it must not end minutes of work.
    with Workspace(request.out, request.force, progress) as workspace:
        keys = {}
        for graph in manifest.graphs:
            key = keys[graph.folder] = content_key(
                {
                    "rebuilt": [files[path].sha256 for path in _of_folder(files, graph.folder)],
                    "record": graph.model_dump(mode="json"),
                    "options": dataclasses.asdict(options),
                    "toolchain": dict(target.toolchain()),
                }
            )
            if workspace.finished(key) is not None:
                progress(Event(f"{graph.folder}: reused from an earlier run", 1, 1))
                continue
            with workspace.build(key) as building:
                context = Context(progress, graph.dims, simplify, cache_dir())
                with _graph(graph_files[graph.folder]) as model:
                    written = target.lower(model, options, building.folder, context)
                for path in _carried(manifest, graph.folder):
                    shutil.copyfile(artifact.root / path, building.folder / Path(path).name)
                verified.check(graph.folder)
                building.meta["graph"] = graph.model_copy(
                    update={
                        "model_file": f"{graph.folder}/{written.model_file}",
                        "built": written.built,
                        "evidence": _earlier(graph),
                    }
                ).model_dump(mode="json")

        def manifest_of(records: tuple[FileRecord, ...]) -> Manifest:
            parts = [workspace.finished(key) for key in keys.values()]
            graphs = tuple(GraphRecord.model_validate(part.meta["graph"]) for part in parts if part)
            return manifest.model_copy(
                update={
                    "parent": manifest.digest,
                    "options": dict(manifest.options)
                    | dataclasses.asdict(options)
                    | _applied(target, manifest),
                    "graphs": graphs,
                    "files": records,
                    "pictures": _earlier_pictures(manifest),
                    "pipeline_evidence": tuple(map(_earlier_drawn, manifest.pipeline_evidence)),
                    "forecast": None,  # Found by pictures of the files before.
                    "toolchain": manifest.toolchain | dict(target.toolchain()),
                    "created": created_now(),
                }
            )

        workspace.publish(keys, manifest_of, lambda folder: _loose(manifest, verified, folder))
    return open_artifact(request.out, hashes=False)  # each file was hashed as it was published


def _options(target: Target, manifest: Manifest, overrides: Mapping[str, str]) -> Any:
    """The artifact's options, with those that are given in their place.

    Raises:
        UsageError: there is no such option, or it is in the graphs already.
        LatentcError: the target's artifacts do not hold their graphs.
    """
    if target.rebuild is None:
        able = ", ".join(name for name in targets.names() if targets.get(name).rebuild is not None)
        raise LatentcError(
            f"artifacts of target '{target.name}' cannot be made again: they do not hold the graph they were made "
            f"of (those of {able} do).",
            f"Compile the model again: latentc compile MODEL OUT --target {target.name}",
        )
    for name in sorted(target.rebuild.applied & overrides.keys()):
        raise UsageError(f"--{name} is in the artifact's graphs already.", "Compile the model again with it.")
    before = {n: str(v) for n, v in manifest.options.items() if n not in target.rebuild.applied}
    return parse(target, before | dict(overrides))


def _applied(target: Target, manifest: Manifest) -> dict[str, Any]:
    applied = target.rebuild.applied if target.rebuild is not None else frozenset()
    return {name: value for name, value in manifest.options.items() if name in applied}


def _kept(target: Target, artifact: Artifact, graph: GraphRecord, files: Mapping[str, FileRecord]) -> Path:
    """The file of a graph; whatever it names as its weights lies beside it.

    Raises:
        LatentcError: the artifact has no such file, or it holds what the target does not write.
    """
    assert target.rebuild is not None
    name = f"{graph.folder}/{target.rebuild.graph}"
    if name not in files:
        raise LatentcError(
            f"{artifact.root} has no {name}, from which its files could be made again.",
            f"Compile the model again: latentc compile MODEL OUT --target {target.name}",
        )
    check_onnx(artifact.root / name, target.rebuild.form)
    return artifact.root / name


@contextmanager
def _graph(file: Path) -> Iterator[ir.Model]:
    """The graph, its weights read when they are asked for; none of its files is open afterwards."""
    import onnx_ir as ir

    model = ir.load(file)
    weights = [v.const_value for g in model.graphs() for v in g.initializers.values()]
    try:
        yield model
    finally:
        for tensor in weights:
            if isinstance(tensor, ir.ExternalTensor):
                tensor.release()


def _of_folder(files: Mapping[str, FileRecord], folder: str) -> list[str]:
    return sorted(path for path in files if path.startswith(f"{folder}/"))


def _carried(manifest: Manifest, folder: str) -> list[str]:
    """Files of a graph's folder that are the component's, not the target's."""
    own = {f"{folder}/config.json", *(c.residual for c in manifest.components)}
    return [file.path for file in manifest.files if file.path in own and file.path.startswith(f"{folder}/")]


def _loose(manifest: Manifest, verified: Pinned, out: Path) -> None:
    """Copies what lies outside of the graphs' folders: the index, schedulers, tokenizers."""
    graphs = {graph.folder for graph in manifest.graphs}
    for file in manifest.files:
        if file.path.rpartition("/")[0] not in graphs:
            copy = out / file.path
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(verified.read(file.path))


def _earlier(graph: GraphRecord) -> tuple[Evidence, ...]:
    """That the new files were not measured, and what had been found of the earlier ones."""
    measurements = [
        f"fails{_in(evidence.compute)}: {evidence.broken}"
        if evidence.broken
        else f"relative error {max(evidence.error.values()):.1e}" + _in(evidence.compute)
        if evidence.error
        else evidence.reason
        for evidence in graph.evidence
    ]
    return (Evidence(check="not measured", reason=_again(", ".join(filter(None, measurements)))),)


def _earlier_pictures(manifest: Manifest) -> tuple[PictureEvidence, ...]:
    measurements = [
        evidence.reason if evidence.psnr is None else f"PSNR {evidence.psnr:.1f} dB" + _in(evidence.compute)
        for evidence in manifest.pictures
    ]
    return (PictureEvidence(reason=_again(", ".join(measurements))),) if measurements else ()


def _earlier_drawn(drawn: PipelineEvidence) -> PipelineEvidence:
    before = drawn.reason if drawn.error is None else f"relative error {drawn.error:.1e}" + _in(drawn.compute)
    return PipelineEvidence(task=drawn.task, check="not measured", reason=_again(before))


def _in(compute: str) -> str:
    return f" in {compute}" if compute else ""


def _again(reason: str) -> str:
    return reason if reason.startswith(AGAIN) else f"{AGAIN}; before: {reason or 'not measured'}"
