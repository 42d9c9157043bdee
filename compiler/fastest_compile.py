"""`compile --fastest`: what makes a model draw faster is tried, alone and together, and held to a gate on pictures.

Beside what `compiler.speed_tuning` chooses of an artifact that is there, weights and activations in 8 bits, component
by component, and approximations of the graphs, which need other graphs. Trials are compiled without a check; what is
chosen is compiled once more with the checks that were asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from artifacts.copying import copy_artifact
from artifacts.disk import existing_folder
from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import Manifest
from artifacts.progress import Event, Progress, silent
from artifacts.publish import require_out
from artifacts.temporary import private_folder
from artifacts.verification import Artifact, open_artifact
from compiler import build
from compiler.compile_request import CompileRequest
from compiler.evaluation import TASK, evaluation
from compiler.forecast_search import LEVELS
from compiler.lowering.compile_cache import CompileCache
from compiler.passes.approximations import APPROXIMATIONS
from compiler.plan import Plan
from compiler.quantize import calibrate
from compiler.quantize.accept import accepted
from compiler.source import local_folder
from compiler.speed_drawings import Drawings
from compiler.speed_search import COSTLY, FORECAST, Combination, NothingFaster, Unchanged, Way
from compiler.speed_tuning import MIN_PSNR, Choice, TuneRequest, check, faster_types, keep, other_threads
from runtimes.byte_products import multiplies_bytes
from runtimes.compute import device_of
from runtimes.devices import components_of
from runtimes.sessions import session_table as sessions
from runtimes.sessions.common import preferred_threads
from targets import target_table as targets
from targets.target_contract import Target

if TYPE_CHECKING:
    from runtimes.pipeline import Pipeline

SHARE = 0.1
"""A component that takes less of a picture's time is not quantized for speed."""


def compile(
    request: CompileRequest,
    min_psnr: float = MIN_PSNR,
    progress: Progress = silent,
    on_plan: Callable[[Plan], None] | None = None,
    prompts: Sequence[str] = (),
    steps: Sequence[int] = (20,),
) -> Artifact:
    """Finds the fastest way and compiles it to `request.out`.

    Stopped by Ctrl-C, it publishes the best so far, not verified, if anything has held.

    Args:
        min_psnr: dB to the pictures of the same model compiled and drawn by default; the worst may be 6 dB below.
        prompts: every second is chosen by, the others are verified on; empty for the model's own.
        steps: numbers of them; all hold it.

    Raises:
        UsageError: the request chooses already what is to be chosen, or is wrong in itself, or OUT may not be written.
        LatentcError: the model cannot be compiled or drawn, or nothing that is faster holds; the message says how near
            the nearest came.
    """
    if request.quantize or request.approximate:
        raise UsageError(
            "--fastest chooses what is quantized and approximated by itself.",
            "Leave --quantize and --approximate out.",
        )
    wanted = TuneRequest(request.out, min_psnr, tuple(prompts), tuple(steps))
    check(wanted)
    if device_of(sessions.get(request.target), "auto") is None:
        raise LatentcError(
            f"artifacts of target '{request.target}' cannot be drawn with here, and pictures are what is chosen by.",
            "Compile on the machine that it is for, or without --fastest.",
        )
    compile_cache = CompileCache()
    require_out(request.out, request.force)
    beside = existing_folder(request.out.parent)  # Trials want the disk that OUT will be on.
    with private_folder(beside) as folder:
        trials = Trials(request, folder, compile_cache, progress)
        begun = perf_counter()
        plain = trials.manifest(Combination())
        compiling = perf_counter() - begun
        if TASK not in plain.pipelines:
            raise LatentcError(
                f"pictures of prompts are what it is chosen by, and the model does not do {TASK} (it does: "
                f"{', '.join(plain.pipelines)}).",
                "Compile it without --fastest.",
            )
        stated = evaluation(local_folder(plain.source.id))
        texts = wanted.prompts or stated.prompts
        choice = Choice(wanted, texts[::2], texts[1::2])
        guidance = None if wanted.prompts else stated.guidance
        with Drawings(trials.opened, wanted.gate, guidance, progress) as drawings:

            def ways() -> tuple[Way, ...]:
                candidates = _ways(targets.get(request.target), plain, drawings.shares)
                minutes = _seconds(candidates, compiling, drawings.seconds) / 60
                progress(Event(f"{len(candidates)} ways to be faster, about {minutes:.0f} min in all", 1, 1))
                return candidates

            try:
                combination, runs = choice.searched(drawings, ways, progress)
            except KeyboardInterrupt:
                best = None if choice.search is None else choice.search.best
                if best is not None:
                    artifact = trials.published(best)
                    keep(artifact.root, artifact.manifest, choice.record(best, ()))
                raise
            except NothingFaster as error:
                error.hint = "Compile it without --fastest."
                raise
        # A check would be of the same files.
        artifact = (
            trials.published(combination)
            if request.check == "none"
            else build.compile(trials.request(combination), progress, on_plan, compile_cache)
        )
        return keep(artifact.root, artifact.manifest, choice.record(combination, runs))


