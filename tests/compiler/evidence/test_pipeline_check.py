"""Faults that no check of a component sees, planted in a finished artifact: the check of its pipeline sees them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import LatentcError
from artifacts.manifest import DimRange, Manifest, ModelSpec
from compiler import build, drawn_evidence
from compiler.build import compile
from compiler.capture.declared_sizes import SizeRange
from compiler.compile_request import CompileRequest
from compiler.evidence import pipeline_check
from compiler.evidence.drawing_jobs import PipelineJob
from compiler.evidence.picture_limits import picture_limit
from compiler.evidence.pipeline_check import answer
from compiler.loose_files import write_loose_files
from tests.compiler.made import request
from tests.sweep.models import CASES
from tests.sweep.siblings import unconditional

CASE = "sd15-controlnet"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> PipelineJob:
    """The check of an artifact in fp16, whose weights are rounded: nothing is wrong with it."""
    folder = tmp_path_factory.mktemp("whole")
    CASES[CASE].build().save_pretrained(folder / "model")
    artifact = compile(request(folder / "out", model=str(folder / "model"), precision="fp16"))
    return PipelineJob(
        model=ModelSpec(model=str(folder / "model")),
        variant=None,
        left_out=(),
        loose=str(folder / "out"),
        root=str(folder / "out"),
        manifest=artifact.manifest,
        check="quick",
    )


def with_record(manifest: Manifest, component: str, change: Callable[[Any], Any]) -> Manifest:
    """The manifest with each method record of one component changed."""
    components = tuple(
        part.model_copy(update={"methods": tuple(map(change, part.methods))})
        if part.name == component
        else part
        for part in manifest.components
    )
    return manifest.model_copy(update={"components": components})


@pytest.mark.slow
def test_a_right_artifact_is_measured(whole: PipelineJob) -> None:
    (evidence,) = answer(whole)
    assert (evidence.task, evidence.check, evidence.compute, evidence.steps) == (
        "text-to-image",
        "quick",
        "fp32",
        2,
    )
    assert evidence.error is not None and evidence.tolerance is not None and evidence.loop is not None
    assert 0 < evidence.error < evidence.tolerance
    # A text, its negative, the control and the UNet three times (of two steps PNDM makes one twice), the decoder.
    assert evidence.loop < pipeline_check.LOOP and evidence.calls == 9


@pytest.mark.slow
def test_a_setting_of_the_scheduler(whole: PipelineJob, tmp_path: Path) -> None:
    for name in ("scheduler", "tokenizer"):
        shutil.copytree(Path(whole.loose) / name, tmp_path / name)
    shutil.copy(Path(whole.loose) / "model_index.json", tmp_path)
    file = tmp_path / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"beta_end": 0.0121}))
    with pytest.raises(
        LatentcError, match=r"call \d, '\w+.forward', is given another \w+: relative error"
    ) as caught:
        answer(whole.model_copy(update={"loose": str(tmp_path)}))
    assert "--check none" in caught.value.hint


@pytest.mark.slow
def test_inputs_in_each_others_places(whole: PipelineJob) -> None:
    def swap(record: Any) -> Any:
        residuals = record.arguments["down_block_additional_residuals"]
        first, second, *others = residuals.items
        swapped = residuals.model_copy(update={"items": (second, first, *others)})
        return record.model_copy(
            update={"arguments": record.arguments | {"down_block_additional_residuals": swapped}}
        )

    manifest = with_record(whole.manifest, "unet", swap)
    with pytest.raises(LatentcError, match="not PyTorch's.*relative error"):
        answer(whole.model_copy(update={"manifest": manifest}))


@pytest.mark.slow
def test_a_compile_whose_pipeline_is_another_publishes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unconditional("DDIMPipeline", "DDIMScheduler").save_pretrained(tmp_path / "model")

    def planted(source: Any, captured: Any, folder: Path) -> None:
        write_loose_files(source, captured, folder)
        file = folder / "scheduler" / "scheduler_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"beta_end": 0.021}))

    side = DimRange(min=16, max=16)
    size = SizeRange(side, side)
    asked = CompileRequest(str(tmp_path / "model"), tmp_path / "out", "onnxruntime", "fp32", size=size)
    monkeypatch.setattr(build, "write_loose_files", planted)
    monkeypatch.setattr(drawn_evidence, "write_loose_files", planted)
    with pytest.raises(LatentcError, match="text-to-image.* is not PyTorch's"):
        compile(asked)
    assert not (tmp_path / "out").exists()


def test_it_is_not_measured_where_memory_does_not_hold_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.latentc.artifacts_made import made

    monkeypatch.setattr(
        drawn_evidence.memory, "shortage", lambda needed: "3.0 GiB of memory; 1.0 GiB are free"
    )
    nothing: Any = None
    asked = request(tmp_path, check="quick")
    (evidence,) = drawn_evidence.pipeline_evidence(
        asked, nothing, nothing, made(tmp_path), {}, nothing, nothing
    )
    assert evidence.check == "not measured" and evidence.reason.startswith("it takes 3.0 GiB")
    (evidence,) = drawn_evidence.pipeline_evidence(
        request(tmp_path), nothing, nothing, made(tmp_path), {}, nothing, nothing
    )
    assert evidence.reason == "--check none"


def test_pictures_of_rounded_weights_may_be_further_off(tmp_path: Path) -> None:
    from tests.latentc.artifacts_made import made

    (graph,) = made(tmp_path).graphs
    exact = graph.model_copy(update={"precision": "fp32", "evidence": (), "weights": ()})
    assert picture_limit([exact], "fp32", {}) == 1e-3
    rounded = exact.model_copy(update={"precision": "fp16"})
    assert picture_limit([exact, rounded], "fp32", {}) == pytest.approx(0.1)
    assert picture_limit([exact], "bf16", {}) == 0.6
