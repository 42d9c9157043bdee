"""The fastest way in which an artifact that is there draws, its pictures near those that it draws by default.

What can be chosen without compiling anything is chosen: the type that is computed in, threads, and how far steps that
are forecast may be off. It is kept in the manifest with all that was tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts.errors import LatentcError, UsageError
from artifacts.evidence_records import Forecast, ForecastRun, SpeedChoice
from artifacts.manifest import Manifest
from artifacts.manifest_reading import read_manifest
from artifacts.processors import processors
from artifacts.progress import Progress, silent
from artifacts.publish import replace_manifest
from artifacts.verification import Artifact
from compiler.evaluation import TASK, evaluation
from compiler.evidence.quantized_pictures import EQUAL
from compiler.source import local_folder
from compiler.speed_drawings import Drawings, Open
from compiler.speed_gate import Gate, Setting, prompts_digest
from compiler.speed_search import COSTLY, FORECAST, Combination, NothingFaster, SpeedSearch, Way
from runtimes.compute import AUTO, device_of, natively
from runtimes.forecaster import FEWEST
from runtimes.sessions import session_table as sessions
from runtimes.sessions.common import preferred_threads, threads

if TYPE_CHECKING:
    from runtimes.pipeline import Pipeline

MIN_PSNR = 45.0
"""dB that are held where nothing else is asked for."""

STEPS = (20, 50)

WAYS = ("compute", "threads", "forecast")
"""What may be chosen of an artifact that is there."""


@dataclass(frozen=True)
class TuneRequest:
    """What an artifact is tuned to.

    Attributes:
        artifact: its folder.
        min_psnr: dB, mean over the pictures of each scheduler and number of steps.
        prompts: of which every second is tuned on, and the others are verified on; empty for the model's own.
        steps: numbers of them; all are held to the gate.
        schedulers: as `generate` takes them; empty for the model's own.
        device, compute: as `runtimes.pipeline.load` takes them; a type that is named is not chosen.
        ways: of `WAYS`, what is chosen.
        guidance: of the pictures; None for what the model's own prompts are drawn with, or the pipeline's own. More
            of it makes less of the gate: `auto` goes back to all calls there.
    """

    artifact: Path
    min_psnr: float = MIN_PSNR
    prompts: tuple[str, ...] = ()
    steps: tuple[int, ...] = STEPS
    schedulers: tuple[str, ...] = ()
    device: str = "auto"
    compute: str = "auto"
    ways: tuple[str, ...] = WAYS
    guidance: float | None = None

    @property
    def gate(self) -> Gate:
        """What pictures are held to."""
        schedulers = self.schedulers or ("",)
        return Gate(
            self.min_psnr,
            tuple(Setting(scheduler, steps) for scheduler in schedulers for steps in self.steps),
        )


def tune(request: TuneRequest, progress: Progress = silent) -> Artifact:
    """Finds the fastest way and writes it, with all that was tried, to the artifact's manifest.

    Stopped by Ctrl-C, it keeps what has held so far, if anything has; else the artifact is as it was.

    Returns:
        The artifact with its new manifest.

    Raises:
        UsageError: a gate, steps or prompts that nothing can be tuned to.
        LatentcError: the artifact does not draw pictures of prompts, cannot be opened here, or nothing faster holds.
    """
    check(request)
    root = request.artifact.absolute()
    manifest = read_manifest(root)
    if TASK not in manifest.pipelines:
        raise LatentcError(
            f"{root} cannot be tuned: pictures of prompts are what it is tuned by, and it does not do {TASK} (it "
            f"does: {', '.join(manifest.pipelines)})."
        )
    stated = evaluation(local_folder(manifest.source.id))
    prompts = request.prompts or stated.prompts
    # Prompts of the user's own are drawn with the pipeline's own guidance.
    guidance = request.guidance if request.guidance is not None or request.prompts else stated.guidance
    tuned_on, verified_on = prompts[::2], prompts[1::2]
    # What it was tuned to before is nothing that it does by default.
    plain = manifest.model_copy(update={"forecast": None, "speed": None})
    if plain != manifest:
        replace_manifest(root, manifest, plain)
        plain = read_manifest(root)
    choice = Choice(request, tuned_on, verified_on)
    try:
        with Drawings(_opening(root, request, progress), request.gate, guidance, progress) as drawings:
            combination, runs = choice.searched(drawings, lambda: _ways(request, manifest), progress)
        return keep(root, plain, choice.record(combination, runs))
    except BaseException as error:
        best = None if choice.search is None else choice.search.best
        if isinstance(error, KeyboardInterrupt) and best is not None:
            keep(root, plain, choice.record(best, ()))
        elif plain != manifest and read_manifest(root) == plain:
            replace_manifest(root, plain, manifest)
        if isinstance(error, NothingFaster):
            left_out = len(set(request.ways)) < len(WAYS)
            error.hint = (
                "Try the other ways, too: latentc tune ARTIFACT, without --only"
                if left_out
                else "Use it as it is, or try what takes other graphs: latentc compile MODEL OUT --fastest"
            )
        raise


@dataclass
class Choice:
    """A search under way, as what the manifest will keep of it."""

    request: TuneRequest
    tuned_on: Sequence[str]
    verified_on: Sequence[str]
    drawings: Drawings | None = None
    search: SpeedSearch | None = None

    def searched(
        self, drawings: Drawings, ways: Callable[[], Sequence[Way]], progress: Progress
    ) -> tuple[Combination, tuple[ForecastRun, ...]]:
        """Draws as by default and searches; see `compiler.speed_search.SpeedSearch.fastest`.

        Args:
            ways: all that may make it faster, once it is known what takes the time.
        """
        self.drawings = drawings
        self.tuned_on, self.verified_on = drawings.draw_reference(self.tuned_on, self.verified_on)
        self.search = SpeedSearch(
            drawings,
            ways(),
            self.request.gate,
            self.tuned_on,
            self.verified_on,
            progress,
            alone=drawings.seconds < COSTLY,
        )
        return self.search.fastest()

    def record(
        self, combination: Combination, verification: tuple[ForecastRun, ...]
    ) -> dict[str, Forecast | SpeedChoice | None]:
        """The manifest's fields of a combination, and what was measured of it on other prompts; nothing if stopped."""
        assert self.drawings is not None and self.search is not None
        gate = self.request.gate
        forecast = None
        if combination.tolerance:
            assert self.drawings.forecast is not None
            forecast = self.drawings.forecast.model_copy(
                update={
                    "tolerance": combination.tolerance,
                    "verified_on": prompts_digest(self.verified_on) if verification else "",
                    "verification": verification,
                }
            )
        speed = SpeedChoice(
            min_psnr=gate.min_psnr,
            worst_psnr_below=gate.worst_below,
            compute=combination.compute,
            threads=combination.threads,
            cores=processors(),
            device=self.drawings.device,
            verified=bool(verification),
            trials=tuple(self.search.trials),
        )
        return {"forecast": forecast, "speed": speed}


