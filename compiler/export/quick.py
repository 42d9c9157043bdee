"""Torch's bookkeeping of symbolic sizes, made cheaper while a graph is exported; results are the same."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch

from compiler.capture.by_shape import RULES
from compiler.export.scopes import SCOPES

# An export makes millions of small objects that live to its end: looking for cycles among them frees nothing.
_ALLOCATIONS_PER_COLLECTION = 200_000
_registries: dict[Any, Any] = {}
_signatures: dict[tuple[str, str, int], Any] = {}


@contextmanager
def quick() -> Iterator[None]:
    """While it is open, exports take about a third less time."""
    before = gc.get_threshold()
    gc.set_threshold(_ALLOCATIONS_PER_COLLECTION, *before[1:])
    try:
        with (
            _remembered_numbers(),
            _results_made_once(),
            _results_from_templates(),
            _signatures_once(),
            _no_listings(),
            _norms_by_shape(),
            _shared_registry(),
            _no_stack_traces(),
        ):
            yield
    finally:
        gc.set_threshold(*before)


def _remembered_numbers() -> AbstractContextManager[Any]:
    """Whether a size is a number is asked millions of times, and sympy walks the whole expression each time.

    Private to torch; where it looks different, nothing is changed.
    """
    from torch.fx.experimental.sym_node import SymNode

    fields = ("_expr_cache", "_expr_ver")
    before = (SymNode.__dict__.get("expr"), SymNode.__dict__.get("maybe_as_int"))
    code: Any = getattr(getattr(before[0], "fget", None), "__code__", None)
    if code is None or before[1] is None or not set(fields) <= set(code.co_names):
        return nullcontext()
    numbers: dict[Any, bool] = {}

    def is_number(expression: Any) -> bool:
        cached = numbers.get(expression)
        if cached is None:
            cached = numbers[expression] = bool(expression.is_number)
        return cached

    def expr(self: Any) -> Any:
        own = self._expr
        version = 0 if self.shape_env is None else self.shape_env._replacements_version_counter
        if isinstance(own, int) or version == 0:
            return own
        if self._expr_cache is None or version != self._expr_ver:
            self._expr_cache = own if is_number(own) else self.shape_env.replace(own)
            self._expr_ver = version
        return self._expr_cache

    def maybe_as_int(self: Any) -> int | None:
        now = expr(self)
        return int(now) if isinstance(now, int) or is_number(now) else None

    return patch.multiple(SymNode, expr=property(expr), maybe_as_int=maybe_as_int)


def _results_made_once() -> AbstractContextManager[Any]:
    """Torch keeps the shapes of every call that it has seen, and makes each new result a second time to be sure that
    the kept ones will do: a fifth of an export under symbolic sizes. Here the first result is taken for the second.

    Private to torch; where it looks different, nothing is changed.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    names = ("_get_output_info_for_cache_entry", "_output_from_cache_entry")
    describe, make = (FakeTensorMode.__dict__.get(name) for name in names)
    code = getattr(describe, "__code__", None)
    if make is None or code is None or names[1] not in code.co_names or code.co_argcount != 7:
        return nullcontext()
    at_hand: list[Any] = []

    def described(self: Any, *args: Any) -> Any:
        at_hand.append(args[-1])
        try:
            return describe(self, *args)  # type: ignore[misc]
        finally:
            at_hand.clear()

    def reused(self: Any, *args: Any) -> Any:
        return at_hand[0] if at_hand else make(self, *args)

    ours: dict[str, Any] = dict(zip(names, (described, reused), strict=True))
    replaced: AbstractContextManager[Any] = patch.multiple(FakeTensorMode, **ours)
    return replaced


def _norms_by_shape() -> AbstractContextManager[Any]:
    """A norm's result has the shape of its input; torch would run some thirty operators to find that.

    Private to torch; where it is not there, nothing is changed.
    """
    from torch._subclasses import fake_impls

    table = getattr(fake_impls, "FAST_OP_IMPLEMENTATIONS", None)
    if not isinstance(table, dict):
        return nullcontext()

    def within(rule: Any) -> Any:
        def run(mode: Any, *args: Any, **kwargs: Any) -> Any:
            with mode:
                return rule(*args, **kwargs)

        return run

    return patch.dict(table, {op: within(rule) for op, rule in RULES.items() if op not in table})


