"""The dry run: a pipeline's own loop on real zeros, its modules answered on fake tensors, every call recorded."""

from __future__ import annotations

import inspect
import types
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from artifacts.call_trees import AnyLeaf, Tree
from artifacts.error_text import class_and_line
from artifacts.errors import LatentcError
from compiler.capture import number_inputs, trees
from compiler.capture.by_shape import by_shape
from compiler.capture.call_state import NotData, as_state, reads
from compiler.capture.lazy_zeros import lazy_zeros
from compiler.capture.split import NotOneGraph, Submodule, answered_parts, can_be_split, decided_by_values
from runtimes import call_arguments, settings
from runtimes.module_state import Watch, as_data

_MOVES = ("to", "float", "half", "bfloat16", "type", "cpu", "cuda")


class NotRunnable(LatentcError):
    """A module's own code fails on what it is called with, or cannot do without numbers."""


@dataclass(frozen=True)
class Spec:
    """A tensor's dtype and shape at one call."""

    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """One call of a component by its pipeline.

    Attributes:
        component, method: what was called.
        arguments: a tree for each argument, defaults filled in; numbers are constants.
        inputs: every tensor argument by the name it has in those trees; an integer that the module uses as a
            number is one in float32.
        numbers: every Python number by its path in them.
        result: the tree of what came back.
        outputs: every tensor of it.
        point: which call of the pipeline it belongs to.
        values: the tensor arguments that held more than the dry run's own zeros, and than what dividing by them makes
            (NaN and infinity; an additive mask's negative infinity is kept).
        used: names of the parameters and buffers that the call read.
        state: what the pipeline had set on the module, by its path there; see `compiler.capture.call_state`.
        other_result: the tree of what comes back where `return_dict` is the other of its two values, if it has one.
        settings: what is set on the module and is an input all the same (`runtimes.settings`).
    """

    component: str
    method: str
    arguments: dict[str, Tree]
    inputs: dict[str, Spec]
    numbers: dict[trees.Path, int | float]
    result: Tree
    outputs: dict[str, Spec]
    point: int
    values: dict[str, torch.Tensor]
    used: frozenset[str]
    state: dict[str, Tree] = field(default_factory=dict)
    other_result: Tree | None = None
    settings: settings.Settings = field(default_factory=dict)


@dataclass(frozen=True)
class _Answer:
    """What a module gives back, tensors without data, and what it read for that."""

    flat: trees.Flat
    result: Any
    used: frozenset[str]
    state: dict[str, Tree]
    other_result: Tree | None = None