def _opening(root: Path, request: TuneRequest, progress: Progress) -> Open:
    from runtimes.pipeline import load

    @contextmanager
    def opened(combination: Combination) -> Iterator[Pipeline]:
        compute = request.compute if combination.compute == AUTO else combination.compute
        with (
            preferred_threads(combination.threads),
            load(root, request.device, TASK, progress=progress, compute=compute) as pipeline,
        ):
            pipeline.open()
            yield pipeline

    return opened


def _ways(request: TuneRequest, manifest: Manifest) -> tuple[Way, ...]:
    ways: list[Way] = []
    if "compute" in request.ways and request.compute == AUTO:
        ways += map(Way.compute, faster_types(manifest, request.device))
    if "threads" in request.ways:
        ways += map(Way.threads, other_threads())
    if "forecast" in request.ways:
        ways.append(FORECAST)
    return tuple(ways)


def faster_types(manifest: Manifest, device: str) -> tuple[str, ...]:
    """What the device computes in faster than in what the artifact is computed in by default, as it says itself."""
    runtime_device = device_of(sessions.get(manifest.target), device)
    if runtime_device is None or not runtime_device.computes:
        return ()
    usual = natively(runtime_device, manifest.precision)[0]
    return runtime_device.computes[: runtime_device.computes.index(usual)]


def other_threads() -> tuple[int, ...]:
    """Numbers of threads that are worth a try: all processors, where the vendor chooses, and may choose fewer."""
    cores = processors()
    return () if cores == 1 or threads() is not None else (cores,)


def check(request: TuneRequest) -> None:
    """Raises UsageError for what nothing can be tuned to."""
    if not 0 < request.min_psnr < EQUAL:
        raise UsageError(
            f"pictures are held to more than 0 and less than {EQUAL:g} dB; found {request.min_psnr:g}.",
            "For instance: --min-psnr 45",
        )
    if request.prompts and len(set(request.prompts)) < 2:
        raise UsageError(
            "a tolerance is tuned on some prompts and verified on others; found one.", "Give two or more."
        )
    if not request.steps or max(request.steps) < FEWEST:
        raise UsageError(
            f"no step is forecast of fewer than {FEWEST}; found steps {', '.join(map(str, request.steps))}.",
            "For instance: --steps 20,50",
        )
    if unknown := sorted(set(request.ways) - set(WAYS)):
        raise UsageError(
            f"there is no way '{unknown[0]}' to be faster (there are: {', '.join(WAYS)}).",
            "For instance: --only forecast",
        )


def keep(root: Path, manifest: Manifest, fields: dict[str, Forecast | SpeedChoice | None]) -> Artifact:
    """The artifact with what was chosen in its manifest."""
    replace_manifest(root, manifest, manifest.model_copy(update=fields))
    return Artifact(root, read_manifest(root))
