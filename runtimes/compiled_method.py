"""A compiled method of a shell: finds the recorded call that fits, and has its graph run.

A record is looked for once for each form of a call. While nothing is set on the module, a call of the same form has the
same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from artifacts.call_trees import ConstLeaf, Tree
from artifacts.errors import LatentcError
from artifacts.manifest import GraphSpec, MethodRecord
from runtimes import settings
from runtimes.call_arguments import bind, defaults, parameters_of, signature, without_defaults
from runtimes.call_form import CallForm, form_of
from runtimes.extrapolation import Arrays
from runtimes.forecaster import Forecaster
from runtimes.meter import Meter
from runtimes.module_state import Field, Watch, mismatch
from runtimes.tiles import Layout, Scaling, Tiling, division, parts, run_in_tiles
from runtimes.tiling_switch import TilingSwitch
from runtimes.value_tree import (
    Mismatch,
    fit_dims,
    holds_tensor,
    match_arguments,
    rebuild,
    to_array,
    wrong_size,
)

if TYPE_CHECKING:
    import numpy as np
    import torch

FORMS = 8
"""How many forms of calls a method remembers."""


class NotCompiled(LatentcError):
    """No graph of a component answers a call.

    Attributes:
        by_shape: whether shapes of tensors are the only reasons.
        misfits: of each graph that would answer it if tensors had other sizes, the axes that have others.
    """

    def __init__(self, message: str, hint: str, reasons: Sequence[Mismatch]) -> None:
        super().__init__(message, hint)
        self.by_shape = all(reason.of_shape for reason in reasons)
        self.misfits = tuple(reason.misfits for reason in reasons if reason.misfits)


class Runner(Protocol):
    """What a shell's methods call: `runtimes.graphs.Graphs`, or a stand-in."""

    def record(self, graph: str) -> GraphSpec:
        """The manifest's record of a graph."""

    def open(self, graph: str) -> None:
        """Opens a graph unless it is open."""

    def run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs a graph once."""


class Tiler(Protocol):
    """What makes calls in tiles: `runtimes.graphs.Graphs`."""

    def tiling(self, graph: str, arrays: Arrays, requested: Tiling) -> Tiling:
        """How a call is made in tiles: as asked, or so that it fits the memory where that is left to it."""

    def run_in_tiles(
        self, graph: str, arrays: Arrays, scaling: Scaling, plan: Layout, check: Callable[[], None]
    ) -> Arrays | None:
        """One call in tiles that know of each other; None where the graph does not allow it."""


@dataclass(frozen=True)
class CallRoute:
    """What the methods of one component share.

    Attributes:
        component: its name.
        runner: runs graphs.
        meter: gives the meter of the `generate` that is under way.
        forecaster: gives what may answer calls in place of the runner; None where nothing does.
        tiling: gives how the call that is under way makes pictures in tiles.
        tiler: makes of it what fits the memory, and such calls; None: tiles are calls of the graph, and are blended.
        switch: what is set for the component's tiles.
        watch: what is set on the component's module.
    """

    component: str
    runner: Runner
    meter: Callable[[], Meter]
    forecaster: Callable[[], Forecaster | None]
    tiling: Callable[[], Tiling]
    tiler: Tiler | None
    switch: TilingSwitch
    watch: Watch


@dataclass(frozen=True)
class _Plan:
    """How calls of one form are answered.

    Attributes:
        form: of the arguments.
        changed: what was set on the module; as long as it is this object, nothing else is.
        tiling: what was asked for. Calls that are made in tiles have no plan.
        record: what answers them.
        result: the form of what the caller wants back.
    """

    form: CallForm
    changed: Mapping[str, Field]
    tiling: Tiling
    record: MethodRecord
    result: Tree


class CompiledMethod:
    """One method of a module, answered by the first record that fits a call and what is set on the module."""

    def __init__(
        self, cls: type, owner: torch.nn.Module, name: str, records: Sequence[MethodRecord], route: CallRoute
    ) -> None:
        """
        Args:
            cls: the owner's class before it became a shell's.
            owner: the module, or the submodule, that has the method.
            name: of the method, from the module ("decode", "time_embedding.forward").
        """
        self._cls = cls
        self._owner = owner
        self._method = name.rpartition(".")[2]
        self._label = f"{route.component}.{name}"
        self._records = tuple(records)
        self._route = route
        self._defaults = defaults(cls, self._method)
        self._plans: tuple[_Plan, ...] = ()

    def function(self) -> Callable[..., Any]:
        """The method, to be set on its owner."""

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._call(args, kwargs)

        call.__name__ = self._method
        call.__signature__ = signature(self._cls, self._method)  # type: ignore[attr-defined]
        call.__doc__ = f"`{self._label}` of a compiled {self._cls.__name__}."
        return call

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        route = self._route
        changed, tiling = route.watch.changed(), route.switch.of(route.tiling())
        for plan in self._plans:
            if plan.changed is changed and plan.tiling == tiling:
                arrays = plan.form.arrays(args, kwargs)
                if arrays is not None:
                    return self._made(
                        plan.record, plan.result, arrays, partial(self._run, plan.record.graph, arrays)
                    )
        return self._look_up(args, kwargs, changed, tiling)

    def _look_up(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        changed: Mapping[str, Field],
        tiling: Tiling,
    ) -> Any:
        cls, method = self._cls, self._method
        named = bind(cls, method, args, kwargs)
        recorded = [record.arguments for record in self._records]
        bound = without_defaults(cls, getattr(self._owner, "config", None), named, recorded)
        reasons: list[Mismatch] = []
        refused = False
        hint = "See what it was compiled for: latentc inspect ARTIFACT"
        for record in self._records:
            if (other := mismatch(record.state, self._route.watch)) is not None:
                reasons.append(other)
                hint = "Call it with the options it was compiled for, or compile with yours: --arg NAME=VALUE"
                continue
            graph = self._route.runner.record(record.graph)
            arguments, result = _returned(record, bound)
            arrays = _arrays(record, graph, arguments, self._defaults, self._owner)
            if isinstance(arrays, Mismatch):
                reasons.append(arrays)
                refused = True
                continue
            divided = self._division(graph, arrays, tiling)
            if (misfit := _misfit(graph, arrays, divided)) is not None:
                reasons.append(misfit)
                refused = True
                continue
            if divided is not None:
                run = partial(self._run_divided, graph, arrays, *divided)
                return self._made(record, result, arrays, run)
            if bound is named and not record.settings:
                self._remember(args, kwargs, record, graph, result, changed, tiling, refused)
            return self._made(record, result, arrays, partial(self._run, record.graph, arrays))
        if not holds_tensor((args, kwargs)):  # Nothing is computed of it, and a capture does not record it.
            return getattr(cls, method)(self._owner, *args, **kwargs)
        raise NotCompiled(
            f"{self._label} is not compiled for this call. " + " / ".join(dict.fromkeys(map(str, reasons))),
            hint,
            reasons,
        )

    def _remember(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        record: MethodRecord,
        graph: GraphSpec,
        result: Tree,
        changed: Mapping[str, Field],
        tiling: Tiling,
        values_matter: bool,
    ) -> None:
        """Keeps how this call is answered, where its form is what decides about that."""
        names = parameters_of(self._cls, self._method, args, kwargs)
        if names is None:
            return
        trees = [record.arguments.get(name) for name in names]
        form = form_of(args, kwargs, trees, {spec.name: spec for spec in graph.inputs}, values_matter)
        if form is not None:
            plan = _Plan(form, changed, tiling, record, result)
            self._plans = (plan, *self._plans)[:FORMS]  # Whole, as other threads go through it.

    def _made(
        self, record: MethodRecord, result: Tree, arrays: dict[str, np.ndarray], run: Callable[[], Arrays]
    ) -> Any:
        policy = self._route.forecaster()
        if policy is None:
            return rebuild(result, run())
        self._route.meter().check()
        return rebuild(result, policy.call(f"{self._label}: {record.graph}", arrays, run))

    def _run(self, graph: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
        meter, runner = self._route.meter(), self._route.runner
        meter.count_opening(runner.open, graph)
        outputs = meter.count_call(self._label, runner.run, graph, arrays)
        meter.look(self._label, arrays, outputs)
        return outputs

    def _run_divided(self, graph: GraphSpec, arrays: Arrays, scaling: Scaling, plan: Layout) -> Arrays:
        meter, tiler, outputs = self._route.meter(), self._route.tiler, None
        if tiler is not None:
            outputs = meter.count_call(
                *(self._label, tiler.run_in_tiles, graph.folder, arrays, scaling, plan, meter.check)
            )
        if outputs is None:
            return run_in_tiles(partial(self._run, graph.folder), arrays, graph, scaling, plan)
        meter.look(self._label, arrays, outputs)
        return outputs

    def _division(self, graph: GraphSpec, arrays: Arrays, requested: Tiling) -> tuple[Scaling, Layout] | None:
        tiler = self._route.tiler
        return division(
            graph, arrays, requested if tiler is None else tiler.tiling(graph.folder, arrays, requested)
        )


def _misfit(
    graph: GraphSpec, arrays: dict[str, np.ndarray], divided: tuple[Scaling, Layout] | None
) -> Mismatch | None:
    """Why the graph does not take arrays of these sizes, or tiles of them."""
    call_arrays = arrays if divided is None else next(parts(arrays, graph, *divided)).arrays
    sizes = fit_dims(graph.inputs, call_arrays, graph.dims)
    return sizes if isinstance(sizes, Mismatch) else None


def _returned(record: MethodRecord, bound: Mapping[str, Any]) -> tuple[Mapping[str, Any], Tree]:
    """A call's arguments as the record has them, and the form of what the caller wants back: `return_dict` decides
    about that alone."""
    recorded, requested = record.arguments.get("return_dict"), bound.get("return_dict")
    other = (
        isinstance(recorded, ConstLeaf) and isinstance(requested, bool) and recorded.value is not requested
    )
    if isinstance(recorded, ConstLeaf) and other and record.other_result is not None:
        return {**bound, "return_dict": recorded.value}, record.other_result
    return bound, record.result


def _arrays(
    record: MethodRecord,
    graph: GraphSpec,
    bound: Mapping[str, Any],
    own_defaults: Mapping[str, Any],
    owner: torch.nn.Module,
) -> dict[str, np.ndarray] | Mismatch:
    """The graph's inputs in a call, of whatever size, or why the call does not fit it."""
    tensors = match_arguments(record.arguments, bound, own_defaults)
    if isinstance(tensors, Mismatch):
        return tensors
    if record.settings:
        values = _set_values(owner, record)
        if isinstance(values, Mismatch):
            return values
        tensors |= values
    arrays: dict[str, np.ndarray] = {}
    for spec in graph.inputs:
        if spec.name not in tensors:
            raise LatentcError(f"the manifest has no argument for the input '{spec.name}' of {graph.folder}.")
        array = to_array(tensors[spec.name], spec, spec.name)
        if isinstance(array, Mismatch):
            return array
        arrays[spec.name] = array
    shapes = {name: array.shape for name, array in arrays.items()}
    for name, tree in record.arguments.items():
        if (mismatch := wrong_size(tree, bound.get(name), shapes, name)) is not None:
            return mismatch
    return arrays


def _set_values(owner: torch.nn.Module, record: MethodRecord) -> dict[str, torch.Tensor] | Mismatch:
    """The inputs that are set on the module."""
    try:
        values = settings.values(owner, record.settings)
    except (AttributeError, IndexError) as error:
        raise LatentcError(
            f"the manifest names settings that {type(owner).__name__} does not have: {error}.",
            "Compile the model again.",
        ) from error
    if isinstance(values, str):
        return Mismatch(", ".join(record.settings), "what it was compiled for", values)
    return values
