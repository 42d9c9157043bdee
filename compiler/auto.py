"""`--quantize auto`: a budget in, the mix of schemes out.

Every weight's sensitivity is measured once (and kept for later runs), what each graph's error does to the picture is
drawn, bits are allotted by what they buy, and the whole artifact is then compiled and its pictures compared with
PyTorch's, again and again, until the budget holds with little to spare or is shown to be out of reach.
"""

from __future__ import annotations

import glob
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from artifacts import memory
from artifacts.cache import cache_dir
from artifacts.disk import existing_folder
from artifacts.errors import LatentcError, UsageError
from artifacts.evidence_records import PictureEvidence
from artifacts.hashing import content_key
from artifacts.manifest import Recipe, RecipeComponent, RecipeRule
from artifacts.progress import Event, Progress, silent
from artifacts.publish import require_out
from artifacts.temporary import private_folder
from artifacts.verification import Artifact
from compiler import build
from compiler.compile_request import CompileRequest
from compiler.evidence.graph_evidence import memory_needed
from compiler.evidence.quantized_pictures import EQUAL
from compiler.lowering.compile_cache import CompileCache
from compiler.lowering.graph_job import GraphJob, calibration
from compiler.plan import Plan, parameters
from compiler.quantize.accept import candidates
from compiler.quantize.allot import Allotment, Ladder
from compiler.quantize.recipe import Choice, read
from compiler.quantize.sensitivity import Candidates, Measured, load, measure, save

CALLS = 4
"""Calls of each component that sensitivities are measured on."""

TRIALS = 7
"""Compiles that a search may take, beside the one of each graph that `rates` draws."""

PICTURES = 4
"""Prompts that a graph's part in the picture is measured on."""

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
    """An allotment that was compiled: bytes of the artifact, and its pictures where they were drawn."""

    allotment: Allotment
    bytes: int
    pictures: PictureEvidence

    @property
    def psnr(self) -> float:
        """dB, mean."""
        assert self.pictures.psnr is not None
        return self.pictures.psnr


Attempt = Callable[[Allotment, int], Trial]
"""Compiles an allotment and draws that many prompts."""


def compile(
    request: CompileRequest,
    budget: Budget,
    progress: Progress = silent,
    on_plan: Callable[[Plan], None] | None = None,
    compile_cache: CompileCache | None = None,
) -> Artifact:
    """Finds the mix and compiles it to `request.out`.

    Raises:
        UsageError: not exactly one budget, a request that cannot be measured, or an OUT that may not be written.
        LatentcError: the budget cannot be met; the message says how near it came.
    """
    if (budget.min_psnr is None) == (budget.max_bytes is None):
        raise UsageError("--quantize auto needs one budget: --min-psnr or --max-bytes.")
    if request.check == "none" or not request.pictures:
        raise UsageError("--quantize auto judges by pictures: leave --check none and --pictures 0 out.")
    compile_cache = compile_cache or CompileCache()
    require_out(request.out, request.force)
    beside = existing_folder(request.out.parent)  # Trials want the disk that OUT will be on.
    with private_folder(beside) as folder:
        search_request = replace(request, patience=max(request.patience, PATIENCE), references=folder)
        numbers = count(1)

        def attempt(allotment: Allotment, prompts: int) -> Trial:
            number = next(numbers)
            progress(Event(f"trial {number}", 0, None))
            trial = replace(
                search_request, out=folder / f"trial-{number}", quantize=as_recipe(allotment), force=False
            )
            trial = replace(trial, pictures=prompts, check=search_request.check if prompts else "none")
            manifest = build.compile(trial, progress, compile_cache=compile_cache).manifest
            shutil.rmtree(trial.out)
            progress(Event(f"trial {number}", 1, 1))
            size = sum(file.size for file in manifest.files)
            return Trial(allotment, size, _drawn(manifest.pictures) if prompts else PictureEvidence())

        options = sensitivities(search_request, folder, progress, compile_cache)
        ladder = Ladder(options)
        if budget.max_bytes is not None and ladder.fill(budget.max_bytes) is None:
            raise _too_small(budget.max_bytes, attempt(ladder.at(0), request.pictures))
        ladder = Ladder(options, rates(ladder, min(request.pictures, PICTURES), attempt))
        if budget.min_psnr is not None:
            best = smallest(ladder, budget.min_psnr, lambda mix: attempt(mix, request.pictures))
        else:
            assert budget.max_bytes is not None
            best = largest(ladder, budget.max_bytes, request.pictures, attempt)
        wanted = replace(search_request, quantize=as_recipe(best.allotment))
        return build.compile(wanted, progress, on_plan, compile_cache)


def _drawn(pictures: tuple[PictureEvidence, ...]) -> PictureEvidence:
    """A trial's pictures: those in fp32 where they were drawn in more types, as it is weights that are chosen.

    Raises:
        LatentcError: they are not measured, or there are no weights to quantize.
    """
    first = next(iter(pictures), None)
    if first is not None and first.psnr is not None:
        return first
    if first is not None and first.reason:
        raise LatentcError(f"--quantize auto needs pictures, and they are not measured: {first.reason}.")
    raise LatentcError(
        "--quantize auto has nothing to choose: the model has no weight that a scheme is for.",
        "Compile it without --quantize.",
    )


