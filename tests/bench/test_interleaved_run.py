"""A whole bench in this process: its order, its figures, and faults planted in the built-in model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest

from bench import drawing_engines, gates
from bench.interleaved_run import run
from bench.record import Bench
from bench.reference import SHAPES_DIR
from bench.reference.shape_scenes import split
from tests.bench.benches import Scripted, settings, starter, subject


def fallen(bench: Bench, *texts: str) -> set[tuple[str, str]]:
    return {(f.variant, f.gate.text) for f in gates.check(bench, [gates.parse(text) for text in texts])}


def scripted(**made: Any) -> Bench:
    """A bench of `made` beside a reference "ref"."""
    all_of_them = {"ref": Scripted(), **made}
    kinds = {name: "peer" if name.startswith("peer") else "artifact" for name in all_of_them}
    subjects = [subject(name, kinds[name]) for name in all_of_them]
    return run(subjects, "ref", settings(), ["latentc"], start=starter(all_of_them)).bench


def test_all_start_cold_then_warm_with_the_same_cache_and_then_take_turns() -> None:
    order: list[str] = []
    log: list[tuple[str, str]] = []

    class Noted(Scripted):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def draw(self, request: Any) -> Any:
            order.append(f"{self.name}{request.prompt}{request.seed}")
            return super().draw(request)

    subjects = [subject("R"), subject("S")]
    outcome = run(subjects, "R", settings(), [], start=starter({"R": Noted("R"), "S": Noted("S")}, log))
    # Cold and warm: the artifact before the reference. To stay: as they were named. Then in turn, A B B A.
    assert [name for name, _ in log] == ["S", "S", "R", "R", "R", "S"]
    caches = {name: {cache for n, cache in log if n == name} for name in "RS"}
    assert len(caches["R"]) == len(caches["S"]) == 1 and caches["R"] != caches["S"]
    assert order[:6] == ["Sa0", "Sa0", "Ra0", "Ra0", "Ra0", "Sa0"]
    assert order[6:] == ["Ra0", "Sa0", "Sb0", "Rb0", "Ra1", "Sa1", "Sb1", "Rb1"]
    assert [len(shots) for shots in outcome.shots.values()] == [4, 4]
    assert outcome.bench.variants[0].threads == 3


def test_those_that_do_not_fit_in_memory_together_are_ended_and_started_again() -> None:
    log: list[tuple[str, str]] = []
    engines = {name: Scripted() for name in "RS"}
    subjects = [subject(name) for name in "RS"]
    apart = run(subjects, "R", settings(), [], start=starter(engines, log), room=1).bench
    # Cold and warm: S, R. To stay: R, S. Then the turns R S, S R, R S, S R.
    assert "".join(name for name, _ in log) == "SSRR" + "RS" + "RS" + "R" + "S" + "R"
    assert apart.reopened == 5
    assert all(v.speed is not None and v.speed.image_s.count == 4 for v in apart.variants)
    together = run(subjects, "R", settings(), [], start=starter(engines), room=2**60).bench
    assert together.reopened == 0


def test_equal_pictures_are_infinitely_near_and_equally_fast() -> None:
    found = scripted(same=Scripted()).variant("same")
    assert found is not None and found.quality is not None and found.speed is not None
    assert found.quality.psnr.value == math.inf
    assert found.quality.equal.value == 1.0
    assert found.quality.ssim.value == pytest.approx(1.0)
    assert found.quality.latent_curve == (0.0, 0.0)
    assert found.speed.step_ratio is not None and found.speed.step_ratio.value == 1.0


def test_the_first_step_is_from_the_start_of_loading() -> None:
    found = scripted(one=Scripted(steps=(0.5, 0.1)), silent=Scripted(steps=()))
    (one, silent) = (found.variant(name) for name in ("one", "silent"))
    assert one is not None and one.cold is not None and silent is not None and silent.cold is not None
    assert one.cold.first_step_s == pytest.approx(one.cold.load_s + 0.75)
    assert silent.cold.first_step_s is None


def test_speed_is_of_the_medians_and_against_the_reference_of_each_round() -> None:
    found = scripted(fast=Scripted(steps=(0.05, 0.05))).variant("fast")
    assert found is not None and found.speed is not None
    speed = found.speed
    assert speed.step_ms is not None and speed.step_ms.median == pytest.approx(50)
    assert speed.step_ratio is not None and speed.step_ratio.value == pytest.approx(0.5)
    assert speed.image_s.median == pytest.approx(0.6)
    assert speed.images_per_minute == pytest.approx(100)
    unet = speed.components["unet.forward"]
    assert (unet.calls, unet.ms.median, unet.ms.count) == (2, pytest.approx(25), 4)


def test_steps_that_are_not_told_are_not_measured() -> None:
    found = scripted(odd=Scripted(steps=())).variant("odd")
    assert found is not None and found.speed is not None and found.quality is not None
    assert found.speed.step_ms is None
    # Then it is the whole picture's ratio: 0.5 s to 0.7 s.
    assert found.speed.step_ratio is not None
    assert found.speed.step_ratio.value == pytest.approx(0.5 / 0.7)
    assert "not shown" in found.quality.latent_error.reason


def test_another_project_that_fails_is_a_row_with_its_error() -> None:
    bench = scripted(peer_cold=Scripted(fail_at=0), peer_late=Scripted(fail_at=4), good=Scripted())
    for name in ("peer_cold", "peer_late"):
        found = bench.variant(name)
        assert found is not None and "out of paint" in found.error and found.speed is None
    good = bench.variant("good")
    assert good is not None and good.speed is not None and good.speed.image_s.count == 4


def test_what_failed_is_ended_before_its_next_turn() -> None:
    ended: list[str] = []
    engines = {"ref": Scripted(), "peer": Scripted(fail_at=3)}
    inner = starter(engines)

    @contextmanager
    def start(one: Any, env: Any) -> Any:
        with inner(one, env) as asked:
            yield asked
        ended.append(f"{one.name} {len(engines['ref'].drawn)}")

    run([subject("ref"), subject("peer", "peer")], "ref", settings(), [], start=start)
    # Three starts each; then the peer fails in its first turn, after one picture of the reference's four.
    assert ended == ["peer 0", "peer 0", "ref 1", "ref 2", "peer 4", "ref 7"]


def test_our_own_failure_ends_the_bench() -> None:
    with pytest.raises(Exception, match="out of paint"):
        scripted(ours=Scripted(fail_at=2))


def test_without_a_reference_only_what_needs_none_is_measured() -> None:
    outcome = run([subject("a")], None, settings(), [], start=starter({"a": Scripted()}))
    (found,) = outcome.bench.variants
    assert found.quality is not None and found.speed is not None
    assert found.quality.psnr.value is None and found.quality.psnr.reason == "there is no --reference"
    assert found.quality.broken.value == 0.0
    assert found.speed.step_ratio is None
    assert found.pictures[0].psnr is None


# --- faults planted in the built-in model ---------------------------------------------------------


class Faulty(drawing_engines.TorchEngine):
    """The model in PyTorch with something wrong."""

    def __init__(self, fault: Callable[[Any], None]) -> None:
        super().__init__(
            root=str(SHAPES_DIR),
            pipeline="diffusers:StableDiffusionPipeline",
            methods=("unet.forward", "vae.decode", "text_encoder.forward"),
        )
        self.fault = fault
        self.pipe: Any = None

    def open(self) -> dict[str, Any]:
        if self.pipe is None:
            super().open()
            self.fault(self.pipe)
        return {}


def none(pipe: Any) -> None:
    pass


def scaled_layer(pipe: Any) -> None:
    pipe.unet.conv_out.weight.data *= 1.05


def scaled_decoder(pipe: Any) -> None:
    pipe.vae.decoder.conv_out.weight.data *= 1.05


def wrong_scheduler(pipe: Any) -> None:
    pipe.scheduler.register_to_config(timestep_spacing="leading")


def not_a_number(pipe: Any) -> None:
    pipe.unet.conv_in.bias.data[3] = math.nan


FAULTS = (none, scaled_layer, scaled_decoder, wrong_scheduler, not_a_number)


@pytest.fixture(scope="module")
def planted() -> Bench:
    """All faults in one bench: two held-out prompts, four steps."""
    made = {"ref": Faulty(none), **{fault.__name__: Faulty(fault) for fault in FAULTS}}
    prompts = tuple(caption.text for caption in split()[1][:2])
    wanted = settings(prompts=prompts, seeds=(0,), steps=4, guidance=3.0)
    subjects = [subject(name) for name in made]
    return run(subjects, "ref", wanted, [], start=starter(made)).bench


@pytest.mark.slow
def test_without_a_fault_no_gate_trips(planted: Bench) -> None:
    gone = fallen(planted, "psnr<100", "equal<1", "broken>0", "latent_error>0")
    assert "none" not in {name for name, _ in gone}


@pytest.mark.slow
def test_a_layer_scaled_by_a_twentieth_moves_latents_and_pictures(planted: Bench) -> None:
    gone = fallen(planted, "latent_error>1e-4", "psnr<60", "broken>0", "equal<1")
    assert {text for name, text in gone if name == "scaled_layer"} == {
        "latent_error>1e-4",
        "psnr<60",
        "equal<1",
    }


@pytest.mark.slow
def test_a_fault_of_the_decoder_leaves_the_latents(planted: Bench) -> None:
    gone = fallen(planted, "latent_error>0", "psnr<60", "broken>0")
    assert {text for name, text in gone if name == "scaled_decoder"} == {"psnr<60"}


@pytest.mark.slow
def test_a_wrong_scheduler_setting_shows_from_the_first_step_on(planted: Bench) -> None:
    found = planted.variant("wrong_scheduler")
    assert found is not None and found.quality is not None
    first = found.quality.latent_curve[0]
    assert first is not None and first > 0.01
    assert ("wrong_scheduler", "psnr<60") in fallen(planted, "psnr<60", "latent_error>1e-4")
    assert ("wrong_scheduler", "latent_error>1e-4") in fallen(planted, "latent_error>1e-4")


@pytest.mark.slow
def test_not_a_number_in_one_channel_is_a_broken_picture(planted: Bench) -> None:
    gone = fallen(planted, "broken>0", "latent_error>1e9")
    assert {name for name, text in gone if text == "broken>0"} == {"not_a_number"}
    # A latent error that is not a number is below no limit.
    assert ("not_a_number", "latent_error>1e9") in gone
    found = planted.variant("not_a_number")
    assert found is not None and found.quality is not None and None in found.quality.latent_curve


@pytest.mark.slow
def test_components_are_timed_where_the_artifact_would_answer(planted: Bench) -> None:
    found = planted.variant("none")
    assert found is not None and found.speed is not None
    calls = {name: component.calls for name, component in found.speed.components.items()}
    assert calls == {"unet.forward": 4, "vae.decode": 1, "text_encoder.forward": 2}
    assert json.loads(planted.model_dump_json())["reference"] == "ref"
