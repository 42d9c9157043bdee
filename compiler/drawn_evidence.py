"""Pictures that a compile draws beside PyTorch's, from graphs that are not published yet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from artifacts import memory
from artifacts.evidence_records import PictureEvidence, PipelineEvidence
from artifacts.manifest import Manifest
from artifacts.progress import Progress
from artifacts.temporary import private_folder
from compiler.capture.capture import Capture
from compiler.compile_request import CompileRequest
from compiler.evaluation import evaluation
from compiler.evidence import pipeline_check, quantized_pictures
from compiler.evidence.drawing_jobs import PictureJob, PipelineJob
from compiler.evidence.graph_evidence import Checker, memory_needed
from compiler.loose_files import write_loose_files
from compiler.model_source import ModelSource
from runtimes.sessions import session_table as sessions


def _cannot_run(manifest: Manifest) -> str:
    """Why PyTorch's pipeline and then the graphs cannot be run here; empty where they can."""
    factory = sessions.get(manifest.target)
    lacks = next(filter(None, (factory.lacks(graph.built) for graph in manifest.graphs)), "")
    if lacks:
        return f"needs {lacks}"
    short = memory.shortage(memory_needed(sum(graph.parameters for graph in manifest.graphs)))
    return short and f"it takes {short}"


def pipeline_evidence(
    request: CompileRequest,
    source: ModelSource,
    captured: Capture,
    manifest: Manifest,
    folders: Mapping[str, Path],
    checker: Checker,
    progress: Progress,
) -> tuple[PipelineEvidence, ...]:
    """A picture of each task beside PyTorch's, from graphs that are not published yet.

    Raises:
        LatentcError: one is further off than it may be, or the artifact does not draw it.
    """
    if reason := "--check none" if request.check == "none" else _cannot_run(manifest):
        return tuple(
            PipelineEvidence(task=task, check="not measured", reason=reason) for task in manifest.pipelines
        )
    root, moved = quantized_pictures.relocated(manifest, folders)
    with private_folder() as loose:
        write_loose_files(source, captured, loose)
        job = PipelineJob(
            model=source.spec,
            variant=source.variant,
            left_out=tuple(p.name for p in captured.left_out if p.name not in captured.uncalled),
            loose=str(loose),
            root=str(root),
            manifest=moved,
            check="full" if request.check == "full" else "quick",
        )
        return pipeline_check.check(checker, job, progress)


def picture_evidence(
    request: CompileRequest,
    source: ModelSource,
    captured: Capture,
    manifest: Manifest,
    folders: Mapping[str, Path],
    checker: Checker,
    progress: Progress,
) -> tuple[PictureEvidence, ...]:
    """The quantized model's pictures beside PyTorch's, from graphs that are not published yet."""
    if not request.pictures or request.check == "none":
        return (PictureEvidence(reason="--check none" if request.pictures else "--pictures 0"),)
    if reason := _cannot_run(manifest):
        return (PictureEvidence(reason=reason),)
    root, moved = quantized_pictures.relocated(manifest, folders)
    with private_folder() as loose:
        write_loose_files(source, captured, loose)
        job = PictureJob(
            model=source.spec,
            variant=source.variant,
            loose=str(loose),
            root=str(root),
            manifest=moved,
            evaluation=evaluation(source.root, request.pictures),
            width=manifest.sizes["width"].min,
            height=manifest.sizes["height"].min,
            budget=request.patience,
            references="" if request.references is None else str(request.references),
        )
        return quantized_pictures.measure(checker, job, progress)
