"""The search for a tolerance, on pictures that are made up, and what an artifact keeps of it."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from artifacts.errors import LatentcError, UsageError
from artifacts.evidence_records import Forecast, ForecastRun, SpeedTrial
from artifacts.manifest_reading import read_manifest
from artifacts.progress import silent
from artifacts.publish import replace_manifest
from artifacts.verification import verify
from compiler import speed_tuning
from compiler.forecast_search import LEVELS, Drawn, Search
from compiler.speed_drawings import Drawings
from compiler.speed_gate import WORST_BELOW, Gate, Setting
from compiler.speed_search import FORECAST, Combination, NothingFaster
from compiler.speed_tuning import Choice, TuneRequest, faster_types, tune
from runtimes.forecaster import Count
from runtimes.meter import MethodTime
from runtimes.sessions.session_contract import Device
from tests.latentc.artifacts_made import made

Ratio = Callable[[float, str], float]


class FakeDrawn:
    """PSNR of a tolerance and a prompt, as `ratio` says; the worst is 3 dB below the mean."""

    def __init__(self, ratio: Ratio, stop_after: int = 1000) -> None:
        self.ratio = ratio
        self.asked: list[tuple[float, str, int]] = []
        self.stop_after = stop_after

    def run(self, prompts: Sequence[str], setting: Setting, tolerance: float) -> ForecastRun:
        if len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        self.asked.append((tolerance, prompts[0], setting.steps))
        psnr = self.ratio(tolerance, prompts[0])
        return ForecastRun(
            scheduler=setting.scheduler,
            prompts=len(prompts),
            steps=setting.steps,
            width=8,
            height=8,
            compute="fp32",
            device="cpu",
            calls=20,
            calls_made=12,
            psnr=psnr,
            worst_psnr=psnr - 3,
            ssim=0.99,
            worst_ssim=0.98,
            seconds=1.0,
            seconds_unaccelerated=1.5,
        )


class FakeDrawings(Drawings):
    """Every combination draws as one `FakeDrawn`."""

    def __init__(self, drawn: FakeDrawn, gate: Gate) -> None:
        super().__init__(lambda combination: pytest.fail("nothing is opened"), gate, None)
        self._fake: Any = drawn

    def draw_reference(self, *lists: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
        tuned_on, verified_on = lists
        return tuned_on, verified_on

    @contextmanager
    def _at(self, combination: Combination) -> Iterator[Drawn]:
        yield self._fake


def choice_of(drawn: FakeDrawn) -> tuple[Choice, Callable[[], Any]]:
    """A choice of forecast steps alone, and what searches for it."""
    request = TuneRequest(Path("out"), 45.0, ("a", "b"), (20, 50))
    choice = Choice(request, ["tuned"], ["verified"])
    return choice, lambda: choice.searched(FakeDrawings(drawn, request.gate), lambda: [FORECAST], silent)


def tuned_forecast(drawn: FakeDrawn) -> Forecast:
    """What an artifact keeps of forecast steps that are tuned and verified."""
    choice, searched = choice_of(drawn)
    forecast = choice.record(*searched())["forecast"]
    assert isinstance(forecast, Forecast)
    return forecast


def search(drawn: Any, min_psnr: float = 45.0) -> Search:
    request = TuneRequest(Path("out"), min_psnr, ("a", "b"), (20, 50))
    return Search(drawn, request.gate, ["tuned"])


def falling(tolerance: float, prompt: str = "") -> float:
    """20 dB for each tenfold of the tolerance: 60 at the smallest level, 40 at the largest."""
    return float(20 - 20 * np.log10(tolerance))


def test_the_largest_level_that_holds_is_tuned_to() -> None:
    drawn = FakeDrawn(falling)
    tuning = search(drawn)
    largest = max(level for level in LEVELS if falling(level) >= 45)
    assert tuning.tuned() == largest < LEVELS[-1]
    best = tuning.best
    assert best is not None and best.tolerance == largest
    assert [run.steps for run in best.tuning] == [20, 50]
    assert len(best.tuned_on) == 64 and best.verified_on == "" and best.verification == ()
    assert len({level for level, _, _ in drawn.asked}) <= 3


def test_a_level_is_verified_on_prompts_that_it_was_not_tuned_on() -> None:
    forecast = tuned_forecast(FakeDrawn(falling))
    assert forecast.tolerance == max(level for level in LEVELS if falling(level) >= 45)
    assert {run.steps for run in forecast.verification} == {20, 50} and len(forecast.tuning) == 2
    assert forecast.tuned_on != forecast.verified_on and len(forecast.verified_on) == 64


def test_prompts_that_it_was_not_tuned_on_have_the_last_word() -> None:
    forecast = tuned_forecast(FakeDrawn(lambda level, prompt: falling(level) - 6 * (prompt == "verified")))
    assert forecast.tolerance == max(level for level in LEVELS if falling(level) >= 51)
    assert min(run.psnr for run in forecast.verification) >= 45


def test_the_worst_picture_counts_too() -> None:
    class Spread(FakeDrawn):
        def run(self, *given: Any) -> ForecastRun:
            run = super().run(*given)
            return run.model_copy(update={"worst_psnr": run.psnr - WORST_BELOW - 2})

    largest = max(level for level in LEVELS if falling(level) >= 47)
    assert largest < max(level for level in LEVELS if falling(level) >= 45)
    assert search(Spread(falling)).tuned() == largest


def test_a_gate_that_nothing_holds_has_no_tolerance() -> None:
    tuning = search(FakeDrawn(falling), 99.0)
    assert tuning.tuned() == 0 and tuning.best is None


def test_what_was_best_when_it_was_stopped() -> None:
    # It is tuned by five, and stopped at the first that it is verified by.
    choice, searched = choice_of(FakeDrawn(falling, stop_after=5))
    with pytest.raises(KeyboardInterrupt):
        searched()
    assert choice.search is not None and choice.search.best is not None
    forecast = choice.record(choice.search.best, ())["forecast"]
    assert isinstance(forecast, Forecast) and falling(forecast.tolerance) >= 45
    assert forecast.verification == () and forecast.verified_on == ""
    choice, searched = choice_of(FakeDrawn(falling, stop_after=4))
    with pytest.raises(KeyboardInterrupt):
        searched()
    assert choice.search is not None and choice.search.best is None


class FakePipeline:
    """Draws gray pictures, a little darker with a tolerance."""

    computes = {"unet": "fp32"}  # noqa: RUF012
    device = "cpu"
    on_host = True

    def __init__(self, flaws: tuple[Any, ...] = ()) -> None:
        self.drawn: list[float] = []
        self.flaws = flaws

    def generate(self, prompt: str, accelerate: float, steps: int, **given: Any) -> Any:
        self.drawn.append(accelerate)
        picture = Image.new("RGB", (16, 16), (100, 150, int(200 - 10 * accelerate)))
        return SimpleNamespace(
            images=[picture],
            flaws=self.flaws,
            timings=SimpleNamespace(total=2.0 - accelerate, components={"unet.forward": MethodTime(1, 1.5)}),
            calls=Count(steps // 2, steps) if accelerate else None,
        )


def test_pictures_are_held_to_those_of_all_calls_which_are_drawn_once() -> None:
    pipeline: Any = FakePipeline()
    drawn = Drawn(pipeline, 3.0)
    run = drawn.run(["a", "b"], Setting("", 20), 1.0)
    assert (run.calls_made, run.calls, run.prompts, run.width) == (20, 40, 2, 16)
    assert run.psnr == pytest.approx(-10 * np.log10((10 / 255) ** 2 / 3), abs=0.01) and run.ssim < 1
    assert (run.seconds, run.seconds_unaccelerated) == (1.0, 2.0)
    drawn.run(["a", "b"], Setting("", 20), 0.5)
    assert pipeline.drawn.count(0.0) == 2
    assert drawn.seconds == {"": 2 * 2.0 + 2 * 1.0 + 2 * 1.5, "unet": 6 * 1.5}
    flaw = SimpleNamespace(message="it is black.", hint="")
    with pytest.raises(LatentcError, match="'a' cannot be judged: it is black"):
        Drawn(FakePipeline((flaw,)), None).run(["a"], Setting("", 20), 0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(("on_host", "seconds"), [(True, 0.25), (False, 0.0)])
def test_processors_count_where_they_compute_whatever_the_device_is_called(
    on_host: bool, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compiler.forecast_search.process_time", itertools.count(0, 0.25).__next__)
    pipeline: Any = FakePipeline()
    pipeline.device, pipeline.on_host = "abacus", on_host
    run = Drawn(pipeline, 3.0).run(["a"], Setting("", 20), 1.0)
    assert run.processor_seconds == run.processor_seconds_unaccelerated == seconds


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_psnr": 0.0}, "more than 0 and less than 100 dB; found 0"),
        ({"min_psnr": 100.0}, "less than 100 dB"),
        ({"prompts": ("a",)}, "tuned on some prompts and verified on others; found one"),
        ({"steps": (4, 8)}, "no step is forecast of fewer than 10; found steps 4, 8"),
        ({"ways": ("compute", "luck")}, "no way 'luck' to be faster .there are: compute, threads, forecast"),
    ],
)
def test_requests_that_nothing_can_be_tuned_to(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tune(TuneRequest(Path("nowhere"), **changes))


def test_an_artifact_keeps_what_it_is_tuned_to(tmp_path: Path) -> None:
    root = tmp_path / "out"
    old = made(root)
    forecast = tuned_forecast(FakeDrawn(falling))
    new = old.model_copy(update={"forecast": forecast})
    replace_manifest(root, old, new)
    assert read_manifest(root).forecast == forecast and not verify(root)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    # It is of another artifact by now.
    with pytest.raises(LatentcError, match="compiled anew meanwhile"):
        replace_manifest(root, old, new)
    with pytest.raises(ValueError, match="the same files"):
        replace_manifest(root, new, new.model_copy(update={"files": ()}))
    assert read_manifest(root).forecast == forecast
    shutil.rmtree(root)


def test_an_artifact_without_prompts_is_not_tuned(tmp_path: Path) -> None:
    root = tmp_path / "out"
    old = made(root)
    other = old.model_copy(update={"pipelines": {"image-to-image": next(iter(old.pipelines.values()))}})
    replace_manifest(root, old, other)
    with pytest.raises(LatentcError, match="does not do text-to-image"):
        tune(TuneRequest(root))


def test_types_are_tried_that_a_device_is_better_at_than_at_its_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device("cpu", "a CPU", computes=("bf16", "fp32", "fp16"))
    factory = SimpleNamespace(devices=lambda: (device,))
    monkeypatch.setattr("runtimes.sessions.session_table.get", lambda target: factory)
    manifest = made(tmp_path / "out")
    assert faster_types(manifest.model_copy(update={"precision": "fp32"}), "auto") == ("bf16",)
    assert faster_types(manifest, "auto") == () == faster_types(manifest, "gpu")


@pytest.mark.parametrize("stopped", [False, True])
def test_an_artifact_is_as_it_was_where_nothing_holds_and_keeps_what_held_where_it_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    root = tmp_path / "out"
    forecast = tuned_forecast(FakeDrawn(falling))
    before = made(root).model_copy(update={"forecast": forecast})
    replace_manifest(root, read_manifest(root), before)
    before = read_manifest(root)

    class Searched:
        def __init__(self, drawings: Any, ways: Any, *rest: Any, alone: bool) -> None:
            assert alone and rest[1:3] == (prompts[0][:1], prompts[1][:1])
            assert read_manifest(root).forecast is None  # which would be drawn with, as by default
            assert [way.name for way in ways] == ["forecast steps"]
            self.best = Combination(threads=3) if stopped else None
            self.trials = [SpeedTrial(way="3 threads", combination="3 threads", speed_up=1.5, kept=True)]

        def fastest(self) -> Any:
            raise KeyboardInterrupt if stopped else LatentcError("45 dB cannot be held.")

    prompts: list[Sequence[str]] = []

    def draw_reference(*lists: Sequence[str]) -> list[Sequence[str]]:
        prompts.extend(lists)
        return [texts[:1] for texts in lists]

    drawings = SimpleNamespace(draw_reference=draw_reference, device="cpu", forecast=None, seconds=1.0)
    guidances: list[float | None] = []

    def opened(opening: Any, gate: Any, guidance: float | None, progress: Any) -> Any:
        guidances.append(guidance)
        return nullcontext(drawings)

    monkeypatch.setattr("compiler.speed_tuning.Drawings", opened)
    monkeypatch.setattr("compiler.speed_tuning.SpeedSearch", Searched)
    with pytest.raises(KeyboardInterrupt if stopped else LatentcError):
        tune(TuneRequest(root, ways=("forecast",), guidance=5.0))
    assert guidances == [5.0]
    after = read_manifest(root)
    assert not verify(root)
    if stopped:
        assert after.forecast is None and after.speed is not None
        assert (after.speed.threads, after.speed.verified) == (3, False) and len(after.speed.trials) == 1
    else:
        assert after == before


@pytest.mark.parametrize(("processors", "asked", "tried"), [(8, None, (8,)), (8, 4, ()), (1, None, ())])
def test_threads_are_tried_where_a_vendor_chooses_them(
    processors: int, asked: int | None, tried: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed_tuning, "processors", lambda: processors)
    monkeypatch.setattr(speed_tuning, "threads", lambda: asked)
    assert speed_tuning.other_threads() == tried


@pytest.mark.parametrize(("seconds", "count"), [(1.0, 4), (18.0, 2), (90.0, 1)])
def test_fewer_prompts_are_drawn_where_a_picture_takes_long(seconds: float, count: int) -> None:
    class Slow(FakePipeline):
        def generate(self, prompt: str, accelerate: Any, steps: int, **options: Any) -> Any:
            result = super().generate(prompt, 0.0 if accelerate == "off" else accelerate, steps)
            result.timings.total = seconds
            return result

    pipeline, notes = Slow(), []
    gate = TuneRequest(Path("out"), steps=(20,)).gate
    drawings = Drawings(lambda combination: nullcontext(pipeline), gate, None, notes.append)  # type: ignore[arg-type, return-value]
    tuned_on, verified_on = drawings.draw_reference(["a", "b", "c", "d"], ["e", "f", "g", "h"])
    assert (tuned_on, verified_on) == (["a", "b", "c", "d"][:count], ["e", "f", "g", "h"][:count])
    assert len(pipeline.drawn) == 1 + 2 * count and drawings.seconds == count * seconds
    told = [note.task for note in notes if "for each trial" in note.task]
    assert told == (
        [] if count == 4 else [f"a prompt takes {seconds:.0f} s to draw: {count} of 4 for each trial"]
    )


@pytest.mark.parametrize(
    ("ways", "hint"),
    [
        (
            speed_tuning.WAYS,
            "Use it as it is, or try what takes other graphs: latentc compile MODEL OUT --fastest",
        ),
        (("threads",), "Try the other ways, too: latentc tune ARTIFACT, without --only"),
    ],
)
def test_where_nothing_is_faster_the_next_step_is_one_of_this_command(
    ways: tuple[str, ...], hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "out"
    made(root)

    def searched(*args: Any) -> Any:
        raise NothingFaster("nothing that was tried draws faster.")

    monkeypatch.setattr(Choice, "searched", searched)
    monkeypatch.setattr(speed_tuning, "Drawings", lambda *args: nullcontext())
    with pytest.raises(LatentcError, match="nothing that was tried") as caught:
        tune(TuneRequest(root, ways=ways))
    assert caught.value.hint == hint
