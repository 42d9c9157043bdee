"""How far forecast steps may be off: the largest tolerance whose pictures hold a gate, found by drawing them.

Pictures with forecast steps are held to the same artifact's with all calls made, of the same prompts and seeds. What is
found on some prompts is verified on others before the manifest keeps it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING

import numpy as np

from artifacts.errors import LatentcError, UsageError
from artifacts.evidence_records import Forecast, ForecastRun
from artifacts.manifest import Manifest
from artifacts.manifest_reading import read_manifest
from artifacts.progress import Event, Progress, silent
from artifacts.publish import replace_manifest
from artifacts.verification import Artifact
from compiler.evaluation import TASK, evaluation
from compiler.evidence.metrics import psnr, ssim
from compiler.evidence.quantized_pictures import EQUAL
from compiler.source import local_folder
from runtimes.forecaster import FEWEST, Count

if TYPE_CHECKING:
    from runtimes.pipeline import Pipeline

MIN_PSNR = 45.0
"""dB that are held where nothing else is asked for."""

WORST_BELOW = 6.0
"""dB that the worst picture may be below what the mean is held to."""

STEPS = (20, 50)

LEVELS = tuple(0.01 * 2 ** (level / 2) for level in range(15))
"""The tolerances that are tried, 0.01 to 1.28."""


@dataclass(frozen=True)
class TuneRequest:
    """What an artifact is tuned to.

    Attributes:
        artifact: its folder.
        min_psnr: dB, mean over the pictures of each scheduler and number of steps.
        prompts: of which every second is tuned on, and the others are verified on; empty for the model's own.
        steps: numbers of them; all are held to the gate.
        schedulers: as `generate` takes them; empty for the model's own.
        device, compute: as `runtimes.pipeline.load` takes them.
    """

    artifact: Path
    min_psnr: float = MIN_PSNR
    prompts: tuple[str, ...] = ()
    steps: tuple[int, ...] = STEPS
    schedulers: tuple[str, ...] = ()
    device: str = "auto"
    compute: str = "auto"


@dataclass(frozen=True)
class Setting:
    """How pictures are drawn: a scheduler (empty for the model's own) and a number of steps."""

    scheduler: str
    steps: int


@dataclass(frozen=True)
class Picture:
    """A picture, [height, width, 3] with values from 0 to 1, its seconds and its calls."""

    pixels: np.ndarray
    seconds: float
    count: Count


class Drawn:
    """An artifact's pictures; those with all calls made are drawn once."""

    def __init__(self, pipeline: Pipeline, guidance: float | None) -> None:
        self.pipeline = pipeline
        self.guidance = guidance
        self._whole: dict[tuple[str, Setting], Picture] = {}

    def run(self, prompts: Sequence[str], setting: Setting, tolerance: float) -> ForecastRun:
        """What a tolerance does to the pictures of `prompts`."""
        pairs = [
            (self._picture(prompt, seed, setting, tolerance), self._all_made(prompt, seed, setting))
            for seed, prompt in enumerate(prompts)
        ]
        ratios = [min(psnr(fast.pixels, whole.pixels), EQUAL) for fast, whole in pairs]
        likeness = [ssim(fast.pixels, whole.pixels) for fast, whole in pairs]
        count = sum((fast.count for fast, _ in pairs), Count())
        height, width, _ = pairs[0][0].pixels.shape
        return ForecastRun(
            scheduler=setting.scheduler,
            prompts=len(pairs),
            steps=setting.steps,
            guidance=self.guidance,
            width=width,
            height=height,
            compute=", ".join(sorted(set(self.pipeline.computes.values()))),
            device=self.pipeline.device,
            calls=count.of,
            calls_made=count.made,
            psnr=mean(ratios),
            worst_psnr=min(ratios),
            ssim=mean(likeness),
            worst_ssim=min(likeness),
            seconds=median(fast.seconds for fast, _ in pairs),
            seconds_unaccelerated=median(whole.seconds for _, whole in pairs),
        )

    def _all_made(self, prompt: str, seed: int, setting: Setting) -> Picture:
        key = (prompt, setting)
        if key not in self._whole:
            self._whole[key] = self._picture(prompt, seed, setting, 0.0)
        return self._whole[key]

    def _picture(self, prompt: str, seed: int, setting: Setting, tolerance: float) -> Picture:
        result = self.pipeline.generate(
            prompt,
            seed=seed,
            steps=setting.steps,
            guidance=self.guidance,
            scheduler=setting.scheduler or None,
            accelerate=tolerance,
        )
        if not result.images:
            raise LatentcError("the pipeline returned no pictures, so there is nothing to tune by.")
        if result.flaws:
            raise LatentcError(
                f"'{prompt}' cannot be judged: {result.flaws[0].message}", result.flaws[0].hint
            )
        pixels = np.asarray(result.images[0].convert("RGB"), np.float32) / 255
        return Picture(pixels, result.timings.total, result.calls or Count())


def tune(request: TuneRequest, progress: Progress = silent) -> Artifact:
    """Finds the tolerance and writes it, with what was measured, to the artifact's manifest.

    Stopped by Ctrl-C, it keeps the largest tolerance that has held so far, if there is one.

    Returns:
        The artifact with its new manifest.

    Raises:
        UsageError: a gate, steps or prompts that nothing can be tuned to.
        LatentcError: the artifact does not draw pictures of prompts, cannot be opened here, or no tolerance holds.
    """
    from runtimes.pipeline import load

    _check(request)
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
    guidance = None if request.prompts else stated.guidance
    with load(root, request.device, TASK, progress=progress, compute=request.compute) as pipeline:
        search = Search(Drawn(pipeline, guidance), request, prompts[::2], prompts[1::2], progress)
        try:
            forecast = search.largest()
        except KeyboardInterrupt:
            if search.best is not None:
                _keep(root, manifest, search.best)
            raise
        return _keep(root, pipeline.manifest, forecast)


def _check(request: TuneRequest) -> None:
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


def _keep(root: Path, manifest: Manifest, forecast: Forecast) -> Artifact:
    tuned = manifest.model_copy(update={"forecast": forecast})
    replace_manifest(root, manifest, tuned)
    return Artifact(root, read_manifest(root))


class Search:
    """The largest of `LEVELS` that holds the gate.

    Attributes:
        best: the largest that has held so far on the prompts that are tuned on; None while none has.
    """

    def __init__(
        self,
        drawn: Drawn,
        request: TuneRequest,
        tuned_on: Sequence[str],
        verified_on: Sequence[str],
        progress: Progress = silent,
    ) -> None:
        self._drawn = drawn
        self._min = request.min_psnr
        self._settings = [
            Setting(scheduler, steps) for scheduler in request.schedulers or ("",) for steps in request.steps
        ]
        self._tuned_on, self._verified_on = tuple(tuned_on), tuple(verified_on)
        self._progress = progress
        self._runs: dict[int, tuple[ForecastRun, ...]] = {}
        self.best: Forecast | None = None

    def largest(self) -> Forecast:
        """Halves the levels on the one set of prompts, then goes down until the other set holds, too.

        Raises:
            LatentcError: no level holds; the message says how near the smallest came.
        """
        low, high = 0, len(LEVELS)
        while low < high:
            middle = (low + high) // 2
            if self._holds(middle):
                low = middle + 1
            else:
                high = middle
        for level in reversed(range(low)):
            if not self._holds(level):
                continue
            runs = self._measured(level, self._verified_on, "verifying")
            if self._held(runs):
                self.best = self._forecast(level, runs)
                return self.best
        raise self._too_far()

    def _holds(self, level: int) -> bool:
        if level not in self._runs:
            self._runs[level] = self._measured(level, self._tuned_on, "tuning")
        held = self._held(self._runs[level])
        if held and (self.best is None or LEVELS[level] > self.best.tolerance):
            self.best = self._forecast(level, ())
        return held

    def _measured(self, level: int, prompts: Sequence[str], task: str) -> tuple[ForecastRun, ...]:
        """What is measured of a level, up to the first that does not hold."""
        runs: list[ForecastRun] = []
        task = f"{task}: tolerance {LEVELS[level]:.3g}"
        for number, setting in enumerate(self._settings):
            self._progress(Event(task, number, len(self._settings)))
            runs.append(self._drawn.run(prompts, setting, LEVELS[level]))
            if not self._held(runs[-1:]):
                break
        self._progress(Event(task, len(self._settings), len(self._settings)))
        return tuple(runs)

    def _held(self, runs: Sequence[ForecastRun]) -> bool:
        return all(run.psnr >= self._min and run.worst_psnr >= self._min - WORST_BELOW for run in runs)

    def _forecast(self, level: int, verification: tuple[ForecastRun, ...]) -> Forecast:
        return Forecast(
            tolerance=LEVELS[level],
            min_psnr=self._min,
            worst_psnr_below=WORST_BELOW,
            tuned_on=_digest(self._tuned_on),
            verified_on=_digest(self._verified_on) if verification else "",
            tuning=self._runs[level],
            verification=verification,
        )

    def _too_far(self) -> LatentcError:
        runs = self._runs.get(0) or self._measured(0, self._tuned_on, "tuning")
        if self._held(runs):
            runs = self._measured(0, self._verified_on, "verifying")
        nearest = min(runs, key=lambda run: min(run.psnr, run.worst_psnr + WORST_BELOW))
        name = f"{nearest.scheduler}, " if nearest.scheduler else ""
        return LatentcError(
            f"{self._min:g} dB cannot be held: at the smallest tolerance ({LEVELS[0]:g}) pictures are at "
            f"{nearest.psnr:.1f} dB in the mean and {nearest.worst_psnr:.1f} in the worst ({name}{nearest.steps} "
            f"steps, {Count(nearest.calls_made, nearest.calls)} calls).",
            "Ask for less: --min-psnr DB",
        )


def _digest(prompts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(prompts).encode()).hexdigest()
