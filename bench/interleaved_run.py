"""Runs a bench: fresh processes first, then all variants in turn, picture by picture."""

from __future__ import annotations

import datetime
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import numpy as np

from artifacts import memory
from artifacts.errors import LatentcError
from artifacts.progress import Event, Progress, silent
from artifacts.resident import Watch
from bench import drawing_worker, picture_quality
from bench.environment import environment
from bench.open_processes import Kept
from bench.picture_metrics import Shot, broken, psnr
from bench.process import Worker, forget
from bench.record import (
    Bench,
    Calls,
    Component,
    Measured,
    Memory,
    Picture,
    Settings,
    Speed,
    Start,
    Variant,
)
from bench.stats import measured, spread
from bench.subjects import Subject


@dataclass(frozen=True)
class Timed:
    """One picture's times, in seconds, as the worker tells them."""

    seconds: float
    steps: tuple[float, ...]
    components: Mapping[str, tuple[int, float]]
    calls: tuple[int, int] | None = None

    @property
    def step_ms(self) -> float | None:
        """The median step in milliseconds; None where the engine does not tell.

        The mean where some are forecast: those take next to no time.
        """
        if not self.steps:
            return None
        return (median(self.steps) if self.calls is None else sum(self.steps) / len(self.steps)) * 1000


@dataclass
class Track:
    """What was collected of one subject up to now."""

    subject: Subject
    cold: Start | None = None
    warm: Start | None = None
    threads: int | None = None
    about: dict[str, str] = field(default_factory=dict)
    shots: list[Shot] = field(default_factory=list)
    times: list[Timed] = field(default_factory=list)
    error: str = ""

    @property
    def name(self) -> str:
        """The subject's."""
        return self.subject.name

    @property
    def needed(self) -> int:
        """Bytes that its process held at most when it was alone, and that cannot be dropped; 0 before that.

        Pages of mapped files are only counted where they cannot be told apart: they are weights, which runtimes have
        in a form of their own once they have drawn.
        """
        if self.cold is None:
            return 0
        memory = self.cold.memory
        return memory.total if memory.anonymous is None else memory.anonymous


@dataclass(frozen=True)
class Outcome:
    """The record, and every variant's pictures by its name, in the order of `Settings`' prompts and seeds."""

    bench: Bench
    shots: Mapping[str, tuple[Shot, ...]]


class EngineWorker(Protocol):
    """What `run` needs of `bench.process.Worker`."""

    pid: int

    def request(self, **request: Any) -> dict[str, Any]:
        """Sends a request, returns the answer."""


Starter = Callable[[Subject, Mapping[str, str]], AbstractContextManager[EngineWorker]]


def start_process(subject: Subject, env: Mapping[str, str]) -> AbstractContextManager[EngineWorker]:
    """A worker in a process of its own."""
    return Worker(subject.name, subject.command, {**os.environ, **env, **subject.env})  # type: ignore[return-value]