class Recorder:
    """Answers the modules of one pipeline. `calls` and `residuals` grow while pipelines run in `recording`."""

    def __init__(
        self,
        modules: Mapping[str, torch.nn.Module],
        mode: FakeTensorMode,
        read: Any,
        split: Collection[Submodule] = (),
    ) -> None:
        """
        Args:
            modules: component name -> module with fake parameters, as it was built: what is set on it from now on
                is part of the calls.
            mode: the mode of those parameters.
            read: (component, name) -> the real tensor of a parameter or buffer.
            split: those whose own Python is run, and whose parts are answered in their place.
        """
        self.calls: list[Call] = []
        self.residuals: dict[str, set[str]] = {}
        self._mode = mode
        self._read = read
        self._modules = modules
        self._inside = False
        self._point = 0
        self._seen: dict[Any, _Answer] = {}
        self._copies: dict[tuple[str, str, str], torch.Tensor] = {}
        self._answered = tuple(
            part
            for name, module in modules.items()
            for part in answered_parts(Submodule(name), module, split)
        )
        ours = {id(module): _answered(module) for _, module in self._answered}
        ours |= {id(module): [*_MOVES] for module in modules.values() if id(module) not in ours}
        self._watches = {name: Watch(module, ours) for name, module in modules.items()}
        self._used: set[str] = set()
        self._named: dict[Any, trees.Flat] = {}
        self._numeric: dict[tuple[str, str, str], bool] = {}
        self._on_meta = False
        self._metas: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._owner = {
            id(module): (component, f"{path}." if path else "")
            for component, root in modules.items()
            for path, module in root.named_modules()
        }

    @contextmanager
    def recording(self, point: int) -> Iterator[None]:
        """While it is open, calls of the modules are answered and recorded as of `point`."""
        self._point = point
        wrapped = [(module, self._stay(module)) for module in self._modules.values()]
        wrapped += [(module, self._wrap(part, module)) for part, module in self._answered]
        read_attribute = torch.nn.Module.__getattr__
        torch.nn.Module.__getattr__ = self._attribute_reader(read_attribute)  # type: ignore[method-assign]
        try:
            yield
        finally:
            torch.nn.Module.__getattr__ = read_attribute  # type: ignore[method-assign]
            for module, names in wrapped:
                for name in names:
                    module.__dict__.pop(name, None)

    @staticmethod
    def _stay(module: torch.nn.Module) -> list[str]:
        """Fake parameters cannot be moved or cast, and precision is not the pipeline's to choose."""
        module.__dict__.update(dict.fromkeys(_MOVES, lambda *args, **kwargs: module))
        return [*_MOVES]

    def _wrap(self, part: Submodule, module: torch.nn.Module) -> list[str]:
        self._stay(module)
        module.__dict__.update({name: self._answer(part, module, name) for name in _methods(type(module))})
        return _answered(module)

    def _answer(self, part: Submodule, module: torch.nn.Module, method: str) -> Any:
        original = getattr(type(module), method)

        def answer(*args: Any, **kwargs: Any) -> Any:
            if self._inside or not trees.leaves((args, kwargs)):
                return original(module, *args, **kwargs)
            return self._record(part, module, method, args, kwargs)

        # Pipelines look at what a method takes.
        answer.__signature__ = call_arguments.signature(type(module), method)  # type: ignore[attr-defined]
        return answer

    def _record(
        self,
        part: Submodule,
        module: torch.nn.Module,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        component, whole = part.component, part.method(method)
        arguments = call_arguments.bind(type(module), method, args, kwargs)
        shapes, flat = trees.flatten_arguments(method, arguments)
        set_here = settings.of(module)
        tensors = {**flat.tensors, **_values(module, set_here)}
        inputs = {name: Spec(t.dtype, tuple(t.shape)) for name, t in tensors.items()}
        changed = self._watches[component].changed()
        state = {path: as_data(field.value) or id(field.value) for path, field in changed.items()}
        specs = tuple((n, s.dtype, s.shape) for n, s in inputs.items())
        key = (component, whole, repr(shapes), specs, repr(state))
        if key not in self._seen:
            self._seen[key] = self._run(part, module, method, args, kwargs, frozenset(inputs))
            for name in number_inputs.candidates(flat.tensors):
                self._ask_number(part, module, method, args, kwargs, name, flat.tensors, self._seen[key])
            self._watches[component].absorb()
        answer = self._seen[key]
        outputs = {name: Spec(t.dtype, tuple(t.shape)) for name, t in answer.flat.tensors.items()}
        for name in number_inputs.candidates(flat.tensors):
            if self._numeric[component, whole, name]:
                inputs[name] = Spec(number_inputs.NUMBER, inputs[name].shape)
        values = {
            n: self._copy((component, whole, n), t, inputs[n].dtype) for n, t in tensors.items() if _tells(t)
        }
        self.calls.append(
            Call(
                component,
                whole,
                shapes,
                inputs,
                flat.numbers,
                answer.flat.tree,
                outputs,
                self._point,
                values,
                answer.used,
                answer.state | {path: AnyLeaf() for paths in set_here.values() for path in paths},
                answer.other_result,
                set_here,
            )
        )
        return trees.map_tensors(answer.result, lambda t: lazy_zeros(t.shape, t.dtype))

    def _copy(self, of: tuple[str, str, str], tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """A copy of an argument, which the pipeline may change; the last one, where it holds the same (a picture that a
        ControlNet is given at every step)."""
        last = self._copies.get(of)
        now = tensor.to(dtype)
        if last is None or last.dtype != dtype or not torch.equal(last, now):
            last = self._copies[of] = now.clone()
        return last

    def _ask_number(
        self,
        part: Submodule,
        module: torch.nn.Module,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str,
        inputs: Mapping[str, torch.Tensor],
        expected: _Answer,
    ) -> None:
        """Learns whether the module returns the same form, `expected`, when the input `name` is a float."""
        key = (part.component, part.method(method), name)
        if key in self._numeric:
            return
        changed_args, changed_kwargs = number_inputs.as_number((args, kwargs), inputs[name])
        try:
            with number_inputs.WithValues():
                answer = self._run(part, module, method, changed_args, changed_kwargs, frozenset(inputs))
        except LatentcError:
            self._numeric[key] = False
        else:
            self._numeric[key] = _form(answer.flat) == _form(expected.flat)

    def _run(
        self,
        part: Submodule,
        module: torch.nn.Module,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        taken: frozenset[str],
    ) -> _Answer:
        changed = self._watches[part.component].changed()
        self._inside = True
        try:
            with reads(changed) as read:
                result, named = self._shapes(module, method, args, kwargs, taken)
        except LatentcError:
            raise
        except Exception as error:
            whole = f"'{part.component}.{part.method(method)}' ({type(module).__name__})"
            why = class_and_line(error)
            if decided_by_values(error) and can_be_split(part, module):
                raise NotOneGraph(part, f"{whole} cannot be one graph: {why}") from error
            raise NotRunnable(f"{whole} cannot be run without its weights: {why}") from error
        finally:
            self._inside = False
        names = None if named is None else list(named.tensors)
        flat = trees.flatten_result(method, result, taken, names)
        try:
            state = as_state(part.component, part.method(method), changed, read)
        except NotData as error:
            if error.hooks and can_be_split(part, module):
                raise NotOneGraph(part, error.message, error.hint) from error
            raise
        other = None if named is None or flat.tensors.keys() != named.tensors.keys() else named.tree
        if named is None and "return_dict" in call_arguments.signature(type(module), method).parameters:
            other = trees.as_tuple(flat.tree)
        return _Answer(flat, result, frozenset(self._used), state, other)

    def _shapes(
        self,
        module: torch.nn.Module,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        taken: frozenset[str],
    ) -> tuple[Any, trees.Flat | None]:
        """The call's result, tensors without data; where a tuple came back, what it is with `return_dict` as well."""
        original = getattr(type(module), method)

        def fake(value: torch.Tensor) -> torch.Tensor:
            return self._mode.from_tensor(value, static_shapes=True)

        def run(place: Any) -> tuple[Any, trees.Flat | None]:
            set_here = settings.of(module)
            tensors = {name: place(tensor) for name, tensor in _values(module, set_here).items()}
            with settings.applied(module, set_here, tensors):
                return called(place)

        def called(place: Any) -> tuple[Any, trees.Flat | None]:
            self._used = set()
            placed_args, placed_kwargs = trees.map_tensors((args, kwargs), place)
            result = original(module, *placed_args, **placed_kwargs)
            parameters = call_arguments.signature(type(module), method).parameters
            if "return_dict" not in parameters or kwargs.get("return_dict") is not False:
                return result, None
            # A tuple names nothing; the same call with return_dict names its fields.
            key = (id(module), method, taken, repr(trees.flatten_result(method, result, taken).tree))
            if key not in self._named:
                # In lists of its own: a module may empty those that it is given.
                placed_args, placed_kwargs = trees.map_tensors((args, kwargs), place)
                named = original(module, *placed_args, **{**placed_kwargs, "return_dict": True})
                self._named[key] = trees.flatten_result(method, named, taken)
            return result, self._named[key]

        with torch.no_grad():
            # Plain meta tensors take a tenth of the time of fake ones, but modules that make tensors of their
            # own, or look at values, may want those on the CPU.
            try:
                self._on_meta = True
                with by_shape():
                    return run(lambda value: value.to("meta"))
            except Exception:
                pass
            finally:
                self._on_meta = False
            with self._mode:
                return run(fake)

    def _meta(self, value: torch.Tensor) -> torch.Tensor:
        """A tensor of the same shape and dtype on the meta device; the same one for the same `value`."""
        if id(value) not in self._metas:
            meta = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
            self._metas[id(value)] = (value, meta)  # `value` is kept, so that its id stays its own
        return self._metas[id(value)][1]

    def _attribute_reader(self, original: Any) -> Any:
        def read(module: torch.nn.Module, name: str) -> Any:
            value = original(module, name)
            if not isinstance(value, torch.Tensor) or id(module) not in self._owner:
                return value
            component, prefix = self._owner[id(module)]
            if self._inside:
                self._used.add(prefix + name)
                return self._meta(value) if self._on_meta else value
            self.residuals.setdefault(component, set()).add(prefix + name)
            return self._read(component, prefix + name)

        return read


def _values(module: torch.nn.Module, set_here: settings.Settings) -> dict[str, torch.Tensor]:
    tensors = settings.values(module, set_here)
    if isinstance(tensors, str):
        raise LatentcError(f"what is set on {type(module).__name__} is no input of a graph: {tensors}.")
    return tensors


def _methods(cls: type) -> list[str]:
    """The public methods that a pipeline may call and torch's own modules do not have, with `forward`."""
    names = []
    for name in dir(cls):
        function = inspect.getattr_static(cls, name)
        if name.startswith("_") or hasattr(torch.nn.Module, name) and name != "forward":
            continue
        if isinstance(function, types.FunctionType):
            names.append(name)
    return names


def _answered(module: torch.nn.Module) -> list[str]:
    return [*_MOVES, *_methods(type(module))]


def _form(result: trees.Flat) -> Any:
    """A result's tree, and its tensors' dtypes and shapes."""
    return result.tree, [(t.dtype, tuple(t.shape)) for t in result.tensors.values()]


def _tells(tensor: torch.Tensor) -> bool:
    """Whether a call's argument holds values of the pipeline's own; see `Call.values`."""
    parts = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return bool(tensor.any()) and not bool((parts.isnan() | parts.isposinf()).any())
