"""How fast artifacts are, and how near their pictures are to PyTorch's: `bench`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.argument_types import typed
from artifacts.progress import Progress, silent
from latentc.api import keywords
from latentc.api.keywords import File

if TYPE_CHECKING:
    from bench.bench_request import BenchRequest
    from bench.interleaved_run import Outcome


@typed
def bench(
    artifacts: File | Sequence[File] | BenchRequest,
    *,
    reference: File | None = None,
    prompts: File | Sequence[str] | None = None,
    steps: int | None = None,
    seeds: int | None = None,
    first_seed: int | None = None,
    guidance: float | None = None,
    size: str | tuple[int, int] | None = None,
    task: str | None = None,
    device: str | None = None,
    strict: bool | None = None,
    compute: str | None = None,
    accelerate: str | float | None = None,
    threads: int | None = None,
    report: File | None = None,
    progress: Progress = silent,
    command: Sequence[str] = (),
) -> Outcome:
    """Measures artifacts, and the reference, on the same prompts and seeds, as `latentc bench` does.

    Every one runs in a process of its own. What is None is as the command's default, or as in the request.

    Args:
        artifacts: a folder or several; or a whole `BenchRequest`.
        reference: the model that they were compiled from, to be run in PyTorch in fp32; or another artifact of it.
        prompts: a list, or a text file with one on each line; None for the model's own or general ones.
        steps: denoising steps. seeds: pictures of each prompt, the first from `first_seed`.
        guidance: how closely to follow the prompt. size: (width, height) in pixels.
        task: which of the artifacts' tasks. device, strict: as `load` takes them. compute: in which types artifacts are
            computed. accelerate: steps that artifacts forecast, as `load` takes it; a reference makes all its calls.
        threads: of each inference.
        report: a folder where report.html, report.md and bench.json are written.
        command: what to type to run it again, for the record; empty for this call.

    Returns:
        `bench`, the record that `latentc bench --json` writes, and `shots`, every variant's pictures.

    Raises:
        UsageError: a prompt file, a task or a device that is not there.
        LatentcError: no artifact, one of another model than the reference, or one that does not run.
    """
    from artifacts.publish import require_outside
    from bench import bench_request as work
    from runtimes.generate_options import parse_size

    if isinstance(artifacts, work.BenchRequest):
        base = artifacts
    elif isinstance(artifacts, (str, os.PathLike)):
        base = work.BenchRequest((os.fspath(artifacts),))
    else:
        base = work.BenchRequest(tuple(os.fspath(path) for path in artifacts))
    request = keywords.changed(
        base,
        {
            "reference": None if reference is None else os.fspath(reference),
            "prompts": keywords.prompts(prompts),
            "steps": steps,
            "seeds": seeds,
            "first_seed": first_seed,
            "guidance": guidance,
            "size": parse_size(size),
            "task": task,
            "device": device,
            "strict": strict,
            "compute": compute,
            "accelerate": None if accelerate is None else str(accelerate),
            "threads": threads,
        },
    )
    if report is not None:
        require_outside(Path(report) / "bench.json")
    with keywords.reporting(progress) as reported:
        outcome = work.bench(request, list(command) or _again(request), reported)
    if report is not None:
        from bench import report as reports

        reports.write(outcome, Path(report))
    return outcome


def _again(request: BenchRequest) -> list[str]:
    """A command line that makes the same request."""
    overrides: dict[str, Any] = {}
    for field in dataclasses.fields(request):
        value = getattr(request, field.name)
        if field.name != "artifacts" and value != field.default:
            overrides[field.name] = str(value) if isinstance(value, Path) else value
    arguments = "".join(f", {name}={value!r}" for name, value in overrides.items())
    return ["python", "-c", f"import latentc; latentc.bench({list(request.artifacts)!r}{arguments})"]
