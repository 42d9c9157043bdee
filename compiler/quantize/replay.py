"""Runs a tapped graph on calls that were recorded, as many as a time allows, and collects its taps.

`taps` is the compiler's side, `replaying` is the other's, in a process of its own, which takes the graph's memory with
it when it ends. No pipeline runs, and PyTorch is not imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel

from artifacts.errors import LatentcError
from artifacts.manifest import GraphSpec
from artifacts.progress import Event, Progress
from artifacts.worker import WorkerError, ask
from artifacts.worker_loop import Work, tell
from compiler.quantize.calibrate import affordable, clock, open_graph, read_inputs, spread

if TYPE_CHECKING:
    from runtimes.sessions.session_contract import Session

FEWEST = 4
"""Calls that are made however long one takes."""


class ReplayJob(BaseModel):
    """One tapped graph.

    Attributes:
        target, compute, root, graph: whose session opens it, the type to compute in, and its files.
        component: the one that it stands for, for messages.
        taps: the name of the additional output.
        calls: file with recorded inputs (`compiler.quantize.calibrate`).
        among: the numbers of those that it may be run on; None for all.
        seconds: what the calls may take together, beyond `FEWEST`.
        result: the file that receives the taps, float32 [calls, taps] (npy).
    """

    target: str
    compute: str
    root: str
    component: str
    graph: GraphSpec
    taps: str
    calls: str
    among: tuple[int, ...] | None = None
    seconds: float
    result: str


@dataclass(frozen=True)
class Replayed:
    """Taps, float32 [calls, taps], and which of the recorded calls they are of, in their order."""

    taps: np.ndarray
    calls: tuple[int, ...]


def taps(job: ReplayJob, activity: str, progress: Progress) -> Replayed:
    """The taps of recorded calls, spread evenly over them.

    Args:
        activity: what is done, for people.

    Raises:
        LatentcError: the graph cannot be run, or an activation is not finite.
    """
    task = f"{job.graph.folder}: {activity}"
    progress(Event(task, 0, None))

    def report(event: Any) -> None:
        progress(Event(task, event["made"], event["of"], "calls"))

    try:
        chosen = ask(f"{__name__}:replaying", job, report)
    except WorkerError as error:
        raise LatentcError(
            f"the calibration of '{job.component}' failed: {error.message}",
            f"Quantize its weights only: --quantize {job.component}=int8",
        ) from error
    progress(Event(task, len(chosen), len(chosen), "calls"))
    values: np.ndarray = np.load(job.result)
    if not np.isfinite(values).all():
        raise LatentcError(
            f"the activations of '{job.component}' cannot be measured: some are not finite in "
            f"{job.graph.precision}.",
            f"Quantize its weights only: --quantize {job.component}=int8",
        )
    return Replayed(values, tuple(chosen))


def run(session: Session, calls: Sequence[dict[str, np.ndarray]], job: ReplayJob) -> Replayed:
    """Runs the graph in this process; the first call prepares the graph, the last one tells what a call takes."""
    numbers = range(len(calls)) if job.among is None else job.among
    measured: dict[int, np.ndarray] = {}

    def measure(number: int) -> None:
        outputs = session.run({n: a for n, a in calls[number].items() if n in session.inputs})
        measured[number] = np.array(outputs[job.taps])

    measure(numbers[0])
    now = clock(job.target, session.device)
    begun = now()
    measure(numbers[-1])
    count = affordable(job.seconds, now() - begun, len(numbers), FEWEST)
    chosen = tuple(numbers[place] for place in spread(count, len(numbers)))
    for number in chosen:
        if number not in measured:
            tell({"made": len(measured), "of": len(chosen)})
            measure(number)
    return Replayed(np.stack([measured[number] for number in chosen]), chosen)


def answer(job: ReplayJob) -> list[int]:
    """Replays and writes `job.result`; the numbers of the calls that were made."""
    session = open_graph(job.target, job.compute, Path(job.root), job.graph)
    try:
        replayed = run(session, read_inputs(Path(job.calls)), job)
    finally:
        session.close()
    with Path(job.result).open("wb") as file:
        np.save(file, replayed.taps)
    return list(replayed.calls)


def replaying() -> Work:
    """The work of the process that measures."""
    return lambda line: answer(ReplayJob.model_validate_json(line))
