"""How good pictures with forecast steps are: ``python -m bench.project.forecast``

Compiles the built-in model for each target and tunes it for each scheduler to 45 dB on prompts that it was trained on.
Then held-out prompts are drawn with 20 and with 50 steps: with all calls made, with those that the tolerance leaves,
and in plainly as many steps as those are. Exits with 1 where a row falls short: of calls, of dB to the picture of all
calls, of dB above plain fewer steps, of prompt accuracy. Where no tolerance holds 45 dB, the row makes all calls.

With --work, what was done is kept there: a run that was stopped goes on, and may be split by --target, --scheduler and
--steps. An artifact is then tuned to all numbers of steps, whichever are drawn first.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any

import numpy as np

from artifacts.copying import copy_artifact
from artifacts.errors import LatentcError
from artifacts.manifest_reading import read_manifest
from artifacts.verification import open_artifact
from bench import markdown_tables
from bench.subjects import is_artifact
from compiler.evidence.metrics import psnr
from compiler.evidence.quantized_pictures import EQUAL
from runtimes.forecaster import Count

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.reference.shape_scenes import Caption
    from runtimes.pipeline import Pipeline
    from runtimes.result import Result

TARGETS = ("openvino", "onnxruntime")
SCHEDULERS = {
    "DDIM": "DDIMScheduler",
    "DPM-Solver++": "DPMSolverMultistepScheduler",
    "UniPC": "UniPCMultistepScheduler",
    "Euler": "EulerDiscreteScheduler",
    "Euler a": "EulerAncestralDiscreteScheduler",
}
NOISY = frozenset({"Euler a"})
"""Schedulers that add noise: they make as many calls as they need."""

STEPS = (20, 50)
GUIDANCE = 3.0
TUNED_ON = 16
PLOT = Path(__file__).resolve().parents[2] / "docs" / "images" / "forecast.svg"

CALLS: Mapping[int, int] = {20: 12, 50: 22}
"""Calls at most, by the number of steps."""

MEAN, WORST, ABOVE_PLAIN, ACCURACY = 45.0, 36.0, 4.0, 0.01
"""dB at least, in the mean and in the worst; dB above plain fewer steps; how far prompt accuracy may fall."""


Setting = tuple[int, float]
"""A number of steps, and the tolerance of forecasts; 0 for none."""
_Key = tuple[str, int, float]


@dataclass(frozen=True)
class Pictures:
    """What was drawn of all prompts: pictures, seconds of each, and the steps whose calls were made."""

    images: tuple[Image, ...]
    seconds: tuple[float, ...]
    count: Count

    def ratios(self, whole: Pictures) -> list[float]:
        """PSNR of each picture to the one of all calls."""
        return [
            min(psnr(_pixels(picture), _pixels(other)), EQUAL)
            for picture, other in zip(self.images, whole.images, strict=True)
        ]


@dataclass(frozen=True)
class Row:
    """One target, scheduler and number of steps.

    Attributes:
        calls: of a picture, mean.
        ratios, plain: dB of the pictures to those of all calls, with forecasts and of plainly as many steps.
        accuracy, whole_accuracy: share of what prompts say that is read back right, with forecasts and with all calls.
        speed: seconds of a picture of all calls over seconds of it with forecasts; the median of the prompts.
    """

    target: str
    scheduler: str
    steps: int
    tolerance: float
    calls: float
    ratios: tuple[float, ...]
    plain: tuple[float, ...]
    accuracy: float
    whole_accuracy: float
    speed: float

    def short(self) -> Iterator[str]:
        """What it falls short of."""
        name = f"{self.target}, {self.scheduler}, {self.steps} steps"
        if self.scheduler not in NOISY and self.calls > CALLS.get(self.steps, self.steps):
            yield f"{name}: {self.calls:.1f} calls, of at most {CALLS[self.steps]}"
        if mean(self.ratios) < MEAN or min(self.ratios) < WORST:
            yield f"{name}: {mean(self.ratios):.1f} dB, worst {min(self.ratios):.1f}"
        if self.calls < self.steps and mean(self.ratios) < mean(self.plain) + ABOVE_PLAIN:
            yield f"{name}: {mean(self.ratios):.1f} dB, and {mean(self.plain):.1f} in plainly as many steps"
        if self.accuracy < self.whole_accuracy - ACCURACY:
            yield f"{name}: prompt accuracy {self.accuracy:.1%}, and {self.whole_accuracy:.1%} of all calls"

    def cells(self) -> tuple[str, ...]:
        return (
            self.target,
            self.scheduler,
            f"{self.calls:.1f} of {self.steps}",
            f"{mean(self.ratios):.1f} dB",
            f"{min(self.ratios):.1f} dB",
            f"{mean(self.plain):.1f} dB",
            f"{self.accuracy:.1%} / {self.whole_accuracy:.1%}",
            f"{self.speed:.2f}",
        )


HEAD = (
    "target",
    "scheduler",
    "calls",
    "PSNR",
    "worst",
    "plain fewer steps",
    "accuracy, forecast / all calls",
    "times as fast",
)


class Drawer:
    """An artifact that draws prompts; what was drawn is kept."""

    def __init__(self, pipeline: Pipeline, captions: Sequence[Caption]) -> None:
        self._pipeline = pipeline
        self.captions = tuple(captions)
        self._drawn: dict[_Key, Pictures] = {}

    def draw(self, scheduler: str, *settings: Setting) -> list[Pictures]:
        """All prompts with each setting, the seed of each its number; what is not there yet prompt by prompt, in turn.

        The processor's pace changes within minutes: pictures whose times are compared are drawn one after the other.
        """
        keys = [(scheduler, *setting) for setting in settings]
        missing: dict[_Key, list[Result]] = {key: [] for key in keys if key not in self._drawn}
        for seed, caption in enumerate(self.captions):
            for key, results in missing.items():
                _, steps, tolerance = key
                results.append(
                    self._pipeline.generate(
                        caption.text,
                        seed=seed,
                        steps=steps,
                        guidance=GUIDANCE,
                        scheduler=SCHEDULERS[scheduler],
                        accelerate=tolerance,
                    )
                )
        for key, results in missing.items():
            self._drawn[key] = Pictures(
                tuple(result.images[0] for result in results),
                tuple(result.timings.total for result in results),
                sum((result.calls or Count(key[1], key[1]) for result in results), Count()),
            )
        return [self._drawn[key] for key in keys]

    def row(self, target: str, scheduler: str, steps: int, tolerance: float) -> Row:
        """What a tolerance does to the pictures of all prompts."""
        from bench.reference.judge import prompt_accuracy

        whole, fast = self.draw(scheduler, (steps, 0.0), (steps, tolerance))
        calls = fast.count.made / len(fast.images)
        # As many plain steps as calls, rounded up: the comparison favours them.
        (plain,) = self.draw(scheduler, (-int(-calls // 1), 0.0))
        return Row(
            target,
            scheduler,
            steps,
            tolerance,
            calls,
            tuple(fast.ratios(whole)),
            tuple(plain.ratios(whole)),
            prompt_accuracy(fast.images, self.captions),
            prompt_accuracy(whole.images, self.captions),
            median(slow / quick for slow, quick in zip(whole.seconds, fast.seconds, strict=True)),
        )


def _pixels(image: Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"), np.float32) / 255


def measure(
    target: str,
    schedulers: Sequence[str],
    steps: Sequence[int],
    prompts: int,
    compute: str,
    on_row: Callable[[Row], None],
    plot: Path | None = None,
    work: Path | None = None,
) -> list[Row]:
    """Compiles and tunes artifacts and measures every scheduler and number of steps.

    Args:
        on_row: is given each row when it is there.
        plot: where the curves of the first scheduler and number of steps are drawn.
        work: keeps the tuned artifacts and the rows that were measured; None for a temporary folder.
    """
    from bench.reference.shape_scenes import split
    from compiler.build import compile
    from compiler.compile_request import CompileRequest
    from runtimes.pipeline import load

    _, held_out = split()
    with tempfile.TemporaryDirectory(prefix="latentc-forecast-") as folder:
        place = work or Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        plain, notes = place / f"{target}-{compute}", place / f"{target}-{compute}-{prompts}.jsonl"
        if not is_artifact(str(plain)):
            tell(f"{target}: compiling")
            compile(CompileRequest(model="shapes", out=plain, target=target, check="none", force=True))
        done = {(row.scheduler, row.steps): row for row in _noted(notes)}
        rows = []
        for name in schedulers:
            tolerance = None
            with load(plain, compute=compute) as pipeline:
                drawer = Drawer(pipeline, held_out[:prompts])
                for number in steps:
                    row = done.get((name, number))
                    if row is None:
                        if tolerance is None:
                            tolerance = _tuned(plain, name, tuple(steps) if work is None else STEPS, compute)
                        begun = time.monotonic()
                        row = drawer.row(target, name, number, tolerance)
                        tell(f"{target}, {name}, {number} steps: {time.monotonic() - begun:.0f} s")
                        with notes.open("a", encoding="utf-8") as lines:
                            lines.write(json.dumps(dataclasses.asdict(row)) + "\n")
                    rows.append(row)
                    on_row(row)
        if plot is not None:
            with load(plain, compute=compute) as pipeline:
                curves(Drawer(pipeline, held_out[: min(prompts, 8)]), schedulers, steps[0], plot)
        return rows


def _tuned(plain: Path, scheduler: str, steps: tuple[int, ...], compute: str) -> float:
    """The tolerance that a copy of an artifact is tuned to for a scheduler; 0 where none holds."""
    from bench.reference.shape_scenes import split
    from compiler.speed_tuning import TuneRequest, tune

    out = plain.with_name(f"{plain.name}-{SCHEDULERS[scheduler]}")
    forecast = read_manifest(out).forecast if is_artifact(str(out)) else None
    if forecast is None:
        begun = time.monotonic()
        copy_artifact(open_artifact(plain), out, force=True)
        texts = tuple(caption.text for caption in split()[0][:TUNED_ON])
        wanted = TuneRequest(
            out,
            MEAN,
            texts,
            steps,
            (SCHEDULERS[scheduler],),
            compute=compute,
            ways=("forecast",),
            guidance=GUIDANCE,
        )
        try:
            forecast = tune(wanted).manifest.forecast
        except LatentcError as error:
            tell(f"{scheduler}: {error.message}")
        tell(f"{scheduler}: tuned in {time.monotonic() - begun:.0f} s")
    return 0.0 if forecast is None else forecast.tolerance


def tell(line: str) -> None:
    """Where the run is, beside the table."""
    print(line, file=sys.stderr, flush=True)


def _noted(file: Path) -> Iterator[Row]:
    """The rows that an earlier run measured."""
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        values = json.loads(line)
        yield Row(**{**values, "ratios": tuple(values["ratios"]), "plain": tuple(values["plain"])})


def curves(drawer: Drawer, schedulers: Sequence[str], steps: int, file: Path) -> None:
    """PSNR over calls, with forecasts of several tolerances and in plainly fewer steps, as an SVG."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    names = [name for name in schedulers if name not in NOISY][:2]
    figure, panels = pyplot.subplots(
        1, len(names), figsize=(4.2 * len(names), 3.2), sharey=True, squeeze=False
    )
    for axes, name in zip(panels[0], names, strict=True):
        (whole,) = drawer.draw(name, (steps, 0.0))
        forecast = drawer.draw(name, *((steps, tolerance) for tolerance in (0.01, 0.02, 0.04, 0.08, 0.16)))
        plain = drawer.draw(name, *((fewer, 0.0) for fewer in range(8, steps - 2, 2)))
        for drawn, label in ((forecast, f"{steps} steps, some forecast"), (plain, "plainly fewer steps")):
            _curve(axes, drawn, whole, label)
        axes.set_title(name)
        axes.set_xlabel("calls")
    panels[0][0].set_ylabel(f"PSNR to {steps} calls, dB")
    panels[0][0].legend(frameon=False)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def _curve(axes: Any, drawn: Sequence[Pictures], whole: Pictures, label: str) -> None:
    """The mean with the worst below it."""
    points = sorted(
        (pictures.count.made / len(pictures.images), pictures.ratios(whole)) for pictures in drawn
    )
    calls = [x for x, _ in points]
    (line,) = axes.plot(calls, [mean(ratios) for _, ratios in points], marker="o", label=label)
    axes.plot(calls, [min(ratios) for _, ratios in points], linestyle=":", color=line.get_color())


