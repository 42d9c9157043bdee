"""`--quantize auto`: a budget in, the mix of schemes out.

Every weight's sensitivity is measured once (and kept for later runs), bits are allotted by what they buy, and the
whole artifact is then compiled and its pictures compared with PyTorch's, again and again, until the budget holds with
little to spare or is shown to be out of reach.
"""

from __future__ import annotations

import glob
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from artifacts.errors import LatentcError, UsageError
from artifacts.hashing import content_key
from artifacts.manifest import PictureEvidence, Recipe, RecipeComponent, RecipeRule
from artifacts.progress import Event, Progress, silent
from artifacts.verify import Artifact
from compiler import build
from compiler.check import memory_available, memory_needed
from compiler.job import GraphJob, calibration
from compiler.plan import Plan, parameters
from compiler.quantize.allot import Allotment, Ladder
from compiler.quantize.recipe import Choice, read
from compiler.request import CompileRequest
from compiler.sensitivity import SCHEMES, Measured, load, measure, save
from compiler.shared import Shared

CALLS = 4
"""Calls of each component that sensitivities are measured on."""

TRIALS = 7
"""Compiles that a search may take."""

PATIENCE = 4 * 3600.0
"""Seconds that a trial's pictures may take: who asks for a search has time, and without pictures there is none."""

CLOSE = 0.5
"""dB above the wanted PSNR at which the search is content."""


@dataclass(frozen=True)
class Budget:
    """What the artifact is held to: one of the two.

    Attributes:
        min_psnr: dB, mean of the pictures that `latentc compile` compares.
        max_bytes: of the whole artifact.
    """

    min_psnr: float | None = None
    max_bytes: int | None = None


@dataclass(frozen=True)
class Trial:
    """An allotment that was compiled: how many steps, bytes of the artifact, and its pictures."""

    steps: int
    bytes: int
    pictures: PictureEvidence
    recipe: Recipe

    @property
    def psnr(self) -> float:
        """dB, mean."""
        assert self.pictures.psnr is not None
        return self.pictures.psnr


def compile(
    request: CompileRequest,
    budget: Budget,
    progress: Progress = silent,
    on_plan: Callable[[Plan], None] | None = None,
    shared: Shared | None = None,
) -> Artifact:
    """Finds the mix and compiles it to `request.out`.

    Raises:
        UsageError: not exactly one budget, or a request that cannot be measured.
        LatentcError: the budget cannot be met; the message says how near it came.
    """
    if (budget.min_psnr is None) == (budget.max_bytes is None):
        raise UsageError("--quantize auto needs one budget: --min-psnr or --max-bytes.")
    if request.check == "none" or not request.pictures:
        raise UsageError("--quantize auto judges by pictures: leave --check none and --pictures 0 out.")
    shared = shared or Shared()
    request = replace(request, patience=max(request.patience, PATIENCE))
    with tempfile.TemporaryDirectory(prefix=".latentc-auto-", dir=_existing(request.out)) as folder:
        ladder = Ladder(sensitivities(request, Path(folder), progress, shared))

        def attempt(steps: int) -> Trial:
            allotment = ladder.at(steps)
            recipe = as_recipe(allotment)
            number = len(list(Path(folder).glob("trial-*")))
            progress(Event(f"trial {number + 1} of {TRIALS} at most", number, None))
            trial = replace(request, out=Path(folder) / f"trial-{number}", quantize=recipe, force=False)
            manifest = build.compile(trial, progress, shared=shared).manifest
            pictures = manifest.pictures
            if pictures is None or pictures.psnr is None:
                # Where no weight is quantized there is nothing to compare.
                reason = "" if pictures is None else pictures.reason
                if reason:
                    raise LatentcError(
                        f"--quantize auto needs pictures, and they are not measured: {reason}."
                    )
                pictures = PictureEvidence(psnr=math.inf)
            return Trial(steps, sum(file.size for file in manifest.files), pictures, recipe)

        best = smallest(ladder, budget.min_psnr, attempt) if budget.min_psnr is not None else None
        if best is None:
            assert budget.max_bytes is not None
            best = largest(ladder, budget.max_bytes, attempt)
    return build.compile(replace(request, quantize=best.recipe), progress, on_plan, shared)


def _existing(out: Path) -> Path:
    """The nearest folder above `out` that is there: trials want its disk."""
    folder = out.absolute().parent
    while not folder.is_dir():
        folder = folder.parent
    return folder


