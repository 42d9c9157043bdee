"""The contract of a target: what it takes, whether it can be built here, how a graph becomes its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from artifacts.manifest import Built, DimRange
from artifacts.precisions import PRECISIONS
from artifacts.progress import Progress, silent
from targets.file_format import FileFormat, onnx
from targets.other_loaders import OtherLoader

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class Availability:
    """Whether a vendor's tools are here; when not, `reason` and the command that installs them."""

    ok: bool
    reason: str = ""
    install: str = ""


@dataclass(frozen=True)
class Rewrite:
    """An exact rewrite: a graph pass after which a runtime is faster and pictures differ by rounding only.

    Attributes:
        name: as `--rewrites` takes it.
        path: "module:class" of the pass, an `onnx_ir.passes.PassBase` made with no arguments.
        summary: what it does, for people.
        why: for people: what it gains where it is on, and why it is off elsewhere.
        on: precisions in which it is on by default.
        compressed: whether it is on, too, where weights alone are in fewer bits, so that they are small.
    """

    name: str
    path: str
    summary: str
    why: str
    on: frozenset[str] = frozenset(PRECISIONS)
    compressed: bool = True

    def off(self) -> Rewrite:
        """The same for a target that runs its result, but does not gain: it has to be asked for."""
        return replace(self, on=frozenset())


@dataclass(frozen=True)
class Requirements:
    """What a graph must be before `Target.lower` takes it.

    Attributes:
        opset: lowest and highest opset of the standard domain. A graph that is of another after `passes` is refused.
        precisions: of `PRECISIONS`, in which weights can be stored.
        typed: "weights" when the runtime chooses the activations' type on its device (weights are stored
            in the lower precision behind a Cast), "strong" when the graph's own types are what runs.
        weight_formats: of quantized weights that it reads: the element type of a DequantizeLinear ("int8", "uint8"),
            after "blocked " where blocks of it share a scale ("blocked int4"; zero points come with unsigned ones),
            or the name of another form ("nf4", `targets.graph.nf4_nodes`). It takes every scheme stored in them.
        passes: names of the compiler's passes to run last, in order.
        rewrites: the exact rewrites whose results its runtime can run, in the order in which they are applied.
        dynamic_shapes: whether `lower` takes symbolic dimensions; without it a graph that has one is refused.
        approximations: names of approximations of graphs (`compiler.passes.approximations`) that its runtime gains by.
        activations: element type of quantized activations: "uint8" with a zero point, or "int8" without; empty where
            it reads none.
        negative_scales: whether scales of weights may be below zero.
        scheme_options: by a weight scheme's name, options that it must have here; others are refused by name, and
            defaults give way.
        methods: names of data-aware methods (`compiler.quantize.method_table`) that may choose the values of weights in
            four bits here.
        tolerance: by the type that weights are stored in or products are made in, the largest relative error against
            PyTorch that a graph may have here. It takes the place of the default
            (`compiler.evidence.graph_evidence.TOLERANCE`) for the types that it names: for a runtime whose kernels
            round more than PyTorch's do, or less. Below 1, which is about what a wrong graph gives.
        stand_in: the target that runs this one's float graphs where they must be measured during a compile,
            for a target whose device is seldom there; empty for itself.
    """

    opset: tuple[int, int]
    precisions: frozenset[str]
    typed: str
    weight_formats: frozenset[str]
    passes: tuple[str, ...]
    dynamic_shapes: bool
    rewrites: tuple[Rewrite, ...] = ()
    approximations: frozenset[str] = frozenset()
    activations: str = ""
    negative_scales: bool = True
    scheme_options: Mapping[str, Mapping[str, bool | int | str]] = field(default_factory=dict)
    methods: frozenset[str] = frozenset()
    tolerance: Mapping[str, float] = field(default_factory=dict)
    stand_in: str = ""


@dataclass(frozen=True)
class Lowered:
    """What `Target.lower` wrote: the file a session opens, and all files, relative to the folder given.

    `built` is what a session must know of the files, and people like to: the manifest keeps it.
    """

    model_file: str
    files: tuple[str, ...]
    built: Built = field(default_factory=dict)


def unchanged(graph: ir.Model) -> ir.Model:
    """The graph itself."""
    return graph


@dataclass(frozen=True)
class Context:
    """What a graph is lowered in, beside its target's options.

    Attributes:
        progress: told how far it is; what it raises ends the work.
        dims: the declared ranges of the graph's symbolic dimensions.
        simplify: folds, in place, what becomes constant once a target has fixed dimensions of a copy.
        cache: a folder for what makes the next build faster; None for nowhere.
    """

    progress: Progress = silent
    dims: Mapping[str, DimRange] = field(default_factory=dict)
    simplify: Callable[[ir.Model], ir.Model] = unchanged
    cache: Path | None = None


@dataclass(frozen=True)
class Rebuild:
    """How a target's files are made again from what they keep, without the model.

    Attributes:
        graph: the file of a component's folder that holds the graph as `Target.lower` took it.
        applied: options that are in that graph already, and cannot be given again.
        form: what that file may hold.
    """

    graph: str
    applied: frozenset[str] = frozenset()
    form: FileFormat = field(default_factory=onnx)


Companions = Callable[[Mapping[str, Any], Path], None]
"""(tokenizers of transformers by their folders, the artifact's folder with what diffusers loads) -> files there."""


class Target(Protocol):
    """One vendor. Each file of `targets/` offers one instance; `targets.target_table` names it."""

    name: str
    summary: str
    requirements: Requirements
    options: type[Any]
    """A frozen dataclass of this target's own options, each with a default and a docstring line."""
    rebuild: Rebuild | None
    """How its files are made again from themselves; None where they do not hold the graph."""
    companions: Companions | None
    """Writes what other projects' loaders of its files read beside them; None where they read nothing more."""
    loaders: tuple[OtherLoader, ...]
    """Other projects that open its artifacts as they are."""

    def available(self) -> Availability:
        """Whether `lower` can run here; never raises, imports the vendor's SDK only inside."""

    def lower(self, graph: ir.Model, options: Any, out_dir: Path, context: Context) -> Lowered:
        """Writes `graph` as this target's files into the existing, empty folder `out_dir`.

        Large initializers are lazy tensors: they are read one at a time while they are written and must
        not be kept.
        """

    def toolchain(self) -> Mapping[str, str]:
        """Package -> version of what shapes the result, for the manifest and the cache key."""
