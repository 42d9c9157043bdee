"""Pictures beside PyTorch's: the figures, what is drawn, and where unpublished graphs lie."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from artifacts.errors import LatentcError
from artifacts.evidence_records import PictureEvidence
from artifacts.manifest import Manifest, ModelSpec
from artifacts.progress import silent
from artifacts.worker import WorkerError
from compiler.evaluation import Evaluation, evaluation
from compiler.evidence import quantized_pictures
from compiler.evidence.drawing_jobs import PictureJob
from compiler.evidence.graph_evidence import Checker
from compiler.evidence.graph_measurement import checking
from compiler.evidence.quantized_pictures import compare, measure, relocated
from runtimes.sessions.session_contract import Device
from tests.latentc.artifacts_made import made


def job(manifest: Manifest, tmp_path, **changes) -> PictureJob:
    fields = {
        "model": ModelSpec(model=str(tmp_path)), "variant": None, "loose": str(tmp_path), "root": str(tmp_path),
        "manifest": manifest, "evaluation": Evaluation(), "width": 64, "height": 64, "budget": 1.0,
    }  # fmt: skip
    return PictureJob(**(fields | changes))


PICTURE = np.linspace(0.2, 0.5, 16 * 16 * 3).reshape(16, 16, 3)


def test_evidence_has_mean_and_worst(tmp_path):
    ours = [PICTURE, PICTURE + 0.1]
    theirs = [PICTURE, PICTURE]
    found = compare(ours, theirs, job(made(tmp_path), tmp_path), "bf16")
    assert (found.compute, found.prompts, found.steps, found.width) == ("bf16", 2, 20, 64)
    assert found.worst_psnr == pytest.approx(20)
    assert found.psnr == pytest.approx(60)
    assert found.worst_ssim < found.ssim < 1


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        (np.zeros_like(PICTURE), "black"),
        (np.full_like(PICTURE, 0.4), "of one colour"),
        (np.where(PICTURE > 0.4, np.nan, PICTURE), "not finite"),
        (np.where(PICTURE > 0.4, 1.0, 0.0), "cut off at both ends of its colours"),
    ],
)
def test_pictures_that_show_nothing_are_no_evidence(tmp_path, bad, what):
    asked = job(made(tmp_path), tmp_path)
    with pytest.raises(
        LatentcError, match=rf"picture of 'a red bicycle .*' in bf16 is {what}, and PyTorch's is not"
    ):
        compare([PICTURE, bad], [PICTURE, PICTURE], asked, "bf16")
    for ours in (bad, PICTURE):
        found = compare([PICTURE, ours], [PICTURE, bad], asked, "bf16")
        assert found.psnr is None and found.prompts is None
        assert found.reason.endswith(f"wall' is {what}")


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_reference_that_shows_nothing_excuses_no_other_picture(tmp_path, order):
    nothing = np.zeros_like(PICTURE)
    theirs, ours = ([nothing, PICTURE][i] for i in order), [nothing, nothing]
    with pytest.raises(LatentcError, match="is black, and PyTorch's is not"):
        compare(ours, list(theirs), job(made(tmp_path), tmp_path), "bf16")


def test_no_picture_is_no_measurement(tmp_path):
    found = compare([], [], job(made(tmp_path), tmp_path), "fp32")
    assert (found.psnr, found.prompts, found.reason) == (None, None, "no picture was drawn")


@pytest.mark.parametrize(("hint", "said"), [("More bits.", r"More bits\."), ("", "--pictures 0")])
def test_what_the_other_process_refuses_is_said_with_its_own_hint(tmp_path, hint, said):
    class Refusing(Checker):
        def ask(self, job):
            raise WorkerError("the picture is black.", hint)

    with pytest.raises(LatentcError, match=rf"cannot be compared: the picture is black\.\n.*{said}"):
        measure(Refusing(), job(made(tmp_path), tmp_path), silent)


def test_the_process_that_checks_draws_them(tmp_path, monkeypatch):
    class Here(Checker):
        def ask(self, job):
            return checking()(job.model_dump_json())

    evidence = [PictureEvidence(compute="fp32", psnr=50.0), PictureEvidence(reason="black")]
    monkeypatch.setattr(quantized_pictures, "answer", lambda job: evidence)
    assert measure(Here(), job(made(tmp_path), tmp_path), silent) == tuple(evidence)


def test_a_model_may_bring_its_own_prompts(tmp_path):
    assert len(evaluation(tmp_path, 8).prompts) == 8
    file = tmp_path / "evaluation.json"
    file.write_text('{"prompts": ["a", "b", "c"], "guidance": 3.0, "steps": 4}', encoding="utf-8")
    assert evaluation(tmp_path, 2) == Evaluation(prompts=("a", "b"), guidance=3.0, steps=4)
    file.write_text('{"prompts": 7}', encoding="utf-8")
    with pytest.raises(LatentcError, match=r"evaluation\.json"):
        evaluation(tmp_path, 2)


def test_the_builtin_model_brings_eight():
    from bench.reference import SHAPES_DIR

    assert len(evaluation(SHAPES_DIR, 100).prompts) == 8


def test_graphs_are_found_where_their_parts_lie(tmp_path):
    manifest = made(tmp_path)
    root, moved = relocated(manifest, {"unet": tmp_path / "parts" / "abc" / "files"})
    (graph,), (component,) = moved.graphs, moved.components
    assert root / graph.model_file == tmp_path / "parts" / "abc" / "files" / "model.onnx"
    assert root / component.config == tmp_path / "parts" / "abc" / "files" / "config.json"
    assert graph.folder == "unet"


def test_another_task_is_not_measured(tmp_path):
    manifest = made(tmp_path, pipelines={"inpaint": "diffusers.pipelines:StableDiffusionInpaintPipeline"})
    (found,) = measure(Checker(), job(manifest, tmp_path), silent)
    assert found.reason == "it does not do text-to-image"


def test_what_would_take_too_long_is_not_drawn(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(quantized_pictures, "_pytorch", lambda job: "pytorch")
    monkeypatch.setattr(
        quantized_pictures, "_draw", lambda pipeline, job, prompts, steps: drawn.append((len(prompts), steps))
    )
    clock = iter([0.0, 600.0, 600.0, 606.0])
    monkeypatch.setattr(quantized_pictures.time, "perf_counter", lambda: next(clock))
    (found,) = quantized_pictures.answer(job(made(tmp_path), tmp_path, budget=900.0))
    # Three seconds a step, 20 steps, 8 prompts, twice.
    assert found.reason == "it would take 16 minutes on this machine"
    assert drawn == [(1, 2), (1, 2)] and found.psnr is None


def test_a_slow_first_call_is_taken_again(tmp_path, monkeypatch):
    monkeypatch.setattr(quantized_pictures, "_pytorch", lambda job: "pytorch")
    monkeypatch.setattr(quantized_pictures, "_compiled", lambda job, compute: ("compiled", lambda: None))
    monkeypatch.setattr(
        quantized_pictures, "_draw", lambda pipeline, job, prompts, steps: [PICTURE] * len(prompts)
    )
    clock = iter([0.0, 600.0, 600.0, 600.5])
    monkeypatch.setattr(quantized_pictures.time, "perf_counter", lambda: next(clock))
    (found,) = quantized_pictures.answer(job(made(tmp_path), tmp_path, budget=900.0))
    assert (found.compute, found.psnr) == ("fp32", quantized_pictures.EQUAL)


def test_pictures_are_drawn_in_fp32_and_in_what_runs_by_default(tmp_path, monkeypatch):
    asked = []
    factory = SimpleNamespace(devices=lambda: (Device("cpu", "", computes=("bf16", "fp32")),))
    monkeypatch.setattr(quantized_pictures.session_table, "get", lambda target: factory)
    monkeypatch.setattr(
        quantized_pictures, "_references", lambda job, times: [PICTURE] * 8 if times == 3 else None
    )
    monkeypatch.setattr(
        quantized_pictures, "_compiled", lambda job, compute: (asked.append(compute), lambda: None)
    )
    monkeypatch.setattr(
        quantized_pictures, "_draw", lambda pipeline, job, prompts, steps: [PICTURE] * len(prompts)
    )
    found = quantized_pictures.answer(job(made(tmp_path), tmp_path))
    assert [each.compute for each in found] == ["fp32", "bf16"]
    assert asked == ["fp32", "auto"], "what is said to be the default is what load draws with"
