"""Grids: what is drawn, where it is put, and what is not drawn again."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from artifacts.errors import LatentcError, UsageError
from bench import picture_grid
from bench.picture_grid import Axis, Grid
from latentc import pictures
from tests.latentc.artifacts_made import made


class Brush:
    """Stands for pipelines: draws plain pictures whose colour says what was asked for; remembers it."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.loaded: list[tuple[Path, str, str]] = []
        self.calls: list[dict[str, Any]] = []
        self.open = 0
        self.fail_after = fail_after

    def load(self, path: Path, device: str, compute: str) -> Brush:
        assert self.open == 0, "two models in memory"
        self.open += 1
        self.loaded.append((path, device, compute))
        return self

    def close(self) -> None:
        self.open -= 1

    def generate(self, **given: Any) -> Any:
        if self.fail_after is not None and len(self.calls) >= self.fail_after:
            raise LatentcError("the power went out")
        self.calls.append(given)
        colour = (given.get("steps", 0) * 10, int(given.get("guidance", 0) * 10), given["seed"] * 100)
        return SimpleNamespace(
            frames=(),
            images=(Image.new("RGB", (8, 8), colour),),
            timings=SimpleNamespace(total=0.5, steps=(0.25, 0.125, 0.375)),
            parameters={"prompt": given["prompt"], "seed": given["seed"]},
        )


@pytest.fixture
def artifact(tmp_path: Path) -> str:
    made(tmp_path / "out")
    return str(tmp_path / "out")


def wanted(artifact: str | None, *axes: str, **base: Any) -> Grid:
    given = {"artifact": artifact, "device": "auto", "prompt": "a", "seed": 0, "scheduler": None, **base}
    return Grid(tuple(Axis.parse(text) for text in axes), given)


def run(asked: Grid, out: Path, brush: Brush, side: int = 32) -> list[picture_grid.Cell]:
    return picture_grid.run(asked, out, brush.load, pictures.write, side=side)


