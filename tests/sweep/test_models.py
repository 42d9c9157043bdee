"""The sweep's models: alive, reproducible, moved by prompt and seed, unchanged by a trip to disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtimes.trusted_classes import component_class
from tests.sweep.models import CASES, sibling

pytestmark = pytest.mark.slow

# Whose parts are all in the folder of the model: others cannot be called, as they are built and saved.
_WHOLE = {name: case for name, case in CASES.items() if case.added is None}
_ALL = [pytest.param(name, task, id=f"{name}-{task}") for name, case in _WHOLE.items() for task in case.tasks]


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def _quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def built() -> dict[str, Any]:
    return {}


def _pipe(built: dict[str, Any], name: str, task: str) -> Any:
    if name not in built:
        built.clear()
        built[name] = _quiet(CASES[name].build())
    first = next(iter(CASES[name].tasks))
    return built[name] if task == first else _quiet(sibling(built[name], task))


@pytest.mark.parametrize(("name", "task"), _ALL)
def test_it_makes_images_that_depend_on_what_it_is_given(built: dict[str, Any], name: str, task: str) -> None:
    case, pipe = CASES[name], _pipe(built, name, task)
    one = case.run(pipe, task)
    assert np.isfinite(one).all()
    assert one.std() > 0.05
    if case.output == "images":
        assert np.mean((one <= 0) | (one >= 1)) < 0.5, "mostly clipped: differences would not show"
    np.testing.assert_array_equal(case.run(pipe, task), one)
    mine, others = case.arguments(task), case.arguments(task, seed=1)
    for changed, arguments in (
        ("condition", others | {"generator": mine["generator"]}),
        ("seed", case.arguments(task) | {"generator": case.arguments(task, seed=1)["generator"]}),
    ):
        two = np.asarray(getattr(pipe(**arguments), case.output))
        assert _distance(two, one) > 5e-3, f"another {changed} changes nothing"


@pytest.mark.parametrize(("name", "task"), _ALL)
def test_it_takes_its_other_sizes_in_batches(built: dict[str, Any], name: str, task: str) -> None:
    case, pipe = CASES[name], _pipe(built, name, task)
    whole = case.run(pipe, task)
    for batch, (height, width) in zip((2, 3), case.sizes or ((case.size, case.size),) * 2, strict=True):
        assert height % case.multiple == 0 and width % case.multiple == 0
        images = case.run(pipe, task, batch=batch, height=height, width=width)
        assert images.shape[0] == batch and np.isfinite(images).all()
        if case.output == "images":
            assert images.shape[1] / whole.shape[1] == height / case.size
            assert images.shape[2] / whole.shape[2] == width / case.size


@pytest.mark.parametrize("name", _WHOLE)
def test_it_survives_the_disk(built: dict[str, Any], name: str, tmp_path: Path) -> None:
    case, task = CASES[name], next(iter(CASES[name].tasks))
    pipe = _pipe(built, name, task)
    pipe.save_pretrained(tmp_path, safe_serialization=True)
    assert not [*tmp_path.rglob("*.bin"), *tmp_path.rglob("*.pt")]
    for entry in json.loads((tmp_path / "model_index.json").read_text(encoding="utf-8")).values():
        if isinstance(entry, list) and entry != [None, None]:
            assert component_class(*entry) is not None  # diffusers alone does not find all that it saves
    again = _quiet(type(pipe).from_pretrained(tmp_path, local_files_only=True))
    # Not bit by bit: some processors' kernels round by where a weight lies in memory.
    before, after = case.run(pipe, task), case.run(again, task)
    assert np.linalg.norm(after - before) < 1e-4 * np.linalg.norm(before)