def main(args: Sequence[str] | None = None) -> int:
    """Runs the measurement; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.project.forecast", description=__doc__)
    parser.add_argument("--prompts", type=int, default=40, help="how many of the held-out prompts")
    parser.add_argument("--target", action="append", choices=TARGETS)
    parser.add_argument("--scheduler", action="append", choices=tuple(SCHEDULERS))
    parser.add_argument("--steps", action="append", type=int)
    parser.add_argument("--compute", default="auto", help="what is computed in (default: as by default)")
    parser.add_argument("--work", type=Path, help="keeps what was done, for the next run to go on with")
    parser.add_argument("--update-docs", action="store_true", help=f"draw {PLOT.name} anew")
    options = parser.parse_args(args)
    rows: list[Row] = []
    begun = time.monotonic()
    targets = options.target or TARGETS
    print(markdown_tables.head(HEAD, right=HEAD[2:]))
    try:
        for target in targets:
            rows += measure(
                target,
                options.scheduler or tuple(SCHEDULERS),
                options.steps or STEPS,
                options.prompts,
                options.compute,
                lambda row: print(markdown_tables.row(row.cells()), flush=True),
                PLOT if options.update_docs and target == targets[0] else None,
                options.work,
            )
    except LatentcError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    tell(f"all of it took {time.monotonic() - begun:.0f} s")
    failed = [line for row in rows for line in row.short()]
    for line in failed:
        print(f"Fell short: {line}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