def smallest(ladder: Ladder, wanted: float, attempt: Callable[[int], Trial]) -> Trial:
    """The smallest artifact whose PSNR is at least `wanted`.

    PSNR falls by 10 dB for each tenfold of the squared error: one trial says where the next should be, and what was
    tried bounds where it can be.

    Raises:
        LatentcError: not even the best of all is that good.
    """
    good: Trial | None = None
    bad: Trial | None = None
    steps = _guess(ladder)
    for _ in range(TRIALS):
        trial = attempt(steps)
        if trial.psnr >= wanted:
            good = trial
            if trial.psnr <= wanted + CLOSE or steps == 0:
                break
        else:
            bad = trial
        low, high = 0 if bad is None else bad.steps + 1, len(ladder) if good is None else good.steps
        if low > len(ladder) or (good is not None and low >= high):
            break
        # Aimed at the middle of what is close enough.
        error = ladder.at(steps).error * 10 ** ((trial.psnr - wanted - CLOSE / 2) / 10)
        steps = min(max(ladder.down_to(error), low), high - 1 if good is not None else high)
    if good is not None:
        return good
    assert bad is not None
    if bad.steps < len(ladder):
        last = attempt(len(ladder))
        if last.psnr >= wanted:
            return last
        bad = last
    raise LatentcError(
        f"a PSNR of {wanted:g} dB cannot be reached: with no weight in fewer bits it is {bad.psnr:.1f} dB "
        f"({bad.bytes:,} bytes).",
        "Ask for less, or for more precision: --precision fp32",
    )


def _guess(ladder: Ladder) -> int:
    """Half way between the smallest and the best, by size."""
    ends = ladder.at(0).bytes, ladder.at(len(ladder)).bytes
    return ladder.within((2 * ends[0] + ends[1]) // 3) or 0


def largest(ladder: Ladder, limit: int, attempt: Callable[[int], Trial]) -> Trial:
    """The best artifact of at most `limit` bytes.

    What an artifact holds beside its weights is known from a first trial.

    Raises:
        LatentcError: not even the smallest fits.
    """
    steps = ladder.within(limit)
    first = trial = attempt(0 if steps is None else steps)
    fitting = trial if trial.bytes <= limit else None
    for _ in range(TRIALS - 2):
        beside = trial.bytes - ladder.at(trial.steps).bytes
        steps = ladder.within(limit - beside)
        if steps is None or steps == trial.steps:
            break
        trial = attempt(steps)
        if trial.bytes <= limit and (fitting is None or trial.steps > fitting.steps):
            fitting = trial
    if fitting is not None:
        return fitting
    least = first if first.steps == 0 else attempt(0)
    if least.bytes <= limit:
        return least
    raise LatentcError(
        f"{limit:,} bytes cannot be reached: the smallest artifact has {least.bytes:,} "
        f"(PSNR {least.psnr:.1f} dB).",
        "Allow more bytes, or leave a task out.",
    )


def as_recipe(allotment: Allotment) -> Recipe:
    """A recipe with a rule for each weight."""
    rules: dict[str, list[RecipeRule]] = {}
    for (folder, key), option in allotment.chosen.items():
        if option.scheme == "none":
            rule = RecipeRule(match=glob.escape(key), scheme="none")
        else:
            parsed = read(option.scheme).components["*"]
            rule = RecipeRule(match=glob.escape(key), scheme=parsed.scheme, options=parsed.options)
        rules.setdefault(folder, []).append(rule)
    return Recipe(components={f: RecipeComponent(weights=tuple(found)) for f, found in rules.items()})


def sensitivities(
    request: CompileRequest, work: Path, progress: Progress, shared: Shared | None = None
) -> dict[tuple[str, str], tuple]:  # type: ignore[type-arg]
    """Every weight of every graph -> what it may become; from the cache where that has it."""
    from runtimes.graphs import cache_dir

    opened = build.opened(replace(request, quantize=""), progress, shared)
    found: dict[tuple[str, str], tuple] = {}  # type: ignore[type-arg]
    for job in opened.jobs:
        drawn = calibration(request, job.source).model_dump()
        key = content_key(
            {"part": job.key(opened.files), "schemes": repr(SCHEMES), "calls": CALLS, "drawn": drawn}
        )
        file = cache_dir() / "sensitivity" / f"{key}.json"
        measured = load(file)
        if measured is None:
            measured = _measured(job, work, progress)
            save(measured, file)
        found |= {(measured.folder, name): options for name, options in measured.options.items()}
    return found


def _measured(job: GraphJob, work: Path, progress: Progress) -> Measured:
    needed, available = memory_needed(parameters(job.method, job.captured)), memory_available()
    if needed > available:
        raise LatentcError(
            f"measuring the sensitivities of '{job.method.folder}' takes {needed / 2**30:.1f} GiB of memory; "
            f"{available / 2**30:.1f} GiB are free.",
            "Name schemes instead, for instance: --quantize int4",
        )
    scratch = work / f"sensitivity-{job.method.folder}"
    scratch.mkdir()
    progress(Event(f"{job.method.folder}: exporting the graph", 0, None))
    model = job.exported()
    progress(Event(f"{job.method.folder}: exporting the graph", 1, 1))
    calls = job.lowering(scratch, Choice(None)).calls(model, CALLS)
    return measure(model, job.method.folder, calls, job.target.requirements.weight_schemes, progress)
