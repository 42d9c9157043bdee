"""The report's plots, as SVG that stands in the page itself."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.record import Bench, Variant

GRAY = "#64748b"
COLOURS = ("#2563eb", "#ea580c", "#16a34a", "#9333ea", "#0891b2", "#dc2626", "#ca8a04", "#db2777")
PARTS = ("#1d4ed8", "#60a5fa", "#0d9488", "#f59e0b", "#a855f7", "#ef4444", "#84cc16")
REST = "#cbd5e1"
TOP_DB = 100.0
"""Where a PSNR of infinity (equal pictures) is drawn."""

STYLE: Mapping[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # Names of folders are no formulas.
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#94a3b8",
    "axes.labelcolor": "#334155",
    "xtick.color": "#475569",
    "ytick.color": "#475569",
    "axes.grid": True,
    "grid.color": "#e2e8f0",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def colours(bench: Bench) -> dict[str, str]:
    """A colour for each variant; the reference is gray."""
    others = [v.name for v in bench.variants if v.name != bench.reference]
    palette = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(others)}
    return palette | ({bench.reference: GRAY} if bench.reference else {})


def pareto(bench: Bench, latency: bool) -> str:
    """PSNR against milliseconds a step (or megabytes on disk); empty when there is no PSNR."""
    shown = [v for v in bench.variants if v.quality and v.speed and v.quality.psnr.value is not None]
    if not shown:
        return ""
    paint = colours(bench)
    base = next((v for v in bench.variants if v.name == bench.reference and v.speed), None)
    across = _step if latency else (lambda v: v.bytes / 1e6)

    def plot(axes: Any) -> None:
        names = []
        for v in shown:
            assert v.quality is not None
            psnr = v.quality.psnr
            assert psnr.value is not None
            x, y = across(v), _clip(psnr.value)
            if psnr.low is not None and psnr.high is not None:
                low, high = _clip(psnr.low), _clip(psnr.high)
                axes.plot([x, x], [low, high], color=paint[v.name], alpha=0.45, linewidth=2)
            if latency and v.speed and v.speed.step_ms:
                own = v.speed.step_ms
                axes.plot([own.low, own.high], [y, y], color=paint[v.name], alpha=0.45, linewidth=2)
            axes.scatter([x], [y], s=70, color=paint[v.name], zorder=3, edgecolor="white")
            infinite = math.isinf(psnr.value)
            names.append((v.name + (" (equal)" if infinite else ""), x, y, paint[v.name]))
        if base is not None:
            axes.axvline(across(base), color=GRAY, linestyle="--", linewidth=1)
            axes.annotate(
                base.name,
                (across(base), 0.02),
                xycoords=("data", "axes fraction"),
                xytext=(-5, 0),
                textcoords="offset points",
                ha="right",
                color=GRAY,
            )
        most = max([across(v) for v in shown] + ([across(base)] if base else []))
        axes.set_xlim(0, most * 1.25)
        values = [
            _clip(v.quality.psnr.value) for v in shown if v.quality and v.quality.psnr.value is not None
        ]
        axes.set_ylim(max(0, min(values) - 12), max(values) + 8)
        axes.set_xlabel(
            "milliseconds a step  (left is faster)" if latency else "MB on disk  (left is smaller)"
        )
        axes.set_ylabel("PSNR to the reference, dB")
        _label(axes, names, (9, 6))

    return _svg(f"pareto-{latency}", plot, 5.6, 3.5)


def components(bench: Bench) -> str:
    """Milliseconds of one picture, by component; empty when nothing was timed."""
    shown = [v for v in bench.variants if v.speed and v.speed.components]
    if not shown:
        return ""
    names = list(dict.fromkeys(name for v in shown if v.speed for name in v.speed.components))
    cost = {name: max(_total(v, name) for v in shown) for name in names}
    names.sort(key=lambda name: -cost[name])
    paint = {name: PARTS[i] if i < len(PARTS) else REST for i, name in enumerate(names)}

    def plot(axes: Any) -> None:
        for y, v in enumerate(shown):
            assert v.speed is not None
            left = 0.0
            for name in names:
                width = _total(v, name)
                axes.barh(y, width, left=left, color=paint[name], height=0.6, label=name if y == 0 else None)
                left += width
            rest = max(0.0, v.speed.image_s.median * 1000 - left)
            axes.barh(
                y, rest, left=left, color=REST, height=0.6, label="the pipeline's own" if y == 0 else None
            )
            _beside(axes, left + rest, y, f"{left + rest:.4g}")
        axes.set_yticks(range(len(shown)), [v.name for v in shown])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.12)
        axes.set_xlabel("milliseconds of one picture")
        axes.legend(loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=4, fontsize=9)

    return _svg("components", plot, 11.4, 0.9 + 0.45 * len(shown))


def starts(bench: Bench) -> str:
    """Peak memory of a fresh process, of no file and of files, and seconds to load; empty without starts."""
    shown = [v for v in bench.variants if v.cold and v.cold.memory.anonymous is not None]
    if not shown:
        return ""
    paint = colours(bench)

    def plot(axes: Any) -> None:
        for y, v in enumerate(shown):
            assert v.cold is not None
            memory = v.cold.memory
            anonymous, files = (memory.anonymous or 0) / 1e6, (memory.file_backed or 0) / 1e6
            axes.barh(y - 0.18, anonymous, color=paint[v.name], height=0.32)
            axes.barh(y + 0.18, files, color=paint[v.name], alpha=0.4, height=0.32)
            _beside(axes, anonymous, y - 0.18, f"{anonymous:.0f} anonymous")
            _beside(axes, files, y + 0.18, f"{files:.0f} of files")
        axes.set_yticks(range(len(shown)), [v.name for v in shown])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.3)
        axes.set_xlabel("peak MB of a fresh process")

    return _svg("starts", plot, 5.6, 0.9 + 0.62 * len(shown))


def curves(bench: Bench) -> str:
    """The latents' relative error after each step; empty where no latents were compared."""
    shown = [v for v in bench.variants if v.quality and any(c for c in v.quality.latent_curve)]
    if not shown:
        return ""
    paint = colours(bench)

    def plot(axes: Any) -> None:
        names = []
        for v in shown:
            assert v.quality is not None
            points = [(i + 1, c) for i, c in enumerate(v.quality.latent_curve) if c]
            axes.plot(
                *zip(*points, strict=True), color=paint[v.name], linewidth=2, marker="o", markersize=3.5
            )
            names.append((v.name, *points[-1], paint[v.name]))
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0e}")
        steps = max(len(v.quality.latent_curve) for v in shown if v.quality)
        axes.set_xlim(0.6, steps * 1.3 + 0.5)
        axes.set_xticks(range(1, steps + 1, max(1, steps // 10)))
        axes.set_xlabel("step")
        axes.set_ylabel("relative error of the latents, median")
        _label(axes, names, (6, -3))

    return _svg("curves", plot, 5.6, 3.5)


def _label(axes: Any, names: Sequence[tuple[str, float, float, str]], offset: tuple[float, float]) -> None:
    """Names beside their points, moved down where they would lie on one another. Limits must be set before.

    Args:
        names: text, x, y, colour. offset: from the point, in points.
    """
    line, reach = 13.0, 90.0
    points_per_pixel = 72 / axes.figure.dpi
    placed: list[tuple[float, float]] = []
    for text, x, y, colour in sorted(names, key=lambda point: -point[2]):
        left, top = (float(part) * points_per_pixel for part in axes.transData.transform((x, y)))
        down = 0.0
        while any(abs(left - a) < reach and abs(top - down - b) < line for a, b in placed):
            down += 1.0
        placed.append((left, top - down))
        axes.annotate(
            text, (x, y), xytext=(offset[0], offset[1] - down), textcoords="offset points", color=colour
        )


def _beside(axes: Any, x: float, y: float, text: str) -> None:
    """Text to the right of a bar's end."""
    axes.annotate(
        text, (x, y), xytext=(5, 0), textcoords="offset points", va="center", color="#334155", fontsize=9
    )


def _step(variant: Variant) -> float:
    """Milliseconds a step, or of a picture where steps are not told."""
    assert variant.speed is not None
    spread = variant.speed.step_ms
    return spread.median if spread else variant.speed.image_s.median * 1000


def _total(variant: Variant, name: str) -> float:
    assert variant.speed is not None
    component = variant.speed.components.get(name)
    return component.calls * component.ms.median if component else 0.0


def _clip(value: float) -> float:
    return TOP_DB if math.isinf(value) else value


def _svg(name: str, plot: Callable[[Any], None], width: float, height: float) -> str:
    """The SVG element that `plot` draws, `width` by `height` inches."""
    import matplotlib
    from matplotlib.figure import Figure

    # The salt keeps the ids of several plots in one page apart, and the same from run to run.
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout="constrained")
        plot(figure.add_subplot())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    # The page sets the size; what the figure is must be said to who does not see it.
    return re.sub(r'<svg ([^>]*?)width="[^"]*" ', r'<svg \1role="img" ', text, count=1).replace(
        'height="', 'data-height="', 1
    )
