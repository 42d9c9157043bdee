"""The demo's table and strip, and its run with a compiler and a bench that are made up."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

import bench.bench_request
import compiler.build
from bench.interleaved_run import Outcome
from bench.picture_metrics import Shot
from bench.project import demo
from bench.project.demo import PROMPTS
from bench.record import Measured
from tests.bench.benches import made, variant


def picture(red: int = 0) -> Image.Image:
    return Image.new("RGB", (4, 4), (red, 0, 0))


def against(worst: float, equal: float, **changes: object):
    """A variant whose pictures are as near as that."""
    found = variant(**changes)
    quality = found.quality.model_copy(
        update={"psnr": Measured(value=worst, worst=worst), "equal": Measured(value=equal)}
    )
    return found.model_copy(update={"quality": quality, "pictures": found.pictures * 4})


def test_the_table_has_a_line_for_each():
    found = made(against(59.75, 0.25, name="ov", bytes=14_300_000), against(math.inf, 1.0, name="ort"))
    lines = demo.table(found).splitlines()
    assert lines[3] == "| ov | 14.3 MB | 2.00 | 59.8 dB | 1 of 4 |"
    assert lines[4] == "| ort | 0.0 MB | 2.00 | inf dB | 4 of 4 |"


def test_the_strip_shows_every_picture():
    rows = {"PyTorch fp32": (picture(10),) * len(PROMPTS), "ov": (picture(200),) * len(PROMPTS)}
    sheet = demo.strip(rows, scale=2)
    colours = {colour for _, colour in sheet.getcolors(100_000)}
    assert {(10, 0, 0), (200, 0, 0), (255, 255, 255)} <= colours
    areas = {colour: count for count, colour in sheet.getcolors(100_000)}
    assert areas[(10, 0, 0)] == areas[(200, 0, 0)] == len(PROMPTS) * 8 * 8


@pytest.fixture
def made_up(monkeypatch):
    """A compiler that writes nothing, and a bench whose pictures are plain."""
    requests = []

    def run(request, command, progress):
        requests.append(request)
        names = ["PyTorch fp32", *(path.rpartition("/")[2] for path in request.artifacts)]
        shots = {
            name: tuple(
                Shot(i, request.first_seed, np.full((4, 4, 3), 9, np.uint8), None)
                for i in range(len(request.prompts))
            )
            for name in names
        }
        return Outcome(made(*(variant(name) for name in names[1:])), shots)

    monkeypatch.setattr(
        compiler.build, "compile", lambda request, progress, compile_cache: requests.append(request)
    )
    monkeypatch.setattr(bench.bench_request, "bench", run)
    return requests


def test_every_target_is_compiled_drawn_and_shown(made_up, tmp_path, capsys):
    assert demo.main(["--out", str(tmp_path / "demo"), "--precision", "fp32"]) == 0
    *compiles, wanted = made_up
    assert [(r.target, r.precision, r.model) for r in compiles] == [
        ("openvino", "fp32", "shapes"),
        ("onnxruntime", "fp32", "shapes"),
    ]
    assert wanted.artifacts == tuple(str(r.out) for r in compiles)
    assert (wanted.reference, wanted.prompts, wanted.first_seed) == ("shapes", PROMPTS, demo.SEED)
    assert capsys.readouterr().out.count("| 38.0 dB |") >= 2
    names = {path.name for path in (tmp_path / "demo").glob("*.png")}
    assert {"demo.png", "pytorch-0.png", "openvino-fp32-4.png", "onnxruntime-fp32-2.png"} <= names


def test_the_docs_picture_is_written_only_when_asked(made_up, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "STRIP", demo.ROOT / "docs" / "images" / "never.png")
    demo.main(["--out", str(tmp_path / "demo"), "--target", "openvino"])
    assert not demo.STRIP.exists()
    monkeypatch.setattr(demo, "STRIP", tmp_path / "docs" / "demo.png")
    monkeypatch.setattr(demo, "ROOT", tmp_path)
    demo.main(["--out", str(tmp_path / "demo"), "--target", "openvino", "--update-docs"])
    assert Image.open(tmp_path / "docs" / "demo.png").size[0] > 0
