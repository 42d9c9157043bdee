"""The report as one HTML file: styles, plots and pictures are in it, and nothing is fetched."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from artifacts.units import size
from bench.interleaved_run import Outcome
from bench.picture_metrics import Shot
from bench.record import Bench, Variant
from bench.report import plots, tables
from runtimes.clips import some

TEMPLATE = "template.html"
ABOUT = {"precision": "weights in {}", "compute": "computes in {}", "device": "on {}"}
"""What `Variant.about` says, in words."""
ROWS = 8
"""Prompts in the picture grid."""
SMALL = 256
"""Pictures of at most this side are embedded without loss."""


@dataclass(frozen=True)
class Cell:
    """One picture of the grid: data URIs of it and of its difference to the reference (or "")."""

    picture: str
    difference: str
    caption: str


@dataclass(frozen=True)
class Row:
    """One prompt and seed; a cell for each variant, in the order of `Grid.names`."""

    prompt: str
    seed: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Grid:
    """The pictures of the page. gains: how much each variant's differences are enlarged."""

    names: tuple[str, ...]
    gains: tuple[float | None, ...]
    rows: tuple[Row, ...]
    pixelated: bool


@dataclass(frozen=True)
class Card:
    """A variant's figures at the top of the page."""

    name: str
    colour: str
    about: str
    figures: tuple[tuple[str, str], ...]


def page(outcome: Outcome) -> str:
    """The whole page."""
    import jinja2

    folder = Path(__file__).resolve().parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    bench = outcome.bench
    return environment.get_template(TEMPLATE).render(
        bench=bench,
        colours=plots.colours(bench),
        cards=cards(bench),
        speed=tables.used(tables.SPEED, bench),
        quality=tables.used(tables.QUALITY, bench),
        notes=tables.notes(bench),
        drawn=tables.counts(bench),
        environment=tables.environment(bench),
        command=tables.command(bench),
        grid=grid(outcome),
        latency=plots.pareto(bench, latency=True),
        sizes=plots.pareto(bench, latency=False),
        components=plots.components(bench),
        starts=plots.starts(bench),
        curves=plots.curves(bench),
    )


def cards(bench: Bench) -> tuple[Card, ...]:
    """One for each variant that was measured."""
    paint = plots.colours(bench)
    shown = []
    for variant in bench.variants:
        if variant.speed is None:
            continue
        about = ", ".join(
            [
                *(ABOUT.get(key, "{}").format(value) for key, value in variant.about.items()),
                *(["reference"] if variant.name == bench.reference else []),
            ]
        )
        shown.append(Card(variant.name, paint[variant.name], about, _figures(variant)))
    return tuple(shown)


def _figures(variant: Variant) -> tuple[tuple[str, str], ...]:
    assert variant.speed is not None
    figures = []
    ratio = variant.speed.step_ratio
    if ratio is not None and ratio.value:
        figures.append((f"{1 / ratio.value:.2f}", "times as fast a step"))
    elif variant.speed.step_ms is not None:
        figures.append((f"{variant.speed.step_ms.median:.4g}", "ms a step"))
    if variant.quality is not None and variant.quality.psnr.value is not None:
        psnr = variant.quality.psnr.value
        figures.append(("∞" if math.isinf(psnr) else f"{psnr:.1f}", "dB PSNR"))
    figures.append((size(variant.bytes), "on disk"))
    if variant.cold is not None:
        figures.append((size(variant.cold.memory.total), "peak memory"))
    return tuple(figures)


def grid(outcome: Outcome) -> Grid:
    """Up to `ROWS` pictures of every variant, the worst among them."""
    bench = outcome.bench
    names = tuple(v.name for v in bench.variants if v.name in outcome.shots)
    if not names:
        return Grid((), (), (), False)
    theirs = outcome.shots.get(bench.reference) if bench.reference else None
    rows = chosen(bench, len(outcome.shots[names[0]]))
    gains = tuple(_gain(outcome.shots[name], theirs) if name != bench.reference else None for name in names)
    psnr = {v.name: [p.psnr for p in v.pictures] for v in bench.variants}
    shown = []
    for i in rows:
        first = outcome.shots[names[0]][i]
        cells = tuple(
            _cell(outcome.shots[name][i], theirs[i] if theirs and gain else None, gain, psnr[name][i])
            for name, gain in zip(names, gains, strict=True)
        )
        shown.append(Row(bench.settings.prompts[first.prompt], first.seed, cells))
    side = max(outcome.shots[names[0]][0].image.shape[-3:-1])
    return Grid(names, gains, tuple(shown), pixelated=side <= SMALL)


def chosen(bench: Bench, count: int) -> tuple[int, ...]:
    """Indexes of the pictures that are shown: those of the first seed, with the one that is furthest off."""
    first = [i for i in range(count) if i < len(bench.settings.prompts)]
    indexes = first[:ROWS]
    off = [
        (picture.psnr, i)
        for variant in bench.variants
        for i, picture in enumerate(variant.pictures)
        if picture.psnr is not None
    ]
    if off and min(off)[1] not in indexes:
        indexes = [*indexes[: ROWS - 1], min(off)[1]]
    return tuple(indexes)


def _gain(ours: Sequence[Shot], theirs: Sequence[Shot] | None) -> float | None:
    """What makes a variant's largest difference as bright as can be; None where there is none to show."""
    if theirs is None or any(a.image.shape != b.image.shape for a, b in zip(ours, theirs, strict=True)):
        return None
    most = max(int(np.abs(_wide(a) - _wide(b)).max()) for a, b in zip(ours, theirs, strict=True))
    return 255 / most if most else None


def _wide(shot: Shot) -> np.ndarray:
    return shot.image.astype(np.int16)


def _cell(ours: Shot, theirs: Shot | None, gain: float | None, psnr: float | None) -> Cell:
    caption = "" if psnr is None else "equal" if math.isinf(psnr) else f"{psnr:.1f} dB"
    difference = ""
    if theirs is not None and gain is not None:
        off = np.abs(_wide(ours) - _wide(theirs)) * gain
        difference = uri(np.clip(off, 0, 255).astype(np.uint8))
    return Cell(uri(ours.image), difference, caption)


def uri(image: np.ndarray) -> str:
    """A picture as a data URI: PNG, or WebP where it is large. Of a video, some of its frames in a row."""
    from PIL import Image

    if image.ndim == 4:
        image = np.concatenate(list(image[some(len(image))]), axis=1)
    file = io.BytesIO()
    picture = Image.fromarray(image)
    if max(image.shape[:2]) <= SMALL:
        picture.save(file, "PNG", optimize=True)
        kind = "png"
    else:
        picture.save(file, "WEBP", quality=90)
        kind = "webp"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