def rates(ladder: Ladder, prompts: int, attempt: Attempt) -> dict[str, float]:
    """What a graph's squared error becomes in the picture: squared error there for each that is predicted.

    Sensitivities end at a graph's own output, and one graph's output is not another's: what a text encoder gets wrong
    moves the whole picture, what a decoder gets wrong stays where it is. Each graph is drawn once at its smallest, the
    others at their best.
    """
    by_folder: dict[str, float] = {}
    for folder in ladder.folders:
        allotment = ladder.only(folder)
        trial = attempt(allotment, prompts)
        if trial.psnr < EQUAL and allotment.error:
            by_folder[folder] = 10 ** (-trial.psnr / 10) / allotment.error
    # Graphs that the pictures do not need (another task's) are treated as the most sensitive that they do.
    most = max(by_folder.values(), default=1.0)
    return {folder: by_folder.get(folder, most) for folder in ladder.folders}


def smallest(ladder: Ladder, wanted: float, attempt: Callable[[Allotment], Trial]) -> Trial:
    """The smallest artifact whose PSNR is at least `wanted`.

    PSNR falls by 10 dB for each tenfold of the squared error: one trial says where the next should be, and what was
    tried bounds where it can be.

    Args:
        ladder: its errors are squared errors of the picture.

    Raises:
        LatentcError: not even the best of all is that good.
    """
    good: tuple[int, Trial] | None = None
    bad: tuple[int, Trial] | None = None
    # Aimed at the middle of what is close enough.
    steps = ladder.down_to(10 ** (-(wanted + CLOSE / 2) / 10))
    for _ in range(TRIALS):
        trial = attempt(ladder.at(steps))
        if trial.psnr >= wanted:
            good = steps, trial
            if trial.psnr <= wanted + CLOSE or steps == 0:
                break
        else:
            bad = steps, trial
        low, high = 0 if bad is None else bad[0] + 1, len(ladder) if good is None else good[0]
        if low > len(ladder) or (good is not None and low >= high):
            break
        error = trial.allotment.error * 10 ** ((trial.psnr - wanted - CLOSE / 2) / 10)
        steps = min(max(ladder.down_to(error), low), high - 1 if good is not None else high)
    if good is not None:
        return good[1]
    assert bad is not None
    last = bad[1] if bad[0] == len(ladder) else attempt(ladder.at(len(ladder)))
    if last.psnr >= wanted:
        return last
    raise LatentcError(
        f"a PSNR of {wanted:g} dB cannot be reached: with no weight in fewer bits it is {last.psnr:.1f} dB "
        f"({last.bytes:,} bytes).",
        "Ask for less, or for more precision: --precision fp32",
    )


def largest(ladder: Ladder, limit: int, prompts: int, attempt: Attempt) -> Trial:
    """The best artifact of at most `limit` bytes.

    What an artifact holds beside its weights is known from a trial, and is a little different in the next: schemes
    need nodes, too. No pictures are drawn for that.

    Raises:
        LatentcError: not even the smallest fits.
    """
    best: Trial | None = None
    tried: list[Allotment] = []
    beside = 0
    for _ in range(TRIALS):
        allotment = ladder.fill(limit - beside)
        if allotment is None or allotment in tried:
            break
        trial = attempt(allotment, 0)
        tried.append(allotment)
        if trial.bytes <= limit and (best is None or allotment.error < best.allotment.error):
            best = trial
        beside = trial.bytes - allotment.bytes
    if best is not None:
        return best
    least = attempt(ladder.at(0), prompts)
    if least.bytes <= limit:
        return least
    raise _too_small(limit, least)


def _too_small(limit: int, least: Trial) -> LatentcError:
    return LatentcError(
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
    return Recipe(
        components={f: RecipeComponent(weights=tuple(folder_rules)) for f, folder_rules in rules.items()}
    )


def sensitivities(
    request: CompileRequest, work: Path, progress: Progress, compile_cache: CompileCache | None = None
) -> dict[tuple[str, str], tuple]:  # type: ignore[type-arg]
    """Every weight of every graph -> what it may become; from the cache where that has it."""
    opened = build.opened(replace(request, quantize=""), progress, compile_cache)
    by_weight: dict[tuple[str, str], tuple] = {}  # type: ignore[type-arg]
    for job in opened.jobs:
        choices = candidates(job.target.requirements)
        drawn = calibration(request, job.source).model_dump()
        key = content_key(
            {"part": job.key(opened.files), "schemes": repr(choices), "calls": CALLS, "drawn": drawn}
        )
        file = cache_dir() / "sensitivity" / f"{key}.json"
        measured = load(file)
        if measured is None:
            measured = _measured(job, choices, work, progress)
            save(measured, file)
        by_weight |= {(measured.folder, name): options for name, options in measured.options.items()}
    return by_weight


def _measured(job: GraphJob, choices: Candidates, work: Path, progress: Progress) -> Measured:
    if short := memory.shortage(memory_needed(parameters(job.method, job.captured))):
        raise LatentcError(
            f"measuring the sensitivities of '{job.method.folder}' takes {short}.",
            "Name schemes instead, for instance: --quantize int4",
        )
    scratch = work / f"sensitivity-{job.method.folder}"
    scratch.mkdir()
    progress(Event(f"{job.method.folder}: exporting the graph", 0, None))
    model = job.exported()
    progress(Event(f"{job.method.folder}: exporting the graph", 1, 1))
    calls = job.lowering(scratch, Choice(None)).calls(model, CALLS)
    return measure(model, job.method.folder, calls, choices, progress)
