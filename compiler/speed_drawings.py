"""Draws what a search for speed asks for, beside the pictures of the artifact as it draws by default."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from artifacts.evidence_records import Forecast, ForecastRun
from artifacts.progress import Event, Progress, silent
from compiler.forecast_search import LEVELS, Drawn, Search
from compiler.speed_gate import Gate
from compiler.speed_search import Combination

if TYPE_CHECKING:
    from runtimes.pipeline import Pipeline

WARM_UP = 2
"""Steps of the picture that is drawn first and not counted: runtimes order their weights while they first run."""

SECONDS = 40.0
"""What the pictures of one trial may take as they are drawn by default, beyond one prompt: of more, fewer are drawn."""

Open = Callable[[Combination], AbstractContextManager["Pipeline"]]
"""Opens an artifact that draws as a combination says, forecast steps aside."""


class Drawings:
    """Pictures of combinations, one pipeline open at a time. Use it as a context manager.

    Attributes:
        shares: component -> its part of a picture's seconds as by default, once `draw_reference` was called.
        seconds: what the pictures of one trial took as by default, likewise.
        device: what pictures are drawn on, by the session's own name.
        forecast: the last tolerance that held, with what was measured of it on the prompts that are tuned on.
    """

    def __init__(
        self, open_pipeline: Open, gate: Gate, guidance: float | None, progress: Progress = silent
    ) -> None:
        self._open, self._gate, self._guidance, self._progress = open_pipeline, gate, guidance, progress
        self._stack = ExitStack()
        self._reference: Drawn | None = None
        self._drawn: tuple[Combination, Drawn] | None = None
        self._tuned: tuple[Combination, tuple[str, ...]] | None = None
        self.shares: dict[str, float] = {}
        self.seconds = 0.0
        self.device = ""
        self.forecast: Forecast | None = None

    def draw_reference(
        self, tuned_on: Sequence[str], verified_on: Sequence[str]
    ) -> tuple[Sequence[str], Sequence[str]]:
        """Draws prompts as by default, each list from the seed 0 on.

        Returns:
            The prompts that were drawn of each list: the first of them, where all would take longer than `SECONDS`.
        """
        with self._at(Combination()) as drawn:
            self._reference = drawn
            self.device = drawn.pipeline.device
            settings = self._gate.settings
            pictures = sum(drawn.all_made(tuned_on[0], 0, setting).seconds for setting in settings)
            count = max(1, int(SECONDS / max(pictures, 1e-9)))
            lists = tuned_on[:count], verified_on[:count]
            if len(lists[0]) < len(tuned_on):
                note = f"a prompt takes {pictures:.0f} s to draw: {count} of {len(tuned_on)} for each trial"
                self._progress(Event(note, 1, 1))
            total = sum(map(len, lists)) * len(settings)
            done = 0
            for texts in lists:
                for setting in settings:
                    for seed, prompt in enumerate(texts):
                        self._progress(Event("drawing as by default", done, total, "pictures"))
                        drawn.all_made(prompt, seed, setting)
                        done += 1
            self._progress(Event("drawing as by default", total, total, "pictures"))
        self.seconds = pictures * len(lists[0])
        whole = drawn.seconds.pop("", 0.0)
        self.shares = {name: seconds / max(whole, 1e-9) for name, seconds in drawn.seconds.items()}
        return lists

    def runs(
        self, combination: Combination, prompts: Sequence[str], progress: Progress
    ) -> tuple[ForecastRun, ...]:
        """See `compiler.speed_search.Drawer`; up to the first setting that does not hold the gate."""
        if self.forecast is not None and self._tuned == (combination, tuple(prompts)):
            return self.forecast.tuning
        runs: list[ForecastRun] = []
        task = f"drawing: {combination}"
        with self._at(combination) as drawn:
            for number, setting in enumerate(self._gate.settings):
                progress(Event(task, number, len(self._gate.settings)))
                runs.append(drawn.run(prompts, setting, combination.tolerance))
                if not self._gate.admits(runs[-1:]):
                    break
        progress(Event(task, len(self._gate.settings), len(self._gate.settings)))
        return tuple(runs)

    def tolerance(self, combination: Combination, prompts: Sequence[str]) -> float:
        """See `compiler.speed_search.Drawer`."""
        with self._at(combination) as drawn:
            search = Search(drawn, self._gate, prompts, self._progress)
            tolerance = search.tuned()
        self.forecast = search.best
        self._tuned = replace(combination, tolerance=tolerance), tuple(prompts)
        return tolerance

    def lower(self, tolerance: float) -> float:
        """See `compiler.speed_search.Drawer`."""
        return max((level for level in LEVELS if level < tolerance * 0.99), default=0.0)

    @contextmanager
    def _at(self, combination: Combination) -> Iterator[Drawn]:
        """What draws so, opened unless it is open; forecast steps need nothing else to be open."""
        wanted = replace(combination, tolerance=0.0)
        if self._drawn is None or self._drawn[0] != wanted:
            self._drawn = None
            self._stack.close()
            pipeline = self._stack.enter_context(self._open(wanted))
            pipeline.generate("", seed=0, steps=WARM_UP, guidance=self._guidance, accelerate="off")
            self._drawn = wanted, Drawn(pipeline, self._guidance, self._reference)
        yield self._drawn[1]

    def __enter__(self) -> Drawings:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()
