"""The table of the trained adapters: what it holds artifacts to, what it keeps, and how it reads."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

from artifacts.errors import LatentcError
from bench.project import adapter_evidence as adapters
from bench.project.adapter_evidence import WITH, WITHOUT, Drawings, Row, failures, table
from bench.project.reference import trained_adapters
from bench.project.reference.adapter_pictures import Settings
from bench.project.reference.trained_adapters import ADAPTERS
from bench.reference.shape_scenes import IDEAL

OWN = Row("gray", WITH, "fp32", 0.98, 0.95)
GOOD = replace(OWN, by="openvino", weights="int8")


def test_within_two_points_is_good_and_better_is_no_failure():
    without = replace(OWN, by=WITHOUT, own=0.0)
    assert failures([without, OWN, replace(GOOD, own=0.96, accuracy=0.93), replace(GOOD, own=1.0)]) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"own": 0.95}, "gray, openvino, int8: does what it says 95.0%, PyTorch 98.0%"),
        ({"accuracy": 0.92}, "gray, openvino, int8: attributes 92.0%, PyTorch 95.0%"),
        ({"own": float("nan")}, "gray, openvino, int8: does what it says nan%, PyTorch 98.0%"),
    ],
)
def test_what_fails_is_named(change, said):
    assert failures([OWN, replace(GOOD, **change)]) == [said]


def test_the_table_has_a_line_for_each_means_in_order():
    rows = [GOOD, replace(GOOD, weights="fp16"), OWN, replace(OWN, by=WITHOUT, own=0.0)]
    assert table(rows).splitlines()[2:] == [
        "| gray | PyTorch without it | 0% / 95.0% |  |  |  |",
        "| gray | PyTorch | 98% / 95.0% |  |  |  |",
        "| gray | openvino |  | 98% / 95.0% | 98% / 95.0% |  |",
    ]


def test_what_is_drawn_is_kept_until_something_changes(tmp_path, monkeypatch):
    adapter = ADAPTERS[1]
    monkeypatch.setattr(trained_adapters, "ADAPTERS_DIR", tmp_path)
    adapter.path.write_bytes(b"weights")
    calls = []

    def make(requests):
        calls.append(len(requests))
        return [adapter.draw(request.caption, IDEAL) for request in requests]

    def add(prompts, steps=10):
        drawings = Drawings(tmp_path, prompts, Settings(steps))
        drawings.add(adapter, "openvino, switched", "int8", make)
        return drawings

    for prompts, steps in ((7, 10), (7, 10), (8, 10), (8, 12)):
        drawings = add(prompts, steps)
        assert drawings.rows == [Row(adapter.name, "openvino, switched", "int8", 1.0, 1.0)]
        (pictures,) = drawings.pictures.values()
        assert [picture.size for picture in pictures] == [(64, 64)] * adapters.SHOWN
    assert calls == [7, 8, 8]


def test_the_page_gets_table_and_sheet(tmp_path, monkeypatch, capsys):
    page, sheet = tmp_path / "adapters.md", tmp_path / "sheet.png"
    page.write_text(f"before\n{adapters.BEGIN}\nold\n{adapters.END}\nafter\n")
    monkeypatch.setattr(adapters, "PAGE", page)
    monkeypatch.setattr(adapters, "SHEET", sheet)
    shares = {"fp32": 0.98, "int4": 0.9}

    def measure(drawings, chosen, targets, weights, ways):
        for adapter in chosen:
            for by, kind in ((WITHOUT, "fp32"), (WITH, "fp32"), ("onnxruntime", "int4")):
                drawings.rows.append(Row(adapter.name, by, kind, shares[kind], 0.95))
                picture = Image.new("RGB", (64, 64), "red")
                drawings.pictures[adapter.name, by, kind] = (picture,) * adapters.SHOWN

    monkeypatch.setattr(adapters, "measure", measure)
    assert adapters.main(["--update-docs"]) == 1
    assert capsys.readouterr().err.count("FAILS: ") == len(ADAPTERS)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "100 prompts each, 10 steps, guidance 3" in text and "| edges | onnxruntime |" in text
    # Three lines of each adapter, one of the edges.
    assert Image.open(sheet).height == 8 + (3 * len(ADAPTERS) + 1) * (64 + 8)
    shares["int4"] = 0.97
    assert adapters.main(["--adapter", "gray"]) == 0


def test_an_adapter_that_is_not_there_is_named(tmp_path):
    missing = replace(ADAPTERS[0], file="nothing.safetensors")
    with pytest.raises(LatentcError, match="'outline' is not trained") as caught:
        Drawings(tmp_path, 5, Settings()).add(missing, WITH, "fp32", lambda requests: [])
    assert "train_adapters --adapter outline" in caught.value.hint
