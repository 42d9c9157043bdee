"""Pictures with steps that are forecast beside those without, and the largest tolerance that holds a gate on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median
from time import process_time
from typing import TYPE_CHECKING

import numpy as np

from artifacts.errors import LatentcError
from artifacts.evidence_records import Forecast, ForecastRun
from artifacts.progress import Event, Progress, silent
from compiler.evidence.metrics import psnr, ssim
from compiler.evidence.quantized_pictures import EQUAL
from compiler.speed_gate import Gate, Setting, prompts_digest
from runtimes.forecaster import Count

if TYPE_CHECKING:
    from runtimes.pipeline import Pipeline

LEVELS = tuple(0.01 * 10 ** (level / 6) for level in range(7))
"""The tolerances that are tried, 0.01 to 0.1.

Beyond, an estimate of an error says little of it: for a call less of twenty, the worst picture of some ten falls by
5 dB, and one of forty to 35, as no few pictures that it is verified on tell (docs/images/forecast.svg, whose last
point is at 0.16).
"""


@dataclass(frozen=True)
class Picture:
    """A picture, [height, width, 3] with values from 0 to 1, its seconds and its calls.

    Attributes:
        processor_seconds: of all threads; 0 where a device beside the processor computes.
    """

    pixels: np.ndarray
    seconds: float
    processor_seconds: float
    count: Count


class Drawn:
    """An artifact's pictures; those with all calls made are drawn once.

    Attributes:
        seconds: component -> what its calls took, of all that was drawn; and of whole pictures under "".
    """

    def __init__(self, pipeline: Pipeline, guidance: float | None, reference: Drawn | None = None) -> None:
        """
        Args:
            reference: whose pictures with all calls made these are compared with; None for its own.
        """
        self.pipeline = pipeline
        self.guidance = guidance
        self.seconds: dict[str, float] = {}
        self._reference = reference or self
        self._whole: dict[tuple[str, Setting], Picture] = {}

    def run(self, prompts: Sequence[str], setting: Setting, tolerance: float) -> ForecastRun:
        """What a tolerance does to the pictures of `prompts`."""
        pairs = [
            (self._picture(prompt, seed, setting, tolerance), self._reference.all_made(prompt, seed, setting))
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
            processor_seconds=median(fast.processor_seconds for fast, _ in pairs),
            processor_seconds_unaccelerated=median(whole.processor_seconds for _, whole in pairs),
        )

    def all_made(self, prompt: str, seed: int, setting: Setting) -> Picture:
        """The picture of a prompt without any forecast."""
        key = (prompt, setting)
        if key not in self._whole:
            self._whole[key] = self._picture(prompt, seed, setting, 0.0)
        return self._whole[key]

    def _picture(self, prompt: str, seed: int, setting: Setting, tolerance: float) -> Picture:
        begun = process_time()
        result = self.pipeline.generate(
            prompt,
            seed=seed,
            steps=setting.steps,
            guidance=self.guidance,
            scheduler=setting.scheduler or None,
            accelerate=tolerance,
        )
        processor_seconds = process_time() - begun if self.pipeline.on_host else 0.0
        if not result.images:
            raise LatentcError("the pipeline returned no pictures, so there is nothing to tune by.")
        if result.flaws:
            raise LatentcError(
                f"'{prompt}' cannot be judged: {result.flaws[0].message}", result.flaws[0].hint
            )
        timings = result.timings
        self.seconds[""] = self.seconds.get("", 0.0) + timings.total
        for name, took in timings.components.items():
            component = name.partition(".")[0]
            self.seconds[component] = self.seconds.get(component, 0.0) + took.seconds
        pixels = np.asarray(result.images[0].convert("RGB"), np.float32) / 255
        return Picture(pixels, result.timings.total, processor_seconds, result.calls or Count())


class Search:
    """The largest of `LEVELS` that holds the gate.

    Attributes:
        best: the largest that has held so far, which is verified on no other prompts yet; None while none has.
    """

    def __init__(
        self,
        drawn: Drawn,
        gate: Gate,
        tuned_on: Sequence[str],
        progress: Progress = silent,
    ) -> None:
        self._drawn = drawn
        self._gate = gate
        self._tuned_on = tuple(tuned_on)
        self._progress = progress
        self._runs: dict[int, tuple[ForecastRun, ...]] = {}
        self.best: Forecast | None = None

    def tuned(self) -> float:
        """The tolerance that holds on the prompts that are tuned on; 0 where none does."""
        count = self._count()
        return LEVELS[count - 1] if count else 0.0

    def _count(self) -> int:
        """How many levels hold on the prompts that are tuned on, by halving."""
        low, high = 0, len(LEVELS)
        while low < high:
            middle = (low + high) // 2
            if self._holds(middle):
                low = middle + 1
            else:
                high = middle
        return low

    def _holds(self, level: int) -> bool:
        if level not in self._runs:
            self._runs[level] = self._measured(level)
        admitted = self._gate.admits(self._runs[level])
        if admitted and (self.best is None or LEVELS[level] > self.best.tolerance):
            self.best = self._forecast(level)
        return admitted

    def _measured(self, level: int) -> tuple[ForecastRun, ...]:
        """What is measured of a level, up to the first that does not hold."""
        runs: list[ForecastRun] = []
        task = f"tuning: tolerance {LEVELS[level]:.3g}"
        for number, setting in enumerate(self._gate.settings):
            self._progress(Event(task, number, len(self._gate.settings)))
            runs.append(self._drawn.run(self._tuned_on, setting, LEVELS[level]))
            if not self._gate.admits(runs[-1:]):
                break
        self._progress(Event(task, len(self._gate.settings), len(self._gate.settings)))
        return tuple(runs)

    def _forecast(self, level: int) -> Forecast:
        return Forecast(
            tolerance=LEVELS[level],
            min_psnr=self._gate.min_psnr,
            worst_psnr_below=self._gate.worst_below,
            tuned_on=prompts_digest(self._tuned_on),
            verified_on="",
            tuning=self._runs[level],
            verification=(),
        )
