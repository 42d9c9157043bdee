"""A pipeline that sets attention processors for its call: with them, without them, never silently otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtimes
from artifacts.call_trees import AnyLeaf
from artifacts.errors import LatentcError
from artifacts.manifest import DimRange, Manifest, MethodRecord, ModelSpec
from compiler.build import compile
from compiler.capture.declared_sizes import SizeRange
from compiler.compile_request import CompileRequest
from compiler.evidence.drawing_jobs import PipelineJob
from compiler.evidence.pipeline_check import answer
from tests.sweep.models import CASES

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_checker")]

CASE = CASES["sd15-pag"]
PROMPT = "a large red circle"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[float, np.ndarray]]:
    """The model's folder, and PyTorch's picture by the scale of its perturbation."""
    folder = tmp_path_factory.mktemp("models") / "pag"
    pipe = CASE.build()
    pipe.save_pretrained(folder)
    return folder, {scale: draw(pipe, pag_scale=scale) for scale in (0.0, 3.0)}


def draw(pipe: Any, **given: Any) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    return np.asarray(pipe(**CASE.arguments("text-to-image"), **given).images)


def compiled(model: Path, out: Path, check: str = "quick", most: int = 1, **arguments: str) -> Manifest:
    side = DimRange(min=CASE.size, max=CASE.size)
    request = CompileRequest(
        model=str(model),
        out=out,
        target="onnxruntime",
        precision="fp32",
        size=SizeRange(side, side),
        batch=DimRange(min=1, max=most),
        arguments=arguments,
        check=check,
    )
    return compile(request).manifest


@pytest.mark.parametrize(("arguments", "scale", "other"), [({}, 3.0, 0.0), ({"pag_scale": "0"}, 0.0, 3.0)])
def test_it_draws_what_it_was_compiled_for_and_refuses_the_other(
    model: tuple[Path, dict[float, np.ndarray]],
    arguments: dict[str, str],
    scale: float,
    other: float,
    tmp_path: Path,
) -> None:
    folder, pictures = model
    manifest = compiled(folder, tmp_path / "out", **arguments)
    methods = [m for part in manifest.components if part.name == "unet" for m in part.methods]
    assert all(any("processor" in path for path in m.state) == bool(scale) for m in methods)
    assert all(each.check == "quick" for graph in manifest.graphs for each in graph.evidence)
    (drawn,) = manifest.pipeline_evidence
    assert drawn.check == "quick" and drawn.error is not None and drawn.loop is not None
    with runtimes.load(tmp_path / "out", device="cpu", cache=False) as pipeline:
        for _ in range(2):
            found = draw(pipeline.diffusers, pag_scale=scale)
            assert np.abs(found - pictures[scale]).max() < 1e-3 < np.abs(found - pictures[other]).max()
            with pytest.raises(LatentcError, match="processor: expected a") as caught:
                pipeline.generate(PROMPT, steps=1, pag_scale=other)
            assert "--arg" in caught.value.hint


def test_a_graph_of_the_restored_module_is_no_picture_of_the_perturbed_one(
    model: tuple[Path, dict[float, np.ndarray]], tmp_path: Path
) -> None:
    """The check of components cannot see it: it compares the graph with the module as it is between two calls."""
    folder, _ = model
    plain = compiled(folder, tmp_path / "out", pag_scale="0", check="none", most=2)  # 3 noises fit

    def whatever_is_set(record: MethodRecord) -> MethodRecord:
        paths = ("mid_block.attentions.0.transformer_blocks.0.attn1.processor",)
        return record.model_copy(update={"state": dict.fromkeys(paths, AnyLeaf())})

    components = tuple(
        part.model_copy(update={"methods": tuple(map(whatever_is_set, part.methods))})
        if part.name == "unet"
        else part
        for part in plain.components
    )
    job = PipelineJob(
        model=ModelSpec(model=str(folder)),
        variant=None,
        left_out=(),
        loose=str(tmp_path / "out"),
        root=str(tmp_path / "out"),
        manifest=plain.model_copy(update={"components": components, "arguments": {}}),
        check="quick",
    )
    with pytest.raises(LatentcError, match="not PyTorch's"):
        answer(job)
