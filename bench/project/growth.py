"""`python -m bench.project.growth ARTIFACT`: whether anything grows while an artifact draws: memory, files, threads.

Pictures of changing sizes and schedulers, calls that are cancelled in each phase, and pipelines that are loaded and
closed, again and again; what the process holds afterwards is compared with what it held after the tenth of each. With
--seconds, threads draw from one pipeline for so long, and each picture is compared with the one that is drawn alone.
Exits with 1 where something has grown or a picture is another.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from artifacts.progress import Event
from artifacts.resident import release
from bench.project.growth_threads import draw_together
from runtimes.meter import Cancelled
from runtimes.pipeline import Pipeline, load

PROMPT = "a large red circle at the left on a blue background"
SCHEDULERS = (None, "EulerDiscreteScheduler", "DPMSolverMultistepScheduler")

WARM = 10
"""Pictures, and loads, after which what is held is taken for what stays."""
MEMORY = 16 << 20
"""Bytes that may remain: allocators keep some of what was freed, more of it after one round than after another."""


@dataclass(frozen=True)
class Held:
    """What this process holds: bytes of memory that are of no file, open files, threads."""

    memory: int
    files: int
    threads: int


def resources() -> Held:
    """After what was freed has been given back to the system."""
    release()
    process = psutil.Process()
    info = process.memory_info()
    files = process.num_fds() if hasattr(process, "num_fds") else process.num_handles()
    return Held(info.rss - getattr(info, "shared", 0), files, process.num_threads())


@dataclass(frozen=True)
class Growth:
    """What was held after `WARM` pictures and loads, and at the end."""

    before: Held
    after: Held

    @property
    def faults(self) -> list[str]:
        """What has grown, for people."""
        faults = []
        if self.after.memory > self.before.memory + MEMORY:
            faults.append(f"memory: {self.before.memory >> 20} MiB, then {self.after.memory >> 20} MiB")
        if self.after.files > self.before.files:
            faults.append(f"open files: {self.before.files}, then {self.after.files}")
        if self.after.threads > self.before.threads:
            faults.append(f"threads: {self.before.threads}, then {self.after.threads}")
        return faults


def grow(artifact: Path, pictures: int, loads: int, **options: object) -> dict[str, Growth]:
    """Draws so often with one pipeline, then loads and closes so often: "pictures" and "loads" -> what that left.

    Args:
        options: of `load`.
    """

    def draw(pipeline: Pipeline, count: int) -> Held:
        sizes = _sizes(pipeline)
        for number in range(count):
            scheduler = SCHEDULERS[number % len(SCHEDULERS)]
            pipeline.generate(
                PROMPT, steps=2, seed=number, size=sizes[number % len(sizes)], scheduler=scheduler
            )
        for phase in ("before", "first step", "last step"):
            cancel_in(pipeline, phase)
        return resources()

    def cycle(count: int) -> Held:
        for _ in range(count):
            with load(artifact, **options) as pipeline:  # type: ignore[arg-type]
                pipeline.generate(PROMPT, steps=1, seed=1)
        return resources()

    with load(artifact, **options) as pipeline:  # type: ignore[arg-type]
        drawn = Growth(draw(pipeline, WARM), draw(pipeline, pictures))
    return {"pictures": drawn, "loads": Growth(cycle(WARM), cycle(loads))}


def cancel_in(pipeline: Pipeline, phase: str) -> None:
    """Starts a picture and stops it: "before" its first component, after its "first step", or its "last step"."""
    event = threading.Event()
    if phase == "before":
        event.set()

    def stop(at: Event) -> None:
        last = at.unit == "steps" and at.completed == at.total
        if (phase == "first step" and at.unit == "steps" and at.completed == 1) or (
            phase == "last step" and last
        ):
            event.set()

    try:
        pipeline.generate(PROMPT, steps=3, seed=1, cancel=event, progress=stop)
    except Cancelled:
        return
    raise AssertionError(f"a picture that was cancelled {phase} was drawn")


def _sizes(pipeline: Pipeline) -> list[tuple[int, int] | None]:
    """The smallest and the largest that the artifact draws, up to 256 pixels, and one between."""
    span = pipeline.manifest.sizes["width"]
    most = max(span.min, min(span.max, 256))
    between = (span.min + most) // 2 // 8 * 8
    return [(side, side) for side in sorted({span.min, most, max(span.min, between)})]


def main(tell: Callable[[str], None] = print) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--loads", type=int, default=50)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument(
        "--seconds", type=float, default=0.0, help="that threads draw for (default: not at all)"
    )
    parser.add_argument("--memory", help="as of latentc generate")
    args = parser.parse_args()
    faults: list[str] = []
    for phase, growth in grow(args.artifact, args.pictures, args.loads, memory=args.memory).items():
        for name in ("memory", "files", "threads"):
            before, after = getattr(growth.before, name), getattr(growth.after, name)
            tell(f"{phase}: {name}: {before:,} after the tenth, {after:,} at the end")
        faults += [f"{phase}: {fault}" for fault in growth.faults]
    if args.seconds:
        with load(args.artifact, memory=args.memory) as pipeline:
            together = draw_together(pipeline, args.threads, args.seconds, PROMPT, _sizes(pipeline))
        tell(f"{args.threads} threads: {together.pictures:,} pictures, {len(together.faults)} of them wrong")
        faults += together.faults[:10]
    sys.exit("\n".join(faults) or 0)


if __name__ == "__main__":
    main()
