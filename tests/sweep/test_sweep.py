"""The sweep: every tiny pipeline, compiled with no code of its own, against PyTorch on both runtimes.

`LATENTC_UPDATE_DOCS=1` writes the table that the run measured to docs/sweep.md.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.lowering.compile_cache import CompileCache
from tests.sweep import table
from tests.sweep.exports import exported_once
from tests.sweep.models import CASES, Case, sibling

pytestmark = pytest.mark.slow

TARGETS = ("onnxruntime", "openvino")
TOLERANCE = 1e-3
STEPS = 12
"""Of the runs with forecasts."""

ACCELERATED = frozenset(
    {
        "sd15",
        "sd15-inpaint",
        "sd3",
        "flux-schnell",
        "pixart-sigma",
        "qwen-image",  # guidance in two calls
        "sd15-controlnet",
        "kandinsky22",
        "kandinsky22-inpaint",
        "kandinsky22-prior",
    }
)
"""Cases that are also run with forecasts: one for each way to call a denoiser."""

_HEAD = """# The sweep

Tiny models with random weights of the pipelines below, built by `tests/sweep/` from configs, are compiled
in fp32 with no code of their own and run end to end in diffusers' own pipeline. The figures are the relative
error of the picture (of a prior: of the embedding) against PyTorch's with the same seed and two steps,
`|a - b| / |b|`; the tests hold them under {tolerance}. This page is written by the tests:
`LATENTC_UPDATE_DOCS=1 python -m pytest tests/sweep`.

| model | task | pipeline | {targets} |
| --- | --- | --- | {rule} |
"""


@dataclass(frozen=True)
class Model:
    """A saved case: its folder and PyTorch's results by task, with the class that made each, and what the compiles
    for all targets have in common."""

    case: Case
    folder: Path
    results: dict[str, np.ndarray]
    classes: dict[str, str]
    added: Mapping[str, Any]
    compile_cache: CompileCache


@pytest.fixture(scope="module")
def rows() -> Iterator[dict[tuple[str, str, str], tuple[str, str]]]:
    """(case, task, target) -> (pipeline class, error); written to the docs at the end, if asked for."""
    found: dict[tuple[str, str, str], tuple[str, str]] = {}
    yield found
    if os.environ.get("LATENTC_UPDATE_DOCS") == "1":
        table.write_first(_table(_written() | found))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    """Cases as they are needed; one at a time is kept."""
    return {}


@pytest.fixture(scope="module", autouse=True)
def graphs_once() -> Iterator[None]:
    with exported_once():
        yield


def _model(models: dict[str, Model], name: str, folder: Path) -> Model:
    if name not in models:
        case = CASES[name]
        pipe = case.build()
        pipe.set_progress_bar_config(disable=True)
        pipe.save_pretrained(folder / name)
        added = {} if case.added is None else case.added(pipe, folder / f"{name}-added")
        results: dict[str, np.ndarray] = {}
        classes: dict[str, str] = {}
        for number, task in enumerate(case.tasks):
            variant: Any = pipe if number == 0 else sibling(pipe, task)
            variant.set_progress_bar_config(disable=True)
            results[task] = case.run(variant, task)
            classes[task] = type(variant).__name__
        models.clear()
        models[name] = Model(case, folder / name, results, classes, added, CompileCache())
    return models[name]


@pytest.mark.parametrize(("name", "target"), [(name, target) for name in CASES for target in TARGETS])
def test_compiled_and_run_it_is_pytorchs(
    name: str,
    target: str,
    models: dict[str, Model],
    rows: dict[tuple[str, str, str], tuple[str, str]],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    pytest.importorskip(target)
    import runtimes
    from artifacts.manifest import DimRange
    from compiler.build import compile
    from compiler.capture.declared_sizes import SizeRange
    from compiler.compile_request import CompileRequest

    model = _model(models, name, tmp_path_factory.getbasetemp())
    side = DimRange(min=model.case.size, max=model.case.size)
    compile(
        CompileRequest(
            model=str(model.folder),
            out=tmp_path / "out",
            target=target,
            precision="fp32",
            tasks=tuple(model.case.tasks),
            size=SizeRange(side, side),
            check="none",  # the picture is the check here
            arguments=model.case.compiled_with,
            **model.added,
        ),
        compile_cache=model.compile_cache,
    )
    errors: dict[str, float] = {}
    for task, expected in model.results.items():
        with runtimes.load(tmp_path / "out", device="cpu", task=task, cache=False) as pipeline:
            pipeline.diffusers.set_progress_bar_config(disable=True)
            assert type(pipeline.diffusers).__name__ == model.classes[task]
            found = model.case.run(pipeline.diffusers, task)
            if target == TARGETS[0] and name in ACCELERATED:
                _accelerated(pipeline, model.case, task)
        assert found.shape == expected.shape
        errors[task] = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
        rows[name, task, target] = (model.classes[task], f"{errors[task]:.0e}")
    assert all(error < TOLERANCE for error in errors.values()), errors


def _accelerated(pipeline: Any, case: Case, task: str) -> None:
    """Runs with forecast steps end, whatever the pipeline calls for a step; a tolerance of 0 changes no bit."""
    tolerances = {"off": "off", "0": 0, "some": 0.5, "all that may be": 1e9}
    results, counts = {}, {}
    for name, tolerance in tolerances.items():
        results[name] = case.run(partial(pipeline, accelerate=tolerance), task, steps=STEPS)
        counts[name] = pipeline._count
    assert np.array_equal(results["off"], results["0"]) and counts["0"] is None
    most = counts["all that may be"]
    assert most.of >= STEPS and counts["some"].of == most.of
    assert np.isfinite(results["some"]).all() and np.isfinite(results["all that may be"]).all()
    # Steps that call a denoiser twice at one time of the schedule are all made.
    assert most.made < most.of - 2, most


def test_the_docs_list_every_case() -> None:
    if os.environ.get("LATENTC_UPDATE_DOCS") == "1":
        pytest.skip("they are being written")
    found = re.findall(r"^\| ([\w-]+) \| ([\w-]+) \| ", table.parts()[0], flags=re.MULTILINE)
    assert sorted(found[2:]) == sorted(_tasks())  # after the header and its rule


def _tasks() -> list[tuple[str, str]]:
    return [(name, task) for name, case in CASES.items() for task in case.tasks]


def _table(rows: dict[tuple[str, str, str], tuple[str, str]]) -> str:
    head = _HEAD.format(
        tolerance=TOLERANCE, targets=" | ".join(TARGETS), rule=" | ".join("---" for _ in TARGETS)
    )
    lines = []
    for name, task in _tasks():
        cells = [rows.get((name, task, target), ("", "not measured")) for target in TARGETS]
        lines.append(f"| {name} | {task} | {cells[0][0]} | {' | '.join(figure for _, figure in cells)} |\n")
    return head + "".join(lines)


def _written() -> dict[tuple[str, str, str], tuple[str, str]]:
    """The rows that the page has now: a run of some cases leaves the others as they are."""
    text = table.parts()[0]
    found: dict[tuple[str, str, str], tuple[str, str]] = {}
    for name, task in _tasks():
        line = re.search(rf"^\| {re.escape(name)} \| {re.escape(task)} \| (.*) \|$", text, flags=re.MULTILINE)
        if line is not None:
            pipeline, *figures = line[1].split(" | ")
            for target, figure in zip(TARGETS, figures, strict=True):
                found[name, task, target] = (pipeline, figure)
    return found