def _seconds(ways: Sequence[Way], compiling: float, drawing: float) -> float:
    """About what a search takes at most, where one compile and the pictures of one trial take so long."""
    changed = [way.add(Combination()) for way in ways if way.add is not None]
    compiled = [combination for combination in changed if combination.recipe or combination.approximations]
    measured = 3 * calibrate.SECONDS * sum(1 for combination in compiled if combination.recipe)
    per_way = compiling * len(compiled) + drawing * len(ways)
    # Beside those, the levels of a tolerance, and the verification.
    return per_way * (2 if drawing < COSTLY else 1) + measured + drawing * (math.log2(len(LEVELS)) + 1)


class Trials:
    """Artifacts of combinations, compiled when first drawn with."""

    def __init__(
        self, request: CompileRequest, folder: Path, compile_cache: CompileCache, progress: Progress
    ) -> None:
        self._request, self._folder, self._compile_cache, self._progress = (
            request,
            folder,
            compile_cache,
            progress,
        )
        self._roots: dict[tuple[object, ...], Path] = {}

    def request(self, combination: Combination) -> CompileRequest:
        """What the combination is compiled with."""
        return replace(
            self._request,
            quantize=",".join(f"{component}={scheme}" for component, scheme in combination.recipe),
            approximate=",".join(combination.approximations),
        )

    def root(self, combination: Combination) -> Path:
        """The artifact's folder.

        Raises:
            Unchanged: something in the combination changes no graph.
            LatentcError: it cannot be compiled.
        """
        key = (combination.recipe, combination.approximations)
        if key not in self._roots:
            number = len(self._roots)
            name = str(replace(combination, tolerance=0.0, threads=None))
            self._progress(Event(f"trial {number}: {name}", 0, None))
            out = self._folder / f"trial-{number}"
            trial = replace(self.request(combination), out=out, force=False, check="none", pictures=0)
            build.compile(trial, self._progress, compile_cache=self._compile_cache)
            self._progress(Event(f"trial {number}: {name}", 1, 1))
            self._roots[key] = out
        self._require_changed(combination, self._roots[key])
        return self._roots[key]

    def published(self, combination: Combination) -> Artifact:
        """A copy of the artifact at the request's place."""
        request = self._request
        root = copy_artifact(
            open_artifact(self.root(combination)), request.out, request.force, self._progress
        )
        return open_artifact(root, hashes=False)

    def manifest(self, combination: Combination) -> Manifest:
        """What the artifact says of itself."""
        return open_artifact(self.root(combination), hashes=False).manifest

    def _require_changed(self, combination: Combination, root: Path) -> None:
        manifest = open_artifact(root, hashes=False).manifest
        components = components_of(manifest)
        done = {components[graph.folder] for graph in manifest.graphs if graph.weights}
        done |= {name for graph in manifest.graphs for name in graph.approximations}
        requested = (*(component for component, _ in combination.recipe), *combination.approximations)
        if unchanged := [name for name in requested if name not in done]:
            raise Unchanged(f"it changes nothing ({', '.join(unchanged)})")

    @contextmanager
    def opened(self, combination: Combination) -> Iterator[Pipeline]:
        """See `compiler.speed_drawings.Open`."""
        from runtimes.pipeline import load

        root = self.root(combination)
        with (
            preferred_threads(combination.threads),
            load(root, task=TASK, progress=self._progress, compute=combination.compute) as pipeline,
        ):
            pipeline.open()
            yield pipeline


def _ways(target: Target, plain: Manifest, shares: dict[str, float]) -> tuple[Way, ...]:
    """All that may make a model faster on a target, what takes the longest to try last, but for forecasts.

    Args:
        shares: of a picture's time, by component.
    """
    ways = [Way.compute(kind) for kind in faster_types(plain, "auto")]
    ways += map(Way.threads, other_threads())
    ways += [Way.approximated(name) for name in APPROXIMATIONS if name in target.requirements.approximations]
    wide = multiplies_bytes()
    schemes = [
        scheme.label(options)
        for scheme in accepted(target.requirements)
        if (options := scheme.for_speed(wide)) is not None
    ]
    ways += [
        Way.quantized(component, scheme)
        for component, share in sorted(shares.items(), key=lambda item: -item[1])
        if share >= SHARE
        for scheme in schemes
    ]
    return (*ways, FORECAST)
