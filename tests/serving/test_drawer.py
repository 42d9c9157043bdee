"""The process that draws, without a process: what it asks of a pipeline, and when unfinished pictures are shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import UsageError
from artifacts.manifest import Manifest
from latentc.serving.drawer import Drawer, preview_steps
from runtimes.meter import Cancelled
from runtimes.pipeline import Pipeline
from tests.runtimes import tiny


@pytest.mark.parametrize(
    ("steps", "previews", "shown"),
    [
        (20, 0, []),
        (20, 1, [10]),
        (20, 3, [5, 10, 15]),
        (6, 3, [1, 3, 4]),
        (2, 3, [1]),
        (1, 3, []),
        (0, 3, []),
    ],
)
def test_previews_are_spaced_evenly_and_never_the_picture_itself(
    steps: int, previews: int, shown: list[int]
) -> None:
    assert preview_steps(steps, previews) == shown


@pytest.fixture
def drawer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Drawer:
    """Around a tiny pipeline."""
    reference = tiny.stable_diffusion(tmp_path)
    root, manifest = tiny.write_artifact(reference, tmp_path / "artifact"), tiny.manifest()

    graphs: Any = tiny.TorchGraphs(reference, manifest)
    graphs.note = ""

    def load(path: str, **options: Any) -> Pipeline:
        assert options == {"device": "auto", "compute": "auto", "accelerate": "off"}
        return Pipeline(root, manifest, next(iter(manifest.pipelines)), graphs)

    monkeypatch.setattr("runtimes.pipeline.load", load)
    monkeypatch.setattr("latentc.serving.drawer.tell", lambda event: None)
    made = Drawer("artifact", "auto", "auto")
    opened = made(json.dumps({"do": "open"}))
    assert opened["previews"] and opened["scheduler"] in opened["schedulers"]
    return made


def job(batch: int = 0, **changes: Any) -> str:
    picture = {"prompt": "a", "negative_prompt": None, "seed": 1, "format": "png", "quality": None}
    options = {"size": None, "steps": 2, "guidance": None, "scheduler": None, "strength": None}
    common = {
        "do": "draw",
        "batch": batch,
        "task": "text-to-image",
        "image": None,
        "mask": None,
        "previews": 1,
    }
    return json.dumps({**common, "options": options, "pictures": [picture], **changes})


def test_a_message_cancels_a_batch_also_before_it_has_begun(drawer: Drawer) -> None:
    drawer._hear({"cancel": 3})
    with pytest.raises(Cancelled):
        drawer(job(batch=3))
    assert len(drawer(job(batch=4))["pictures"]) == 1


def test_another_task_of_the_artifact_is_drawn_with_the_same_graphs(drawer: Drawer) -> None:
    pipeline = drawer._pipelines["text-to-image"]
    assert isinstance(pipeline.manifest, Manifest)
    for task in pipeline.manifest.pipelines:
        assert pipeline.with_task(task)._graphs is pipeline._graphs
    with pytest.raises(UsageError, match="no task 'dance'"):
        pipeline.with_task("dance")
