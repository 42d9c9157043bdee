"""torch.export of one captured method on fake tensors, and the proof that no declared dimension was baked in."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import torch
from torch.export import Dim, ExportedProgram

from artifacts.error_text import class_and_line
from artifacts.errors import LatentcError
from compiler.capture.calls import DTYPES, MethodCall, sizes
from compiler.capture.infer import Method
from compiler.capture.lazy_zeros import lazy_zeros


class OneSizeOnly(LatentcError):
    """A dimension that varies was baked in.

    Attributes:
        declared: an option says how far it varies, so that it need not.
        rows: the component and method, where it counts rows alone; see `compiler.capture.row_counts`.
    """

    def __init__(self, message: str, method: Method, sizes: Collection[str]) -> None:
        """
        Args:
            sizes: the names of the dimensions.
        """
        super().__init__(message, _ONE_SIZE)
        self.declared = all(name in method.dims for name in sizes)
        self.rows = (method.component, method.method) if set(sizes) <= method.rows else None


def export_program(module: torch.nn.Module, method: Method) -> ExportedProgram:
    """The method's graph, its symbolic axes dynamic.

    Args:
        module: with fake parameters; nothing is computed.

    Raises:
        LatentcError: torch cannot export it, or an axis that varies came out fixed; the message names it.
    """
    point = method.shapes[0]
    example = tuple(lazy_zeros(sizes(spec, point), DTYPES[spec.dtype]) for spec in method.inputs)
    dynamic = tuple(
        {axis: Dim.AUTO for axis, size in enumerate(spec.shape) if isinstance(size, str)}
        for spec in method.inputs
    )
    wrapper = MethodCall(module, method)
    try:
        # Sizes of 0 and 1 are not special: an artifact is run at batch 1, too.
        oblivious = torch.fx.experimental._config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
        with torch.no_grad(), oblivious, _no_trace_of_autocast_off():
            program = torch.export.export(wrapper, example, dynamic_shapes=(dynamic,), strict=False)
    except Exception as error:
        raise LatentcError(
            f"'{method.component}.{method.method}' ({type(module).__name__}) cannot be exported by torch "
            f"{torch.__version__}: {class_and_line(error)}",
            "One fixed size may work where a range does not: --size WIDTHxHEIGHT",
        ) from error
    _check_dynamic(program, method)
    return program


def _no_trace_of_autocast_off() -> AbstractContextManager[Any]:
    """Code that turns autocast off, where it is off anyway, is otherwise a graph within the graph."""
    autocast = torch.amp.autocast_mode.autocast
    enter, leave = autocast.__enter__, autocast.__exit__

    def entered(self: Any) -> Any:
        return enter(self) if self._enabled else self

    def left(self: Any, *exception: Any) -> Any:
        return leave(self, *exception) if self._enabled else None

    return patch.multiple(autocast, __enter__=entered, __exit__=left)


def _check_dynamic(program: ExportedProgram, method: Method) -> None:
    users = set(program.graph_signature.user_inputs)
    placeholders = [n for n in program.graph.nodes if n.op == "placeholder" and n.name in users]
    baked: dict[str, str] = {}
    for spec, node in zip(method.inputs, placeholders, strict=True):
        for axis, size in enumerate(spec.shape):
            if isinstance(size, str) and _is_fixed(node.meta["val"].shape[axis]):
                baked[f"axis {axis} of {spec.name} ({size})"] = size
    results = next(n for n in program.graph.nodes if n.op == "output").args[0]
    for spec, node in zip(method.outputs, results, strict=True):
        for axis, size in enumerate(spec.shape):
            if isinstance(size, str) and _is_fixed(node.meta["val"].shape[axis]):
                baked[f"axis {axis} of the result {spec.name} ({size})"] = size
    if baked:
        raise OneSizeOnly(
            f"'{method.component}.{method.method}' holds for one size only: {', '.join(baked)} must vary, "
            "but its code fixes it.",
            method,
            set(baked.values()),
        )
    _check_guards(method, placeholders)


_ONE_SIZE = (
    "Compile one size: --size WIDTHxHEIGHT, one batch: --batch N, and of videos one length: --frames N"
)


def _check_guards(method: Method, placeholders: Sequence[torch.fx.Node]) -> None:
    """Whether what torch took for equal in the example is equal in all recorded calls.

    A count of rows that becomes a Python number (`[0] * (batch // 2)`) leaves every axis symbolic, and a graph of
    one batch alone. Inequalities are passed over: they tell a size of 1 from others, or a fast path from a slow one.

    Raises:
        OneSizeOnly: it is not.
    """
    symbols, equalities = _equalities(method, placeholders)
    for equality in equalities:
        if not equality.free_symbols <= symbols.keys():
            continue
        for row in method.shapes:
            if equality.subs({symbol: row[name] for symbol, name in symbols.items()}):
                continue
            failing_sizes = {symbols[symbol]: row[symbols[symbol]] for symbol in equality.free_symbols}
            text = f"{equality.lhs} = {equality.rhs}"
            for symbol, name in symbols.items():
                text = re.sub(rf"\b{symbol}\b", name, text)
            raise OneSizeOnly(
                f"'{method.component}.{method.method}' holds for one size only: its code counts on {text}, which "
                f"is not so where {' and '.join(f'{name} is {size}' for name, size in failing_sizes.items())}.",
                method,
                failing_sizes.keys(),
            )


COUNTED = frozenset({"height", "width", "frames"})
"""Dimensions whose sizes an artifact declares one by one, by their names in `Method.dims`."""

_TRIED = 256
"""Sizes of a range that are tried: no code counts on more than a step of half of it."""


def size_steps(program: ExportedProgram, method: Method) -> dict[str, int]:
    """Dimension -> the steps above its smallest size in which its code can count, where these are not 1.

    What torch took for equal in the example holds for the recorded calls (`_check_guards`), and may hold for every
    fourth size alone: of a denoiser that halves a picture twice and puts the halves together again.
    """
    users = set(program.graph_signature.user_inputs)
    placeholders = [n for n in program.graph.nodes if n.op == "placeholder" and n.name in users]
    symbols, equalities = _equalities(method, placeholders)
    steps: dict[str, int] = {}
    for equality in equalities:
        (symbol, *others) = equality.free_symbols
        name = symbols.get(symbol)
        if others or name is None or name.partition("_")[0] not in COUNTED or name not in method.dims:
            continue
        span = method.dims[name]
        sizes = range(span.min, min(span.max, span.min + _TRIED) + 1)
        above = [size - span.min for size in sizes if equality.subs({symbol: size}) == True]  # noqa: E712
        steps[name] = math.lcm(steps.get(name, 1), math.gcd(*above) or 1)
    return {name: step for name, step in steps.items() if step > 1}


def _equalities(method: Method, placeholders: Sequence[torch.fx.Node]) -> tuple[dict[Any, str], list[Any]]:
    """The symbols of axes of inputs, with the axes' names; and what torch took for equal in the example."""
    symbols: dict[Any, str] = {}
    guards: list[Any] = []
    for spec, node in zip(method.inputs, placeholders, strict=True):
        for axis, name in enumerate(spec.shape):
            size = node.meta["val"].shape[axis]
            if isinstance(name, str) and isinstance(size, torch.SymInt) and size.node.expr.is_Symbol:
                symbols[size.node.expr] = name
                guards = size.node.shape_env.guards
    expressions = (guard.expr for guard in guards)
    return symbols, list(dict.fromkeys(e for e in expressions if getattr(e, "rel_op", "") == "=="))


def _is_fixed(size: int | torch.SymInt) -> bool:
    """Whether a size is one number, also where torch still writes it as a symbol that a guard has set."""
    return isinstance(size, int) or size.node.maybe_as_int() is not None
