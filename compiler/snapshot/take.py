"""A model's configs become its snapshot: captured, exported and taken to each target as a compile does.

No weight is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import Any

from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import DimRange
from artifacts.progress import Event, Progress, silent
from compiler.capture.arguments import parse_arguments
from compiler.capture.capture import Capture, capture
from compiler.capture.declared_sizes import SizeRange
from compiler.capture.infer import Method
from compiler.compile_request import PRECISION
from compiler.export.graph_export import export_graph
from compiler.model_source import ModelSource
from compiler.road import Road
from compiler.snapshot import seeded_results
from compiler.snapshot.fingerprint import fingerprint
from compiler.snapshot.prints import GraphPrint, Snapshot
from compiler.source import open_model
from targets import target_table as targets
from targets.graph.model_copy import copy_of

_PACKAGES = ("torch", "diffusers", "transformers", "onnxscript")

NEUTRAL = "fp32"
"""The form of a graph before it is taken to any target."""


@dataclass(frozen=True)
class Form:
    """A graph as `latentc compile` hands it to targets when nothing but the target is asked for.

    Attributes:
        targets: whose road it is; those with equal roads share one.
    """

    road: Road
    targets: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of its graphs in a snapshot."""
        return ", ".join(self.targets)


def forms(names: Sequence[str]) -> tuple[Form, ...]:
    """The forms of these targets.

    Raises:
        UsageError: there is no such target.
    """
    users: dict[Road, list[str]] = {}
    for name in names:
        target = targets.get(name)
        takes = target.requirements.precisions
        precision = PRECISION if PRECISION in takes else min(takes)
        users.setdefault(Road.to(target, precision), []).append(name)
    return tuple(Form(road, tuple(names)) for road, names in users.items())


@dataclass(frozen=True)
class SnapshotOptions:
    """What a snapshot is taken with. It stands in the snapshot, so that a check takes the same.

    Attributes:
        targets: whose forms to take; None for all that there are.
        tasks, size, batch: as in `compiler.capture.capture.capture`.
        arguments: more arguments of the pipeline's call, as texts.
        components: only these; empty for all.
    """

    targets: tuple[str, ...] | None = None
    tasks: tuple[str, ...] = ()
    size: SizeRange | None = None
    batch: DimRange | None = None
    arguments: Mapping[str, str] = field(default_factory=dict)
    components: tuple[str, ...] = ()

    def lines(self) -> tuple[str, ...]:
        """As they stand in a snapshot; those at their defaults are left out."""
        lines = [f"target {name}" for name in self.targets or ()]
        if self.targets == ():
            lines.append("target none")
        lines += [f"task {task}" for task in self.tasks]
        if self.size is not None:
            lines.append(f"size {_span(self.size.width)} {_span(self.size.height)}")
        if self.batch is not None:
            lines.append(f"batch {_span(self.batch)}")
        lines += [f"arg {name}={text}" for name, text in sorted(self.arguments.items())]
        lines += [f"component {name}" for name in self.components]
        return tuple(lines)

    @classmethod
    def parse(cls, lines: Sequence[str]) -> SnapshotOptions:
        """What `lines` wrote.

        Raises:
            LatentcError: an option that there is not, or a wrong value.
        """
        values: dict[str, list[str]] = {}
        for line in lines:
            word, _, rest = line.partition(" ")
            values.setdefault(word, []).append(rest)
        try:
            size = [_parsed(text) for text in values.pop("size", [""])[0].split(" ") if text]
            batch = values.pop("batch", None)
            named = values.pop("target", None)
            options = cls(
                targets=None if named is None else tuple(name for name in named if name != "none"),
                tasks=tuple(values.pop("task", ())),
                size=SizeRange(*size) if size else None,
                batch=None if batch is None else _parsed(batch[0]),
                arguments={n: v for n, _, v in (a.partition("=") for a in values.pop("arg", ()))},
                components=tuple(values.pop("component", ())),
            )
            if values:
                raise ValueError(sorted(values)[0])
        except (ValueError, TypeError) as error:
            raise LatentcError(f"the snapshot's options cannot be read: {error}") from error
        return options


def _span(span: DimRange) -> str:
    return f"{span.min}..{span.max}"


def _parsed(text: str) -> DimRange:
    low, _, high = text.partition("..")
    return DimRange(min=int(low), max=int(high))


def take(model: str, options: SnapshotOptions = SnapshotOptions(), progress: Progress = silent) -> Snapshot:
    """The snapshot of a model's graphs.

    Args:
        model: a diffusers folder (configs are enough), a built-in name or a hub id.

    Raises:
        LatentcError: the model cannot be read, captured or exported.
        UsageError: an unknown target or task, or a component that its pipeline never calls.
    """
    wanted = forms(targets.names() if options.targets is None else options.targets)
    source = open_model(model)
    arguments = parse_arguments(options.arguments)
    captured = capture(
        source, options.tasks, options.size, options.batch, arguments, progress, weightless=True
    )
    called = {m.component for m in captured.methods}
    if missing := sorted(set(options.components) - called):
        raise UsageError(
            f"the pipeline calls no component '{missing[0]}' (it calls: {', '.join(sorted(called))}).",
            f"For instance: --component {sorted(called)[0]}" if called else "",
        )
    methods = [m for m in captured.methods if not options.components or m.component in options.components]
    prints: list[GraphPrint] = []
    for method in methods:
        progress(Event(f"{method.folder}: exporting the graph", 0, None))
        prints.extend(_prints(source, captured, method, wanted))
        progress(Event(f"{method.folder}: exporting the graph", 1, 1))
    return Snapshot(source.pipeline, _made_by(), tuple(prints), options.lines())


def _prints(
    source: ModelSource, captured: Capture, method: Method, wanted: Sequence[Form]
) -> Iterator[GraphPrint]:
    component = source.component(method.component)
    graph = export_graph(component, method, captured.weights[method.component])
    facts: dict[str, Any] = {
        "name": method.folder,
        "source": f"{component.class_name}.{method.method}",
        "sizes": largest(method),
    }
    neutral = fingerprint(graph, form=NEUTRAL, **facts)
    if neutral.cost.parameters <= seeded_results.PARAMETERS and neutral.cost.flops <= seeded_results.FLOPS:
        neutral = replace(neutral, numeric=seeded_results.measure(graph, method))
    yield neutral
    for form in wanted:
        arrived = form.road.run(copy_of(graph), read_weights=False)
        yield fingerprint(
            arrived.model,
            form=form.name,
            targets=form.targets,
            precision=f"{form.road.precision} {form.road.typed}",
            rewrites=arrived.rewrites,
            **facts,
        )


def largest(method: Method) -> dict[str, int]:
    """The sizes that costs are taken at: the largest picture of the declared range, in the smallest batch."""

    def rank(row: Mapping[str, int]) -> tuple[int, int, int]:
        batch = sum(size for name, size in row.items() if name.startswith("batch"))
        words = sum(size for name, size in row.items() if name not in method.dims)
        picture = sum(
            size for name, size in row.items() if name in method.dims and not name.startswith("batch")
        )
        return (-picture, batch, -words)

    return dict(sorted(min(method.shapes, key=rank).items()))


def _made_by() -> str:
    return ", ".join(f"{name} {metadata.version(name)}" for name in _PACKAGES)
