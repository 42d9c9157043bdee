"""The report's page and its Markdown, of benches that are made up."""

from __future__ import annotations

import base64
import io
import math
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from bench.interleaved_run import Outcome
from bench.picture_metrics import Shot
from bench.record import Bench, Picture
from bench.report import html, markdown, plots, tables
from tests.bench.benches import made, variant

VOID = {"meta", "link", "img", "br", "input", "path", "use"}


class Page(HTMLParser):
    """What a page holds, and whether its elements are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [str(value) for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def outcome(name: str = "out", side: int = 16, psnr: float = 40.0) -> Outcome:
    """Two pictures of a reference and of a variant that is off by five levels in one pixel."""
    rng = np.random.default_rng(0)
    theirs = [rng.integers(0, 200, (side, side, 3), np.uint8) for _ in range(2)]
    ours = [image.copy() for image in theirs]
    for image in ours:
        image[3, 4, 0] += 5
    shots = {
        "PyTorch fp32": tuple(Shot(i, 0, image, None) for i, image in enumerate(theirs)),
        name: tuple(Shot(i, 0, image, None) for i, image in enumerate(ours)),
    }
    pictures = tuple(Picture(prompt=i, seed=0, seconds=1.0, step_ms=1.0, psnr=psnr) for i in range(2))
    bench = made(variant(name, psnr=psnr, pictures=pictures))
    first = bench.variants[0].model_copy(
        update={"pictures": tuple(p.model_copy(update={"psnr": None}) for p in pictures)}
    )
    return Outcome(bench.model_copy(update={"variants": (first, *bench.variants[1:])}), shots)


def decoded(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.partition("base64,")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_the_page_needs_nothing_but_itself() -> None:
    text = html.page(outcome())
    page = Page(text)
    assert page.open == []
    assert page.sources and all(source.startswith(("data:image/", "#")) for source in page.sources)
    assert "url(http" not in text and "@import" not in text and "<link" not in text
    assert not re.search(r'(?:src|href)="https?:', text)


def test_a_card_says_what_a_variant_stores_and_computes_in() -> None:
    about = {"target": "openvino", "precision": "fp16", "compute": "bf16", "device": "cpu"}
    assert [card.about for card in html.cards(made(variant("ours", about=about)))] == [
        "openvino, weights in fp16, reference",
        "openvino, weights in fp16, computes in bf16, on cpu",
    ]


def test_the_pictures_are_there_with_their_enlarged_differences() -> None:
    found = outcome()
    grid = html.grid(found)
    assert grid.names == ("PyTorch fp32", "out") and grid.pixelated
    assert grid.gains == (None, 51.0)  # 255 / 5
    for row, theirs, ours in zip(grid.rows, *found.shots.values(), strict=True):
        assert (decoded(row.cells[0].picture) == theirs.image).all()
        assert (decoded(row.cells[1].picture) == ours.image).all()
        difference = decoded(row.cells[1].difference)
        assert difference[3, 4, 0] == 255 and difference.sum() == 255
        assert row.cells[0].difference == "" and row.cells[1].caption == "40.0 dB"


def test_large_pictures_are_webp() -> None:
    assert html.uri(np.zeros((512, 8, 3), np.uint8)).startswith("data:image/webp")


def test_equal_pictures_have_no_difference_and_infinite_psnr() -> None:
    found = outcome(psnr=math.inf)
    shots = dict.fromkeys(found.shots, found.shots["PyTorch fp32"])
    text = html.page(Outcome(found.bench, shots))
    assert html.grid(Outcome(found.bench, shots)).gains == (None, None)
    assert "equal" in text and "∞" in text


def test_names_and_prompts_are_text_and_never_markup() -> None:
    evil = "<script>alert(1)</script>|$x^2$"
    found = outcome(evil)
    text = html.page(found)
    assert "<script" not in text
    assert any("<script>alert(1)</script>" in part for part in Page(text).text)
    assert "<script" not in markdown.page(found.bench)


def test_the_worst_picture_is_always_shown() -> None:
    pictures = tuple(
        Picture(prompt=i % 2, seed=i // 2, seconds=1.0, step_ms=None, psnr=20.0 if i == 37 else 40.0)
        for i in range(40)
    )
    bench = made(variant(pictures=pictures))
    assert html.chosen(bench, 40) == (0, 1, 37)
    many = bench.model_copy(
        update={"settings": bench.settings.model_copy(update={"prompts": tuple("abcdefghijklmnop")})}
    )
    shown = html.chosen(many, 40)
    assert len(shown) == html.ROWS and 37 in shown


@pytest.mark.parametrize("name", ["pareto", "sizes", "components", "starts", "curves"])
def test_plots_are_svg_with_every_variants_name(name: str) -> None:
    bench = made(variant("an $odd^ name"), variant("other", psnr=math.inf))
    draw = {
        "pareto": lambda: plots.pareto(bench, latency=True),
        "sizes": lambda: plots.pareto(bench, latency=False),
        "components": lambda: plots.components(bench),
        "starts": lambda: plots.starts(bench),
        "curves": lambda: plots.curves(bench),
    }[name]
    text = draw()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert "an $odd^ name" in text and "other" in text
    assert draw() == text  # The same figures make the same bytes.


def test_a_bench_without_a_reference_has_no_plots_of_quality() -> None:
    bare = variant()
    assert bare.quality is not None
    gone = {name: getattr(bare.quality, name).model_copy(update={"value": None}) for name in ("psnr", "ssim")}
    quality = bare.quality.model_copy(update={**gone, "latent_curve": ()})
    bench = made(bare.model_copy(update={"quality": quality}), reference=None)
    assert plots.pareto(bench, latency=True) == "" and plots.curves(bench) == ""
    assert "Quality and speed" not in html.page(Outcome(bench, {}))


def test_a_failed_variant_is_a_row_with_its_error() -> None:
    failed = variant(
        "peer", kind="peer", speed=None, quality=None, cold=None, warm=None, pictures=(), error="was killed"
    )
    bench: Bench = made(variant(), failed)
    assert "was killed" in html.page(Outcome(bench, {}))
    assert "- peer failed: was killed" in markdown.page(bench)


def test_markdown_has_a_line_for_each_variant_and_the_command() -> None:
    text = markdown.page(made(variant()))
    (line,) = [line for line in text.splitlines() if line.startswith("| out ") and "40.00" in line]
    assert "40.00 (39.00-41.00)" in line and "38.00" in line
    assert "Again: `latentc bench out`" in text
    assert "Not measured: lpips, clip_score, fid: its weights are not on disk." in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) <= 2


def test_columns_without_figures_are_left_out() -> None:
    heads = {column.head for column in tables.used(tables.QUALITY, made(variant()))}
    assert "PSNR dB" in heads and not heads & {"LPIPS", "CLIP", "FID"}


def test_processes_that_did_not_fit_together_are_noted() -> None:
    apart = made(variant()).model_copy(update={"reopened": 7})
    assert "ended, and started again with a picture that is not counted, 7 times" in tables.notes(apart)[0]


def test_what_was_measured_in_another_way_is_noted() -> None:
    found = variant()
    assert found.quality is not None
    odd = found.quality.ms_ssim.model_copy(update={"reason": "over 3 scales"})
    quality = found.quality.model_copy(update={"ms_ssim": odd})
    notes = tables.notes(made(found.model_copy(update={"quality": quality})))
    assert notes[0] == "ms_ssim: over 3 scales."
