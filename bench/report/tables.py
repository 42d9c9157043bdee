"""A bench's figures as texts, shared by the terminal, Markdown and HTML."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from artifacts.units import size
from bench.record import Bench, Measured, Memory, Spread, Start, Variant

DASH = "-"


@dataclass(frozen=True)
class Column:
    """A column of figures: its head, what it means, and a variant's cell."""

    head: str
    title: str
    cell: Callable[[Variant], str]


def figure(measurement: Measured | None, form: str, unit: str = "", interval: bool = False) -> str:
    """ "31.02 dB (30.1-32.2)"; a dash when it was not measured."""
    if measurement is None or measurement.value is None:
        return DASH
    text = f"{_number(measurement.value, form)}{unit}"
    if (
        not interval
        or measurement.low is None
        or measurement.high is None
        or measurement.low == measurement.high
    ):
        return text
    return f"{text} ({_number(measurement.low, form)}-{_number(measurement.high, form)})"


def _number(value: float, form: str) -> str:
    return "∞" if math.isinf(value) else f"{value:{form}}"


def milliseconds(spread: Spread | None, quartiles: bool = False) -> str:
    """ "41.2"; with its quartiles "41.2 (40.1-43.0)"."""
    if spread is None:
        return DASH
    text = f"{spread.median:.4g}"
    return f"{text} ({spread.low:.4g}-{spread.high:.4g})" if quartiles else text


def memory(usage: Memory | None) -> str:
    """ "643.0 MB"."""
    return DASH if usage is None else size(usage.total)


def starts(variant: Variant, seconds: Callable[[Start], float | None]) -> str:
    """ "7.52 / 0.84 s": of the cold start and of the warm one."""
    times = [None if start is None else seconds(start) for start in (variant.cold, variant.warm)]
    if all(time is None for time in times):
        return DASH
    return " / ".join(DASH if time is None else f"{time:.2f}" for time in times) + " s"


def kinds(usage: Memory | None) -> str:
    """ "441.7 / 201.3 MB": anonymous and file-backed."""
    if usage is None or usage.anonymous is None or usage.file_backed is None:
        return DASH
    return f"{size(usage.anonymous)} / {size(usage.file_backed)}"


def compute(variant: Variant) -> str:
    """ "bf16": the type that it computes in; a dash where it is not known."""
    return variant.about.get("compute", DASH)


def calls(variant: Variant) -> str:
    """ "9.5 of 20": steps of a picture whose calls are made; a dash where all are."""
    count = None if variant.speed is None else variant.speed.calls
    return DASH if count is None else f"{count.made:.1f} of {count.of:.0f}"


SPEED: tuple[Column, ...] = (
    Column("computes in", "the type of its arithmetic, where nothing was asked for its default", compute),
    Column(
        "made in", "compiling or exporting", lambda v: DASH if v.compile_s is None else f"{v.compile_s:.1f} s"
    ),
    Column(
        "peak",
        "memory of compiling or exporting",
        lambda v: DASH if v.compile_memory is None else size(v.compile_memory),
    ),
    Column("on disk", "bytes of the artifact, or of the model's weight files", lambda v: size(v.bytes)),
    Column(
        "load",
        "fresh process, nothing compiled in its cache, files not in the page cache where the system allows it / "
        "second start",
        lambda v: starts(v, lambda start: start.load_s),
    ),
    Column(
        "1st step",
        "from load to the end of the first step, cold / second start",
        lambda v: starts(v, lambda start: start.first_step_s),
    ),
    Column(
        "1st image",
        "from load to the first picture, cold / second start",
        lambda v: starts(v, lambda start: start.first_image_s),
    ),
    Column(
        "memory", "peak of a fresh process, cold start", lambda v: memory(v.cold.memory if v.cold else None)
    ),
    Column(
        "anonymous / files",
        "peaks of memory of no file, and of mapped files",
        lambda v: kinds(v.cold.memory if v.cold else None),
    ),
    Column(
        "step ms",
        "milliseconds of a denoising step: median (quartiles)",
        lambda v: milliseconds(v.speed.step_ms if v.speed else None, quartiles=True),
    ),
    Column("calls", "steps of a picture whose calls are made, the others being forecast; mean", calls),
    Column(
        "x ref",
        "step time over the reference's, median of each round's own ratio (95 %)",
        lambda v: figure(v.speed.step_ratio, ".3f", interval=True) if v.speed else DASH,
    ),
    Column("img/min", "pictures a minute", lambda v: f"{v.speed.images_per_minute:.1f}" if v.speed else DASH),
)

QUALITY: tuple[Column, ...] = (
    Column(
        "PSNR dB",
        "of the mean squared error over all pictures (95 %, over prompts)",
        lambda v: figure(v.quality.psnr, ".2f", interval=True) if v.quality else DASH,
    ),
    Column(
        "worst",
        "PSNR of the worst picture",
        lambda v: (
            _number(v.quality.psnr.worst, ".2f") if v.quality and v.quality.psnr.worst is not None else DASH
        ),
    ),
    Column("SSIM", "mean", lambda v: figure(v.quality.ssim, ".4f") if v.quality else DASH),
    Column("MS-SSIM", "mean", lambda v: figure(v.quality.ms_ssim, ".4f") if v.quality else DASH),
    Column(
        "latents",
        "relative error of the last latents, median",
        lambda v: figure(v.quality.latent_error, ".1e") if v.quality else DASH,
    ),
    Column(
        "broken",
        "share of pictures that are black or not finite",
        lambda v: figure(v.quality.broken, ".0%") if v.quality else DASH,
    ),
    Column(
        "accuracy",
        "share of what the prompts say that is read back right",
        lambda v: figure(v.quality.prompt_accuracy, ".1%") if v.quality else DASH,
    ),
    Column("LPIPS", "to the reference", lambda v: figure(v.quality.lpips, ".4f") if v.quality else DASH),
    Column(
        "CLIP", "score to the prompts", lambda v: figure(v.quality.clip_score, ".2f") if v.quality else DASH
    ),
    Column(
        "FID", "to the reference's pictures", lambda v: figure(v.quality.fid, ".2f") if v.quality else DASH
    ),
)


