"""From what a person asks for to a bench that has run."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from artifacts.errors import LatentcError, UsageError
from artifacts.manifest_reading import read_manifest
from artifacts.progress import Progress, silent
from bench import prompts
from bench.interleaved_run import Outcome, Starter, run, start_process
from bench.record import Settings
from bench.subjects import (
    PYTORCH,
    Subject,
    artifact,
    compiled_from,
    is_artifact,
    names,
    pytorch,
    same_model,
    size_of,
    task_of,
)

EXTRA = ("scipy", "torchmetrics", "matplotlib", "jinja2")
"""What `pip install latentc[bench]` brings."""


@dataclass(frozen=True)
class BenchRequest:
    """What to measure.

    Attributes:
        artifacts: their folders; the same one twice measures the noise.
        reference: a model (folder, hub id, built-in name) to run in PyTorch in fp32, or an artifact; or None.
        prompts: a text file, or the prompts themselves, or None for the model's own or general ones.
        seeds: how many pictures of each prompt; the first has the seed `first_seed`.
        guidance, size: None for the pipeline's own; size is (width, height).
        device, compute, accelerate, strict: of the artifacts; what `runtimes.load` takes.
        threads: for one inference, of all of them; None: each chooses.
    """

    artifacts: tuple[str, ...]
    reference: str | None = None
    prompts: Path | tuple[str, ...] | None = None
    steps: int = 20
    seeds: int = 4
    first_seed: int = 0
    guidance: float | None = None
    size: tuple[int, int] | None = None
    task: str | None = None
    device: str = "auto"
    compute: str = "auto"
    accelerate: str = "auto"
    strict: bool = False
    threads: int | None = None


def bench(
    request: BenchRequest,
    command: Sequence[str],
    progress: Progress = silent,
    others: Sequence[Subject] = (),
    start: Starter = start_process,
) -> Outcome:
    """Runs it.

    Args:
        command: what to type to run it again.
        others: more to measure beside the artifacts.

    Raises:
        UsageError: a prompt file, a task or a device that is not there.
        LatentcError: no artifact, one of another model than the reference, or one that does not run.
    """
    require()
    subjects, reference, settings = plan(request, progress)
    env = {} if request.threads is None else {"LATENTC_THREADS": str(request.threads)}
    return run([*subjects, *others], reference, settings, command, progress, env, start)


def plan(
    request: BenchRequest, progress: Progress = silent
) -> tuple[tuple[Subject, ...], str | None, Settings]:
    """What to measure, the name of the reference among it, and what to draw; starts nothing.

    Raises:
        as `bench`.
    """
    if not request.artifacts:
        raise UsageError("a bench needs at least one artifact.", "Compile one: latentc compile MODEL OUT")
    texts = prompts.read(request.prompts) if isinstance(request.prompts, Path) else request.prompts
    manifests = [read_manifest(Path(path).absolute()) for path in request.artifacts]
    own = names(request.artifacts)
    for manifest, name in zip(manifests[1:], own[1:], strict=True):
        same_model(manifests[0], own[0], manifest, name)
    task = task_of(manifests, request.task)
    subjects = [
        artifact(path, name, request.device, task, request.compute, request.accelerate, request.strict)
        for path, name in zip(request.artifacts, own, strict=True)
    ]
    reference = None
    if request.reference is not None and is_artifact(request.reference):
        path = Path(request.reference)
        reference = f"{names([request.reference])[0]} (reference)"
        same_model(manifests[0], own[0], read_manifest(path.absolute()), reference)
        subjects.insert(
            0, artifact(str(path), reference, request.device, task, request.compute, "off", request.strict)
        )
    elif request.reference is not None:
        from compiler.source import open_model

        source = open_model(request.reference)
        for manifest, name in zip(manifests, own, strict=True):
            compiled_from(manifest, name, source, progress)
        reference = PYTORCH
        subjects.insert(0, pytorch(source, manifests[0], task))
    from compiler.evaluation import evaluation
    from compiler.source import local_folder

    usual = evaluation(local_folder(manifests[0].source.id))
    settings = Settings(
        prompts=texts or usual.prompts,
        seeds=tuple(range(request.first_seed, request.first_seed + request.seeds)),
        steps=request.steps,
        # Prompts of the user's own are drawn with the pipeline's own guidance.
        guidance=request.guidance if request.guidance is not None or texts else usual.guidance,
        size=size_of(manifests, request.size),
        task=task,
        device=request.device,
    )
    return tuple(subjects), reference, settings


def require() -> None:
    """Raises LatentcError where a library of the extra is missing."""
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise LatentcError(
            f"a bench needs {', '.join(missing)}, which is not installed.",
            "Run: pip install 'latentc[bench]'",
        )