@pytest.mark.parametrize(
    ("text", "option", "values"),
    [
        ("steps=4,8,20", "steps", (4, 8, 20)),
        ("guidance=1, 4.5", "guidance", (1.0, 4.5)),
        ("negative=a,b", "negative_prompt", ("a", "b")),
        ('prompt=["a, b", "c"]', "prompt", ("a, b", "c")),
        ("scheduler=DDIMScheduler", "scheduler", ("DDIMScheduler",)),
        ("eta=0,0.5,off", "eta", (0, 0.5, "off")),
        ("size=64x64,128", "size", ("64x64", "128")),
    ],
)
def test_axes(text: str, option: str, values: tuple[Any, ...]) -> None:
    assert Axis.parse(text) == Axis(option, values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps", "is no axis"),
        ("=4", "is no axis"),
        ("steps=", "empty value"),
        ("steps=4,,8", "empty value"),
        ("steps=four", "'four' is no value of 'steps'; expected a whole number"),
        ("guidance=high", "expected a number"),
        ("guidance=nan", "expected a number"),
        ("strength=1e999", "expected a number"),
        ("image=a.png", "is no axis: its values are no texts"),
        ("steps=4,4", "names a value twice"),
    ],
)
def test_wrong_axes(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Axis.parse(text)


def test_wrong_grids(artifact: str) -> None:
    with pytest.raises(UsageError, match="on two axes"):
        wanted(artifact, "steps=1,2", "steps=3")
    with pytest.raises(UsageError, match="one to three axes"):
        wanted(artifact, "steps=1", "guidance=1", "seed=1", "size=8")
    with pytest.raises(UsageError, match="needs an ARTIFACT"):
        wanted(None, "steps=1")
    many = ",".join(map(str, range(101)))
    with pytest.raises(UsageError, match="of 10,201 pictures is too large"):
        wanted(artifact, f"seed={many}", f"eta={many}")


def test_every_cell_is_drawn_once_and_lies_where_its_labels_say(artifact: str, tmp_path: Path) -> None:
    brush = Brush()
    cells = run(wanted(artifact, "steps=1,2,3", "guidance=4,5", "seed=0,1"), tmp_path / "grid", brush)
    assert len(cells) == len(brush.calls) == 12
    assert brush.loaded == [(Path(artifact), "auto", "auto")] and brush.open == 0
    sheet = Image.open(tmp_path / "grid" / "grid.png").convert("RGB")
    colours = {colour: count for count, colour in sheet.getcolors(1_000_000)}
    for steps in (1, 2, 3):
        for guidance in (4, 5):
            for seed in (0, 1):
                assert colours[(steps * 10, guidance * 10, seed * 100)] == 32 * 32
    spots = {
        colour: (x, y)
        for y in range(sheet.height)
        for x in range(sheet.width)
        if (colour := sheet.getpixel((x, y))) in {(10, 40, 0), (30, 40, 0), (10, 50, 0), (10, 40, 100)}
    }
    first = spots[(10, 40, 0)]
    assert spots[(30, 40, 0)][0] > first[0] and spots[(30, 40, 0)][1] == first[1]  # x to the right
    assert spots[(10, 50, 0)][1] > first[1] and spots[(10, 50, 0)][0] == first[0]  # y downwards
    assert spots[(10, 40, 100)][0] > spots[(30, 40, 0)][0]  # z in a panel beside


def test_the_table_has_a_line_for_each_cell(artifact: str, tmp_path: Path) -> None:
    run(wanted(artifact, 'prompt=["a, b", "c"]', "steps=2"), tmp_path / "grid", Brush())
    with (tmp_path / "grid" / "grid.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["prompt"], row["steps"]) for row in rows] == [("a, b", "2"), ("c", "2")]
    assert all((tmp_path / "grid" / row["file"]).is_file() for row in rows)
    assert (rows[0]["seconds"], rows[0]["step_ms"]) == ("0.5000", "250.000")


def test_what_was_drawn_is_not_drawn_again(artifact: str, tmp_path: Path) -> None:
    broken, whole, again = Brush(fail_after=2), Brush(), Brush()
    asked = wanted(artifact, "steps=1,2,3")
    with pytest.raises(LatentcError, match="the power went out"):
        run(asked, tmp_path / "grid", broken)
    assert broken.open == 0
    cells = run(asked, tmp_path / "grid", whole)
    assert [call["steps"] for call in whole.calls] == [3]
    assert [cell.resumed for cell in cells] == [True, True, False]
    run(asked, tmp_path / "grid", again)
    assert again.loaded == []


def test_a_request_that_is_refused_leaves_no_folder(artifact: str, tmp_path: Path) -> None:
    class Refusing(Brush):
        def load(self, *place: Any) -> Brush:
            if self.fail_after is None:
                raise UsageError("there is no such device")
            return super().load(*place)

    for brush in (Refusing(), Refusing(fail_after=0)):
        with pytest.raises(LatentcError, match="no such device|the power went out"):
            run(wanted(artifact, "steps=1,2"), tmp_path / "deep" / "grid", brush)
    with pytest.raises(LatentcError, match="is no artifact"):
        run(wanted(None, f"artifact={artifact},{tmp_path / 'nope'}"), tmp_path / "deep" / "grid", Brush())
    assert not (tmp_path / "deep").exists()


def test_a_folder_that_cannot_be_is_refused_before_anything_is_drawn(artifact: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    brush = Brush()
    for out in ("file", "file/grid"):
        with pytest.raises(UsageError, match="is a file, not a folder"):
            run(wanted(artifact, "steps=1"), tmp_path / out, brush)
    assert brush.loaded == []


@pytest.mark.parametrize("damage", [b"", b"\x89PNG\r\n"])
def test_a_damaged_picture_is_drawn_again(artifact: str, tmp_path: Path, damage: bytes) -> None:
    asked, brush = wanted(artifact, "steps=1,2"), Brush()
    cells = run(asked, tmp_path / "grid", Brush())
    (tmp_path / "grid" / cells[0].file).write_bytes(damage)
    run(asked, tmp_path / "grid", brush)
    assert [call["steps"] for call in brush.calls] == [1]


def test_a_picture_without_its_times_is_drawn_again(artifact: str, tmp_path: Path) -> None:
    asked, brush = wanted(artifact, "steps=1"), Brush()
    (cell,) = run(asked, tmp_path / "grid", Brush())
    file = tmp_path / "grid" / cell.file
    with Image.open(file) as picture:
        parameters = json.loads(picture.text["latentc"])  # type: ignore[attr-defined]
        pictures.write(picture, file, {picture_grid.KEY: parameters[picture_grid.KEY]})
    run(asked, tmp_path / "grid", brush)
    assert len(brush.calls) == 1


def test_another_prompt_or_another_artifact_in_the_same_folder_is_drawn_anew(
    artifact: str, tmp_path: Path
) -> None:
    run(wanted(artifact, "steps=1,2"), tmp_path / "grid", Brush())
    other = Brush()
    run(wanted(artifact, "steps=1,2", prompt="b"), tmp_path / "grid", other)
    assert len(other.calls) == 2
    made(tmp_path / "out", created="2027-01-01T00:00:00Z")
    changed = Brush()
    run(wanted(artifact, "steps=1,2"), tmp_path / "grid", changed)
    assert len(changed.calls) == 2


def test_artifacts_are_an_axis_and_are_open_one_at_a_time(artifact: str, tmp_path: Path) -> None:
    made(tmp_path / "other", precision="bf16")
    brush = Brush()
    run(wanted(None, "seed=0,1", f"artifact={artifact},{tmp_path / 'other'}"), tmp_path / "grid", brush)
    assert brush.loaded == [(tmp_path / "other", "auto", "auto"), (Path(artifact), "auto", "auto")]
    assert len(brush.calls) == 4
    with pytest.raises(LatentcError, match="is no artifact"):
        run(wanted(None, "artifact=nothing"), tmp_path / "grid", brush)


def test_a_pipelines_own_parameters_are_passed_on(artifact: str, tmp_path: Path) -> None:
    brush = Brush()
    run(wanted(artifact, "eta=0,0.5", class_labels=[207]), tmp_path / "grid", brush)
    assert [(call["eta"], call["class_labels"]) for call in brush.calls] == [(0, [207]), (0.5, [207])]
    assert "scheduler" not in brush.calls[0]  # What is not given is the pipeline's own.


def test_the_type_that_is_computed_in_is_an_axis_with_a_pipeline_each(artifact: str, tmp_path: Path) -> None:
    brush = Brush()
    cells = run(wanted(artifact, "steps=1,2", "compute=fp32,bf16"), tmp_path / "grid", brush)
    assert brush.loaded == [(Path(artifact), "auto", "bf16"), (Path(artifact), "auto", "fp32")]
    assert len({cell.file for cell in cells}) == 4
    assert all("compute" not in given for given in brush.calls)


def test_an_artifact_of_the_hub_is_fetched(
    artifact: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("artifacts.hub_artifacts.fetch", lambda name, progress: Path(artifact))
    brush = Brush()
    cells = run(wanted("owner/name", "steps=1,2"), tmp_path / "grid", brush)
    assert len(cells) == 2 and brush.loaded == [(Path(artifact), "auto", "auto")]