# For a terminal of 100 columns: no intervals, units in the heads.
SHORT_SPEED: tuple[Column, ...] = (
    Column("in", "", compute),
    Column("on disk", "", lambda v: size(v.bytes)),
    Column("cold s", "", lambda v: f"{v.cold.load_s:.2f}" if v.cold else DASH),
    Column("warm s", "", lambda v: f"{v.warm.load_s:.2f}" if v.warm else DASH),
    Column("memory", "", lambda v: memory(v.cold.memory if v.cold else None)),
    Column("step ms", "", lambda v: milliseconds(v.speed.step_ms if v.speed else None)),
    Column(
        "quartiles",
        "",
        lambda v: (
            f"{v.speed.step_ms.low:.3g}-{v.speed.step_ms.high:.3g}" if v.speed and v.speed.step_ms else DASH
        ),
    ),
    Column("calls", "", calls),
    Column("x ref", "", lambda v: figure(v.speed.step_ratio, ".3f") if v.speed else DASH),
    Column("img/min", "", lambda v: f"{v.speed.images_per_minute:.1f}" if v.speed else DASH),
)

SHORT_QUALITY: tuple[Column, ...] = (
    Column("PSNR dB", "", lambda v: figure(v.quality.psnr, ".2f", interval=True) if v.quality else DASH),
    *QUALITY[1:],
)


def used(columns: Sequence[Column], bench: Bench) -> tuple[Column, ...]:
    """Those that have a figure for any variant."""
    return tuple(c for c in columns if any(c.cell(variant) != DASH for variant in bench.variants))


def notes(bench: Bench) -> list[str]:
    """What was measured in another way than usual, and what was not measured and why: a line for each reason."""
    missing: dict[str, list[str]] = {}
    unusual: dict[str, list[str]] = {}
    for variant in bench.variants:
        if variant.quality is None or variant.name == bench.reference:
            continue
        for name in type(variant.quality).model_fields:
            measured = getattr(variant.quality, name)
            if not isinstance(measured, Measured) or not (measured.reason or measured.value is None):
                continue
            listed = (missing if measured.value is None else unusual).setdefault(measured.reason, [])
            if name not in listed:
                listed.append(name)
    apart = (
        "Not all processes fit in memory together: those whose turn was longest ago were ended, and started again "
        f"with a picture that is not counted, {bench.reopened} times."
    )
    return [
        *([apart] if bench.reopened else []),
        *(f"{', '.join(names)}: {reason}." for reason, names in unusual.items()),
        *(f"Not measured: {', '.join(names)}: {reason}." for reason, names in missing.items()),
    ]


def failures(bench: Bench) -> list[str]:
    """What failed, a line each."""
    return [f"{variant.name} failed: {variant.error}" for variant in bench.variants if variant.error]


def counts(bench: Bench) -> str:
    """ "8 prompts, 1 seed, 20 steps"."""
    settings = bench.settings
    numbers = ((len(settings.prompts), "prompt"), (len(settings.seeds), "seed"), (settings.steps, "step"))
    return ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for count, name in numbers)


def environment(bench: Bench) -> list[tuple[str, str]]:
    """The machine, the versions and what was drawn."""
    machine, drawn = bench.environment, bench.settings
    threads = {f"{v.name}: {v.threads or 'its own choice'}" for v in bench.variants if not v.error}
    default = "the pipeline's own"
    return [
        ("date", bench.created),
        (
            "processor",
            f"{machine.processor}, {machine.cores} cores ({machine.logical_cores} logical), {machine.machine}",
        ),
        ("memory", size(machine.memory)),
        ("system", f"{machine.system}, Python {machine.python}"),
        ("packages", ", ".join(f"{name} {version}" for name, version in machine.packages.items())),
        ("threads", "; ".join(sorted(threads))),
        ("variables", ", ".join(f"{k}={v}" for k, v in machine.variables.items()) or "none that matter"),
        (
            "load before",
            DASH if machine.load_average is None else f"{machine.load_average:.2f} (one minute's average)",
        ),
        ("page cache", "dropped before cold starts" if machine.evicted else "could not be dropped"),
        (
            "drawn",
            f"{len(drawn.prompts)} prompts, seeds {', '.join(map(str, drawn.seeds))}, {drawn.steps} steps, guidance "
            f"{default if drawn.guidance is None else f'{drawn.guidance:g}'}, size "
            f"{default if drawn.size is None else '{}x{}'.format(*drawn.size)}, {drawn.task}",
        ),
    ]


def command(bench: Bench) -> str:
    """What to type to run it again."""
    return shlex.join(bench.command)
