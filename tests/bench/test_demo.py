"""The demo's table and strip, and its run with a compiler and pipelines that are made up."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from PIL import Image

from bench import demo
from bench.demo import PROMPTS, Row


def picture(red: int = 0) -> Image.Image:
    return Image.new("RGB", (4, 4), (red, 0, 0))


def row(name: str, red: int = 0, psnr: tuple[float, ...] = ()) -> Row:
    return Row(name, 14_300_000, (1.0, 3.0, 2.0), psnr, (picture(red),) * len(PROMPTS))


def test_the_table_has_a_line_for_each_and_no_psnr_for_pytorch():
    lines = demo.table([row("PyTorch fp32"), row("openvino fp16", psnr=(61.25, 59.75))]).splitlines()
    assert lines[2] == "| PyTorch fp32 | 14.3 MB | 2.00 | - | - |"
    assert lines[3] == "| openvino fp16 | 14.3 MB | 2.00 | 59.8 dB | 0 of 2 |"


def test_the_strip_shows_every_picture():
    sheet = demo.strip([row("PyTorch fp32", 10), row("openvino fp16", 200)], scale=2)
    colours = {colour for _, colour in sheet.getcolors(100_000)}
    assert {(10, 0, 0), (200, 0, 0), (255, 255, 255)} <= colours
    areas = {colour: count for count, colour in sheet.getcolors(100_000)}
    assert areas[(10, 0, 0)] == areas[(200, 0, 0)] == len(PROMPTS) * 8 * 8


def test_the_first_picture_of_an_engine_is_drawn_once_before(monkeypatch):
    drawn = []
    pictures, seconds = demo.timed(lambda prompt: drawn.append(prompt) or picture())
    assert drawn == [PROMPTS[0], *PROMPTS]
    assert len(pictures) == len(seconds) == len(PROMPTS)


@pytest.fixture
def made_up(monkeypatch):
    """A compiler that writes nothing, and pipelines whose pictures are off by one level in red."""
    import compiler.build
    import runtimes.pipeline

    requests = []

    class Pipeline:
        def __enter__(self):
            return self

        def __exit__(self, *exc):
            pass

        def generate(self, prompt, **given):
            assert given == {"seed": demo.SEED, "steps": demo.STEPS, "guidance": demo.GUIDANCE}
            return SimpleNamespace(images=(picture(101),))

    def compile(request, progress):
        requests.append(request)
        return SimpleNamespace(
            root=request.out, manifest=SimpleNamespace(files=(SimpleNamespace(size=5_000_000),))
        )

    monkeypatch.setattr(compiler.build, "compile", compile)
    monkeypatch.setattr(runtimes.pipeline, "load", lambda path: Pipeline())
    monkeypatch.setattr(demo, "pytorch", lambda model: row("PyTorch fp32", 100))
    return requests


def test_every_target_is_compiled_drawn_and_shown(made_up, tmp_path, capsys):
    assert demo.main(["--out", str(tmp_path / "demo"), "--precision", "fp32"]) == 0
    assert [(r.target, r.precision, r.model) for r in made_up] == [
        ("openvino", "fp32", "shapes"),
        ("onnxruntime", "fp32", "shapes"),
    ]
    out = capsys.readouterr().out
    # One level in one of three channels: 10 log10(255^2 * 3).
    assert out.count("| 52.9 dB | 0 of 5 |") == 2
    names = {path.name for path in (tmp_path / "demo").glob("*.png")}
    assert {"demo.png", "pytorch-0.png", "openvino-4.png", "onnxruntime-2.png"} <= names


def test_the_docs_picture_is_written_only_when_asked(made_up, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "STRIP", demo.ROOT / "docs" / "images" / "never.png")
    demo.main(["--out", str(tmp_path / "demo"), "--target", "openvino"])
    assert not demo.STRIP.exists()
    monkeypatch.setattr(demo, "STRIP", tmp_path / "docs" / "demo.png")
    monkeypatch.setattr(demo, "ROOT", tmp_path)
    demo.main(["--out", str(tmp_path / "demo"), "--target", "openvino", "--update-docs"])
    assert Image.open(tmp_path / "docs" / "demo.png").size[0] > 0
