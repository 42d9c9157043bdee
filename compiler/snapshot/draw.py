"""A graph as a picture (SVG): its modules side by side in the order in which they run, as wide as they are costly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from compiler.snapshot.prints import Cost, GraphPrint, ModulePrint
from compiler.snapshot.tree import Branch, tree

WIDTH = 1280
_MARGIN = 32
_ROW = 30
_GAP = 1.5
_DEEPEST = 6
_LETTER = 6.4  # width of one at 11.5 px

_INK, _PALE, _PAPER, _GROUP = "#1c2733", "#66727f", "#fbfaf7", "#e6e3dc"

KINDS: dict[str, str] = {
    # What a module's own nodes mainly are -> its colour.
    "attention": "#d1495b",
    "linear": "#2e7da8",
    "convolution": "#3d9970",
    "norm": "#c9a227",
    "other": "#a9a59b",
}

_NORMS = (
    "LayerNormalization",
    "GroupNormalization",
    "InstanceNormalization",
    "RMSNormalization",
    "BatchNorm",
)


@dataclass(frozen=True)
class _Box:
    x: float
    width: float
    level: int
    label: str
    colour: str
    title: str


def svg(graph: GraphPrint) -> str:
    """The picture, a file of its own that reads no other.

    Three rows: FLOPs, with modules down to six levels, and below them parameters and bytes written by the outermost
    modules alone.
    """
    root = tree(graph)
    boxes = list(_boxes(root, lambda cost: cost.flops, _DEEPEST))
    levels = max((box.level for box in boxes), default=0) + 1
    top = 150
    parts = [_band(boxes, top, "FLOPs", _big(graph.cost.flops, "FLOP"))]
    at = top + levels * _ROW + 44
    measures: Sequence[tuple[str, str, Callable[[Cost], int]]] = (
        ("Parameters", _big(graph.cost.parameters, ""), lambda cost: cost.parameters),
        ("Bytes written", _big(graph.cost.bytes, "B"), lambda cost: cost.bytes),
    )
    for name, total, measure in measures:
        parts.append(_band(list(_boxes(root, measure, 1)), at, name, total, first=1))
        at += _ROW + 44
    height = at + 14
    return "\n".join([_head(graph, height), *parts, _legend(height - 22), "</svg>"]) + "\n"


def _boxes(root: Branch, measure: Callable[[Cost], int], depth: int) -> Iterator[_Box]:
    total = measure(root.cost)
    if total:
        yield from _inside(root, measure, _MARGIN, (WIDTH - 2 * _MARGIN) / total, 0, depth)


def _inside(
    branch: Branch, measure: Callable[[Cost], int], x: float, scale: float, level: int, depth: int
) -> Iterator[_Box]:
    width = measure(branch.cost) * scale
    if width < 0.4:
        return
    leaf = not branch.inner or level == depth
    kind = _kind(branch.own) if branch.own is not None and not branch.inner else None
    colour = KINDS[kind] if kind else _mixed(branch) if leaf else _GROUP
    yield _Box(x, width, level, branch.label, colour, _title(branch))
    if leaf:
        return
    own = 0 if branch.own is None else measure(branch.own.cost)
    if own and branch.own is not None:
        # What a module computes beside those inside of it, as attention between its projections.
        name = _kind(branch.own)
        part = Branch(branch.path, name, branch.own, cost=branch.own.cost, ops=_types(branch.own))
        yield _Box(x, own * scale, level + 1, name, KINDS[name], _title(part))
        x += own * scale
    for child in branch.inner:
        yield from _inside(child, measure, x, scale, level + 1, depth)
        x += measure(child.cost) * scale


def _types(module: ModulePrint) -> dict[str, int]:
    found: dict[str, int] = {}
    for text, count in module.ops.items():
        name = text.partition(" ")[0]
        found[name] = found.get(name, 0) + count
    return found


def _kind(module: ModulePrint) -> str:
    types = _types(module)
    if "attention" in module.patterns:
        return "attention"
    if "Conv" in types or "ConvTranspose" in types:
        return "convolution"
    if "MatMul" in types or "Gemm" in types or "Einsum" in types:
        return "linear"
    if any(name.startswith(_NORMS) for name in types) or "RMS norm" in module.patterns:
        return "norm"
    return "other"


def _mixed(branch: Branch) -> str:
    """The colour of what costs most in a module that is drawn as one."""
    costs = dict.fromkeys(reversed(KINDS), 0)
    for _, inner in branch.walk(99):
        if inner.own is not None:
            costs[_kind(inner.own)] += inner.own.cost.flops
    return KINDS[max(costs, key=costs.__getitem__)]


def _title(branch: Branch) -> str:
    ops = sorted(branch.ops.items(), key=lambda item: (-item[1], item[0]))[:6]
    cost = branch.cost
    return "\n".join(
        (
            branch.path or branch.label,
            f"{_big(cost.flops, 'FLOP')}, {_big(cost.parameters, 'parameters')}, {_big(cost.bytes, 'B')} written",
            ", ".join(f"{count} {name}" for name, count in ops),
        )
    )


def _big(value: float, unit: str) -> str:
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return (
                f"{value / size:.3g} {prefix}{unit}"
                if len(unit) < 5
                else f"{value / size:.3g} {prefix} {unit}"
            )
    return f"{value:.0f} {unit}".strip()


def _head(graph: GraphPrint, height: float) -> str:
    sizes = ", ".join(f"{name} {size}" for name, size in sorted(graph.sizes.items()))
    patterns = ", ".join(f"{count} {name}" for name, count in sorted(graph.patterns.items()))
    facts = [f"{sum(graph.op_types.values())} operators", patterns]
    lines = (graph.source + (f"  at {sizes}" if sizes else ""), " · ".join(fact for fact in facts if fact))
    texts = "\n".join(
        f'<text x="{_MARGIN}" y="{88 + 20 * i}" class="pale">{escape(line)}</text>'
        for i, line in enumerate(lines)
    )
    style = (
        "text{font:11.5px ui-sans-serif,system-ui,'Segoe UI',Helvetica,Arial,sans-serif;"
        f"fill:{_INK}}}.pale{{fill:{_PALE};font-size:13px}}.name{{font-size:30px;font-weight:650}}"
        ".on{fill:#fff}.band{font-size:13px;font-weight:650}rect{shape-rendering:geometricPrecision}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
        f'height="{height:.0f}" role="img">\n<title>{escape(graph.key)}</title>\n<style>{style}</style>\n'
        f'<rect width="100%" height="100%" fill="{_PAPER}"/>\n'
        f'<text x="{_MARGIN}" y="58" class="name">{escape(graph.name)}</text>\n{texts}'
    )


def _band(boxes: Sequence[_Box], y: float, name: str, total: str, first: int = 0) -> str:
    """One measure: its name over it, and its boxes from level `first` on."""
    lines = [
        f'<text x="{_MARGIN}" y="{y - 8}" class="band">{name}</text>'
        f'<text x="{WIDTH - _MARGIN}" y="{y - 8}" text-anchor="end" class="pale">{escape(total)}</text>'
    ]
    for box in boxes:
        if box.level < first:
            continue
        width, at = max(box.width - _GAP, 0.4), y + (box.level - first) * _ROW
        label = _fitting(box.label, width - 8)
        light = "" if box.colour == _GROUP or box.colour == KINDS["other"] else ' class="on"'
        lines.append(
            f'<g><title>{escape(box.title)}</title><rect x="{box.x:.1f}" y="{at:.1f}" width="{width:.1f}" '
            f'height="{_ROW - _GAP}" rx="{min(3.0, width / 2):.1f}" fill="{box.colour}"/>'
            + (
                f'<text x="{box.x + 5:.1f}" y="{at + 18.5:.1f}"{light}>{escape(label)}</text>'
                if label
                else ""
            )
            + "</g>"
        )
    return "\n".join(lines)


def _fitting(label: str, width: float) -> str:
    """The label, shortened from its front or left out where there is no room for it."""
    room = int(width / _LETTER)
    if len(label) <= room:
        return label
    last = label.rpartition(".")[2]
    return last if len(last) <= room else ""


def _legend(y: float) -> str:
    parts, x = [], float(_MARGIN)
    for name, colour in KINDS.items():
        parts.append(
            f'<rect x="{x:.0f}" y="{y - 10:.0f}" width="12" height="12" rx="3" fill="{colour}"/>'
            f'<text x="{x + 18:.0f}" y="{y:.0f}">{name}</text>'
        )
        x += 34 + _LETTER * len(name) + 12
    return "\n".join(parts)