def _shared_registry() -> AbstractContextManager[Any]:
    """torch.onnx parses the source of all its translations anew for each export; here, once a process.

    Private to torch; where it looks different, nothing is changed.
    """
    from torch.onnx._internal.exporter import _registration

    registry = _registration.ONNXRegistry
    original = registry.__dict__.get("from_torchlib")
    if not isinstance(original, classmethod):
        return nullcontext()

    def from_torchlib(cls: Any, *args: Any, **kwargs: Any) -> Any:
        key = (*args, *sorted(kwargs.items()))
        if key not in _registries:
            _registries[key] = original.__func__(cls, *args, **kwargs)
        own = copy.copy(_registries[key])
        own.functions = {target: list(decompositions) for target, decompositions in own.functions.items()}
        return own

    return patch.object(registry, "from_torchlib", classmethod(from_torchlib))


def _no_stack_traces() -> AbstractContextManager[Any]:
    """Where in a model's source each node was made is looked up in a thousand files; the module's path will do."""
    from torch.fx import config

    name = "do_not_emit_stack_traces"
    return (
        patch.object(config, name, True) if hasattr(config, name) else nullcontext()
    )  # older than the option


def _results_from_templates() -> AbstractContextManager[Any]:
    """A call that torch has seen before gives a tensor of known shape; torch makes it from its symbolic sizes, and
    computes from them again how it lies in memory. Here it is a second handle of the first one: a tenth of an export.

    Private to torch; where it looks different, nothing is changed.
    """
    from torch._subclasses import fake_tensor

    mode, kind = fake_tensor.FakeTensorMode, fake_tensor.FakeTensor
    name = "_get_output_tensor_from_cache_entry"
    original = mode.__dict__.get(name)
    fields = {"inplace_idx", "view_idx", "metadata"}
    declared_fields = getattr(
        getattr(fake_tensor, "_DispatchCacheEntryOutputInfo", None), "__dataclass_fields__", ()
    )
    if original is None or not fields <= set(declared_fields) or original.__code__.co_argcount != 6:
        return nullcontext()
    templates: dict[int, tuple[Any, Any]] = {}

    def from_template(self: Any, state: Any, entry: Any, key: Any, func: Any, args: Any) -> Any:
        if entry.metadata is None or entry.inplace_idx is not None:
            return original(self, state, entry, key, func, args)
        if id(entry) not in templates:
            tensor = original(self, state, entry, key, func, args)
            with fake_tensor.in_kernel_invocation_manager(self):
                plain = tensor.as_subclass(torch.Tensor)
            templates[id(entry)] = entry, plain  # the entry is kept, so that its id stays its own
            return tensor
        return kind(self, templates[id(entry)][1], entry.metadata.device)

    return patch.object(mode, name, from_template)


def _signatures_once() -> AbstractContextManager[Any]:
    """Each ONNX operator's signature is read from its schema once, and not for every node."""
    from onnx_ir.schemas import OpSignature

    original = OpSignature.from_op_schema

    def from_op_schema(schema: Any) -> Any:
        key = (schema.domain, schema.name, schema.since_version)
        if key not in _signatures:
            _signatures[key] = original(schema)
        return _signatures[key]

    return patch.object(OpSignature, "from_op_schema", from_op_schema)


def _no_listings() -> AbstractContextManager[Any]:
    """Torch writes on each ONNX node what it was made from; `compiler.export.scopes` keeps the modules' names alone.

    Private to torch; where it looks different, nothing is changed.
    """
    from torch.onnx._internal.exporter import _core

    names = ("_set_node_metadata", "_get_node_namespace")
    before, scopes_of = (getattr(_core, name, None) for name in names)
    code = getattr(before, "__code__", None)
    if scopes_of is None or code is None or names[1] not in code.co_names or code.co_argcount != 2:
        return nullcontext()

    def write(node: Any, onnx_node: Any) -> None:
        onnx_node.metadata_props[SCOPES] = repr(scopes_of(node)[2])

    return patch.object(_core, names[0], write)