def run(
    subjects: Sequence[Subject],
    reference: str | None,
    settings: Settings,
    command: Sequence[str],
    progress: Progress = silent,
    env: Mapping[str, str] | None = None,
    start: Starter = start_process,
    room: int | None = None,
) -> Outcome:
    """Measures `subjects`.

    Every subject is first started twice, alone, and draws one picture each time: cold (nothing compiled in its
    cache, its files not in the page cache where the system allows that), and warm. Then all are started again,
    draw one picture that is not counted, and stay; and all of them draw the same prompts and seeds in turn,
    A B B A, so that what disturbs the machine for a while disturbs all of them. Where they do not fit in memory
    together, the one whose turn is longest ago is ended, and started again like that before its next.

    Args:
        reference: the name of the subject that the others are compared with, or None.
        command: what to type to run it again.
        env: variables of all workers.
        room: bytes for all processes together; None for nine tenths of what is free.

    Raises:
        LatentcError: a subject that is not of another project cannot be opened or draw.
    """
    tracks = [Track(subject) for subject in subjects]
    with tempfile.TemporaryDirectory(prefix="latentc-bench-") as temporary:
        folder = Path(temporary)
        own = {
            track.name: {**(env or {}), "LATENTC_CACHE": str(folder / f"cache-{number}")}
            for number, track in enumerate(tracks)
        }
        where = environment(evicted=forget(()))
        # The reference comes last: what is wrong with an artifact is told before the slowest is started.
        for track in sorted(tracks, key=lambda track: track.name == reference):
            progress(Event(f"{track.name}: starts", 0, None))
            with _row(track):
                forget(track.subject.files)
                with start(track.subject, own[track.name]) as worker:
                    track.cold = _begin(track, worker, settings, folder)
                with start(track.subject, own[track.name]) as worker:
                    track.warm = _begin(track, worker, settings, folder)
            progress(Event(f"{track.name}: starts", 1, 1))

        @contextmanager
        def opened(track: Track) -> Iterator[EngineWorker]:
            with start(track.subject, own[track.name]) as worker:
                _begin(track, worker, settings, folder)
                yield worker

        with Kept(memory.available() * 9 // 10 if room is None else room, opened) as workers:
            for track in tracks:
                if not track.error:
                    with _row(track):
                        workers.get(track)
            _rounds(tracks, workers, settings, folder, progress)
    return _outcome(tracks, reference, settings, command, where, workers.reopened)


class _row(AbstractContextManager[None]):
    """What another project raises becomes its row's error; what ours raise goes on."""

    def __init__(self, track: Track) -> None:
        self._track = track

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if not isinstance(error, Exception) or self._track.subject.kind != "peer":
            return False
        lines = (error.message if isinstance(error, LatentcError) else str(error)).strip().splitlines()
        self._track.error = lines[-1] if lines else type(error).__name__
        return True


def _begin(track: Track, worker: EngineWorker, settings: Settings, folder: Path) -> Start:
    """Imports, loads and draws one picture."""
    with Watch(worker.pid) as watch:
        imports = worker.request(do="prepare")["seconds"]
        opened = worker.request(do="open")
        drawn = _ask(worker, settings, 0, 0, folder / "first.npz")
    peaks = watch.peaks()
    first = drawn.get("first_step")
    track.threads = opened.get("threads")
    track.about = opened.get("about", {})
    return Start(
        import_s=imports,
        load_s=opened["seconds"],
        first_step_s=None if first is None else opened["seconds"] + first,
        first_image_s=opened["seconds"] + drawn["seconds"],
        memory=Memory(total=peaks.total, anonymous=peaks.anonymous, file_backed=peaks.file_backed),
    )


def _ask(worker: EngineWorker, settings: Settings, prompt: int, seed: int, out: Path) -> dict[str, Any]:
    return worker.request(
        do="draw",
        prompt=settings.prompts[prompt],
        seed=settings.seeds[seed],
        steps=settings.steps,
        guidance=settings.guidance,
        size=settings.size,
        out=str(out),
    )


def _rounds(
    tracks: Sequence[Track],
    workers: Kept[Track, EngineWorker],
    settings: Settings,
    folder: Path,
    progress: Progress,
) -> None:
    order = [track for track in tracks if not track.error]
    pictures = [(p, s) for s in range(len(settings.seeds)) for p in range(len(settings.prompts))]
    total = len(pictures) * len(order)
    for number, (prompt, seed) in enumerate(pictures):
        for track in order if number % 2 == 0 else reversed(order):
            if track.error:
                workers.drop(track)
                continue
            file = folder / "picture.npz"
            with _row(track):
                answer = _ask(workers.get(track), settings, prompt, seed, file)
                image, latents = drawing_worker.load(file)
                track.shots.append(Shot(prompt, settings.seeds[seed], image, latents))
                components = {name: (pair[0], pair[1]) for name, pair in answer["components"].items()}
                calls = answer.get("calls")
                counted = None if calls is None else (calls[0], calls[1])
                track.times.append(Timed(answer["seconds"], tuple(answer["steps"]), components, counted))
            progress(Event("drawing in turn", sum(len(t.shots) for t in tracks), total, "pictures"))
    progress(Event("drawing in turn", total, total, "pictures"))


def _outcome(
    tracks: Sequence[Track],
    reference: str | None,
    settings: Settings,
    command: Sequence[str],
    where: Any,
    reopened: int,
) -> Outcome:
    base = next((track for track in tracks if track.subject.name == reference), None)
    variants = tuple(_variant(track, base, settings) for track in tracks)
    bench = Bench(
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        command=tuple(command),
        settings=settings,
        environment=where,
        reference=reference,
        variants=variants,
        reopened=reopened,
    )
    return Outcome(bench, {track.subject.name: tuple(track.shots) for track in tracks if not track.error})


def _variant(track: Track, base: Track | None, settings: Settings) -> Variant:
    subject = track.subject
    variant = Variant(
        name=subject.name,
        kind=subject.kind,
        about={**subject.about, **track.about},
        device=subject.device,
        threads=track.threads,
        bytes=subject.bytes,
        compile_s=subject.compile_s,
        compile_memory=subject.compile_memory,
        error=track.error,
        cold=track.cold,
        warm=track.warm,
    )
    if track.error or not track.shots:
        return variant
    other = base if base is not None and base is not track and not base.error else None
    theirs = None if other is None else other.shots
    return variant.model_copy(
        update={
            "speed": _speed(track.times, None if other is None else other.times),
            "quality": picture_quality.quality(track.shots, theirs, settings.prompts),
            "pictures": tuple(_pictures(track, theirs)),
        }
    )


def _pictures(track: Track, theirs: Sequence[Shot] | None) -> list[Picture]:
    pictures = []
    for i, (shot, timed) in enumerate(zip(track.shots, track.times, strict=True)):
        other = None if theirs is None or broken(theirs[i]) else theirs[i].image
        value = None if other is None or other.shape != shot.image.shape else psnr(shot.image, other)
        pictures.append(
            Picture(
                prompt=shot.prompt, seed=shot.seed, seconds=timed.seconds, step_ms=timed.step_ms, psnr=value
            )
        )
    return pictures


def _speed(times: Sequence[Timed], others: Sequence[Timed] | None) -> Speed:
    image = spread([timed.seconds for timed in times])
    steps = [timed.step_ms for timed in times if timed.step_ms is not None]
    return Speed(
        step_ms=spread(steps) if steps else None,
        image_s=image,
        images_per_minute=60 / image.median,
        components={name: _component(times, name) for name, pair in times[0].components.items() if pair[0]},
        step_ratio=None if others is None else _ratio(times, others),
        calls=_calls(times),
    )


def _calls(times: Sequence[Timed]) -> Calls | None:
    counts = [timed.calls for timed in times if timed.calls is not None]
    if not counts:
        return None
    made, every = (sum(count) / len(counts) for count in zip(*counts, strict=True))
    return Calls(made=made, of=every)


def _component(times: Sequence[Timed], name: str) -> Component:
    pairs = [timed.components[name] for timed in times if name in timed.components]
    return Component(
        calls=pairs[0][0], ms=spread([seconds * 1000 / calls for calls, seconds in pairs if calls])
    )


def _ratio(times: Sequence[Timed], others: Sequence[Timed]) -> Measured:
    """Each round's own ratio: what slowed both is in neither."""
    ratios = [
        (mine.seconds / other.seconds)
        if mine.step_ms is None or other.step_ms is None
        else mine.step_ms / other.step_ms
        for mine, other in zip(times, others, strict=True)
    ]
    return measured(
        [[ratio] for ratio in ratios], statistic=lambda values: np.median(values, axis=-1), worst=max(ratios)
    )
