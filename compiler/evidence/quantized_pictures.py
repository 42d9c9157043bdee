"""Are a quantized model's pictures still PyTorch's? Both draw the same prompts from the same seeds.

`measure` is the compiler's side, `answer` is that of the process that checks: PyTorch's pipeline is drawn with first
and freed, then the graphs, which need not be published yet.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from artifacts.errors import LatentcError
from artifacts.evidence_records import PictureEvidence
from artifacts.hashing import content_key
from artifacts.manifest import Manifest
from artifacts.progress import Event, Progress
from artifacts.worker import WorkerError
from compiler.capture.arguments import visual_arguments
from compiler.evaluation import TASK
from compiler.evidence.drawing_jobs import PictureJob
from compiler.evidence.graph_evidence import Checker
from compiler.evidence.metrics import psnr, ssim
from runtimes.compute import AUTO, device_of, types_to_check
from runtimes.flaws import shown, words
from runtimes.generate_options import parameters, synonym
from runtimes.sessions import session_table

EQUAL = 100.0
"""dB that stand for equal pictures, whose ratio is infinite."""


def measure(checker: Checker, job: PictureJob, progress: Progress) -> tuple[PictureEvidence, ...]:
    """Has the process that checks graphs draw with both.

    The graphs draw in fp32, and in what they are computed in by default where that is another type. A model that has no
    such task, or would take too long, is not measured.

    Raises:
        LatentcError: the pictures cannot be drawn, or the graphs' are black, of one colour or not finite.
    """
    if TASK not in job.manifest.pipelines:
        return (PictureEvidence(reason=f"it does not do {TASK}"),)
    count = len(job.evaluation.prompts)
    progress(Event(f"drawing {count} prompts with PyTorch and with the graphs", 0, None))
    try:
        evidence = checker.ask(job)
    except WorkerError as error:
        raise LatentcError(
            f"the pictures cannot be compared: {error.message}",
            error.hint or "Compile without: --pictures 0",
        ) from error
    progress(Event(f"drawing {count} prompts with PyTorch and with the graphs", 1, 1))
    return tuple(PictureEvidence.model_validate(record) for record in evidence)


def compare(
    ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], job: PictureJob, compute: str
) -> PictureEvidence:
    """Evidence from pictures [height, width, 3], or videos [frames, height, width, 3], with values from 0 to 1.

    Where one of PyTorch's own shows nothing, there is nothing to compare with and nothing is measured; ours are held to
    the others all the same.

    Args:
        compute: the type that ours were computed in.

    Raises:
        LatentcError: one of ours is black, of one colour or not finite, and PyTorch's is not.
    """
    reasons = []
    for a, b, prompt in zip(ours, theirs, job.evaluation.prompts, strict=False):
        if (flaw := shown(b)) is not None:
            reasons.append(f"PyTorch's own picture of '{prompt}' is {words(flaw)}")
        elif (flaw := shown(a)) is not None:
            raise LatentcError(
                f"the graphs' picture of '{prompt}' in {compute} is {words(flaw)}, and PyTorch's is not.",
                "Compile with more bits, without --quantize or in --precision fp32.",
            )
    if reasons or not ours:
        return PictureEvidence(compute=compute, reason=reasons[0] if reasons else "no picture was drawn")
    ratios = [min(psnr(a, b), EQUAL) for a, b in zip(ours, theirs, strict=True)]
    likeness = [ssim(a, b) for a, b in zip(ours, theirs, strict=True)]
    return PictureEvidence(
        compute=compute,
        prompts=len(ratios),
        steps=job.evaluation.steps,
        guidance=job.evaluation.guidance,
        width=job.width,
        height=job.height,
        psnr=sum(ratios) / len(ratios),
        worst_psnr=min(ratios),
        ssim=sum(likeness) / len(likeness),
        worst_ssim=min(likeness),
    )


def _pytorch(job: PictureJob) -> Any:
    from compiler.capture import materialized

    return materialized.load(job.model, job.manifest.pipelines[TASK], variant=job.variant).diffusers


def _compiled(job: PictureJob, compute: str) -> tuple[Any, Callable[[], None]]:
    from artifacts.progress import silent
    from runtimes.assemble import assemble
    from runtimes.graphs import Graphs
    from runtimes.meter import Meter
    from runtimes.shell import build_shell

    root, meter = Path(job.root), Meter()
    graphs = Graphs(root, job.manifest, "auto", None, silent, compute)
    shells = {c.name: build_shell(c, root, graphs, lambda: meter) for c in job.manifest.components}
    return assemble(Path(job.loose), job.manifest.pipelines[TASK], shells), graphs.close


def _draw(pipeline: Any, job: PictureJob, prompts: Sequence[str], steps: int) -> list[np.ndarray]:
    import torch

    pipeline.set_progress_bar_config(disable=True)
    keywords: dict[str, Any] = {"num_inference_steps": steps, "output_type": "np"}
    keywords |= {"width": job.width, "height": job.height}
    counter, frames = synonym("frames", parameters(pipeline)), job.manifest.sizes.get("frames")
    if counter is not None and frames is not None:
        keywords[counter] = frames.min
    if job.evaluation.guidance is not None:
        keywords["guidance_scale"] = job.evaluation.guidance

    def drawn(seed: int, prompt: str, visuals: Mapping[str, Any]) -> np.ndarray:
        generator = torch.Generator("cpu").manual_seed(seed)
        output = pipeline(prompt, generator=generator, **keywords, **visuals)
        return np.asarray((output.frames if hasattr(output, "frames") else output.images)[0])

    failures: list[Exception] = []
    for visuals in visual_arguments(pipeline, TASK, job.height, job.width):
        try:
            return [drawn(seed, prompt, visuals) for seed, prompt in enumerate(prompts)]
        except LatentcError:
            raise
        except Exception as error:  # Pipelines say in as many ways that a picture is missing.
            failures.append(error)
    raise failures[0]


def answer(job: PictureJob) -> list[PictureEvidence]:
    """Draws all of it, unless the first steps say that it takes too long."""
    device = device_of(session_table.get(job.manifest.target), AUTO)
    types = types_to_check(device, job.manifest.graphs)
    theirs = _references(job, 1 + len(types))
    if isinstance(theirs, PictureEvidence):
        return [theirs]
    evidence = []
    for name, compute in types.items():
        pipeline, close = _compiled(job, compute)
        try:
            ours = _draw(pipeline, job, job.evaluation.prompts, job.evaluation.steps)
            evidence.append(compare(ours, theirs, job, name))
        finally:
            close()
    return evidence


def _references(job: PictureJob, times: int) -> list[np.ndarray] | PictureEvidence:
    """PyTorch's pictures, or why there are none: they would take too long.

    Args:
        times: how many times all are drawn, with these.
    """
    drawn = job.model_dump(mode="json", include={"model", "variant", "evaluation", "width", "height"})
    if "frames" in job.manifest.sizes:
        drawn["frames"] = job.manifest.sizes["frames"].min
    file = Path(job.references) / f"{content_key(drawn)}.npy" if job.references else None
    if file is not None and file.exists():
        return list(np.load(file))
    prompts, steps = job.evaluation.prompts, job.evaluation.steps
    reference = _pytorch(job)
    for _ in range(2):
        start = time.perf_counter()
        _draw(reference, job, prompts[:1], 2)
        expected = (time.perf_counter() - start) / 2 * steps * len(prompts) * times
        if expected <= job.budget:
            break
        # Much of the first call of a process is not drawing: it is taken again before it counts.
    else:
        return PictureEvidence(reason=f"it would take {expected / 60:.0f} minutes on this machine")
    theirs = _draw(reference, job, prompts, steps)
    if file is not None:
        np.save(file, np.stack(theirs))
    return theirs


def relocated(manifest: Manifest, folders: Mapping[str, Path]) -> tuple[Path, Manifest]:
    """A manifest whose graphs are opened where they lie now.

    Args:
        folders: graph folder -> where its files are.

    Returns:
        What the manifest's paths are relative to, and the manifest.
    """
    root = Path(os.path.commonpath([str(path.parent) for path in folders.values()]))

    def moved(path: str) -> str:
        folder, _, name = path.partition("/")
        return (folders[folder] / name).relative_to(root).as_posix()

    return root, manifest.model_copy(
        update={
            "graphs": tuple(
                g.model_copy(update={"model_file": moved(g.model_file)}) for g in manifest.graphs
            ),
            "components": tuple(
                c.model_copy(
                    update={
                        "config": moved(c.config),
                        "residual": None if c.residual is None else moved(c.residual),
                    }
                )
                for c in manifest.components
            ),
        }
    )
