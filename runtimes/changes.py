"""Refuses what would change a compiled module by the very call that changes it: its graph would not know.

No list of such calls: a module's public methods, its attributes, hooks and tensors are watched, and what they leave set
must be what a graph was compiled for. Else it is undone, and the call is an error.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from artifacts.call_trees import Tree
from artifacts.errors import UsageError
from runtimes import placing_methods, settings
from runtimes.module_state import Watch, unrecorded
from runtimes.writes import COUNTED

if TYPE_CHECKING:
    import torch

CHANGES = "_latentc_changes"
"""The attribute of a class under which its `Changes` are."""

_MIXINS = ("diffusers.loaders", "transformers.integrations")
_VERBS = ("load_", "unload_", "save_", "fuse_", "unfuse_", "add_", "set_", "enable_", "disable_", "delete_")

HINT = (
    "Compile it again with what is to be in it: --lora FILE, --embedding FILE, --ip-adapter FILE, --component "
    "NAME=FOLDER; what the pipeline's own call takes by --arg NAME=VALUE"
)


class Changes:
    """What may be set on the module of a component, and on its submodules.

    `watch` is set when the module is complete; until then everything may be.
    """

    def __init__(self, component: str, states: Iterable[Mapping[str, Tree]]) -> None:
        """
        Args:
            states: of the component's graphs (`MethodRecord.state`).
        """
        self.watch: Watch | None = None
        self._component = component
        self._states = tuple(states)
        self._depth = 0

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """While it is open, everything may be set: components look at it when they are called."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    @property
    def watching(self) -> bool:
        """Whether a change that is made now is looked at."""
        return self.watch is not None and not self._depth

    def count_write(self) -> None:
        """A tensor of the module was written to while that is not refused."""
        if self.watch is not None:
            self.watch.look_again()

    def make(self, operation: str, change: Callable[[], Any]) -> Any:
        """What ``change()`` returns, if it leaves nothing set that no graph was compiled for.

        Args:
            operation: the call, for people ("enable_freeu()").

        Raises:
            UsageError: it would; it is undone.
        """
        watch = self.watch
        if watch is None or self._depth:
            return change()
        before = watch.changed()
        result: Any = None
        try:
            with self.suspended():
                result = change()
        except BaseException:
            watch.look_again()
            with self.suspended():
                watch.put_back(before)
            raise
        watch.look_again()  # A write is counted before it is made.
        state = unrecorded(self._states, watch, before)
        if state is None:
            return result
        with self.suspended():
            if hasattr(result, "remove") and hasattr(result, "hooks_dict_ref"):
                result.remove()
            watch.put_back(before)
        raise self.refusal(operation, str(state))

    def refusal(self, operation: str, why: str) -> UsageError:
        """That the call `operation` is none that a compiled module takes."""
        return UsageError(
            f"'{self._component}' is compiled, and its graph does not follow {operation}: {why}.", HINT
        )


def watched(module: torch.nn.Module, changes: Changes) -> None:
    """Has `module` and its submodules report to `changes`. Each keeps the name of its class."""
    classes: dict[type, type] = {}
    kinds: dict[type, type] = {}
    for owner in module.modules():
        cls: Any = type(owner)
        if cls not in classes:
            body = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, CHANGES: changes}
            classes[cls] = type(cls.__name__, (cls,), {**_methods(cls), **body})
        owner.__class__ = classes[cls]
        for tensor in (*owner._parameters.values(), *owner._buffers.values()):
            if tensor is not None and not tensor.is_inference() and not hasattr(type(tensor), CHANGES):
                kind = type(tensor)
                kinds.setdefault(kind, type(kind.__name__, (kind,), _tensor_body(changes)))
                tensor.__class__ = kinds[kind]


def changes_of(module: torch.nn.Module) -> Changes:
    """What a shell reports to."""
    changes: Changes = getattr(type(module), CHANGES)
    return changes


def loaders(cls: type) -> list[str]:
    """The methods that a class has of the libraries' mixins for adapters (LoRA, IP-Adapter, textual inversion) and that
    put something into modules or take it out of them; of the mixins' other methods pipelines make use in every call."""
    return sorted(
        {
            name
            for base in cls.__mro__
            if base.__module__.startswith(_MIXINS)
            for name, function in vars(base).items()
            if isinstance(function, types.FunctionType) and name.startswith(_VERBS)
        }
    )


def refuse_loaders(pipe: Any, shells: Mapping[str, torch.nn.Module]) -> None:
    """Has a pipeline of compiled components refuse adapters at once, before it looks for their files.

    What only sets numbers (`set_ip_adapter_scale`) is done, where the components are compiled for it.

    Args:
        shells: the compiled components by their names.
    """

    def refusal(name: str, why: str = "") -> UsageError:
        return UsageError(
            f"{type(pipe).__name__} is compiled ({', '.join(shells)}), and its graphs do not follow {name}(){why}.",
            HINT,
        )

    def refused(name: str) -> Callable[..., Any]:
        def method(*args: Any, **kwargs: Any) -> Any:
            raise refusal(name)

        return method

    def setting(name: str) -> Callable[..., Any]:
        original = getattr(pipe, name)

        def method(*args: Any, **kwargs: Any) -> Any:
            change: Callable[[], Any] = functools.partial(original, *args, **kwargs)
            for shell in shells.values():
                change = functools.partial(changes_of(shell).make, f"{name}()", change)
            try:
                return change()
            except (ValueError, TypeError, KeyError) as error:
                raise refusal(name, f": {error}") from error

        return method

    settable = any(map(settings.of, shells.values()))
    for name in loaders(type(pipe)):
        does = setting if settable and name.startswith("set_") else refused
        object.__setattr__(pipe, name, does(name))


def keep_in_place(pipe: Any) -> None:
    """Has a pipeline of compiled components pass over what would place them."""

    def passed_over(*args: Any, **kwargs: Any) -> None:
        return None

    for name in placing_methods.OF_PIPELINES:
        if hasattr(type(pipe), name):
            object.__setattr__(pipe, name, passed_over)


@contextmanager
def on_the_cpu(pipes: Iterable[Any]) -> Iterator[None]:
    """While it is open, calls of pipelines of compiled components make their tensors on the CPU, as sessions take them.

    diffusers asks every submodule of every component for hooks that move it, in each call: 2 ms of a small model's. Its
    pipelines are of its own classes before and afterwards.
    """
    before: list[tuple[Any, Any]] = [(pipe, type(pipe)) for pipe in pipes]
    for pipe, cls in before:
        object.__setattr__(pipe, "__class__", _on_the_cpu(cls))
    try:
        yield
    finally:
        for pipe, cls in before:
            object.__setattr__(pipe, "__class__", cls)


@functools.cache
def _on_the_cpu(cls: Any) -> type:
    """`cls` under its own name, whose calls make their tensors on the CPU while all of its modules are compiled."""
    inner = getattr(cls, "_execution_device", None)
    if not isinstance(inner, property):
        return cls  # type: ignore[no-any-return]

    def device(self: Any) -> Any:
        import torch

        modules = [type(value) for value in vars(self).values() if isinstance(value, torch.nn.Module)]
        compiled = all(hasattr(kind, CHANGES) for kind in modules)
        return torch.device("cpu") if compiled else inner.__get__(self)

    body = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return type(cls.__name__, (cls,), {**body, "_execution_device": property(device)})


def _methods(cls: type) -> dict[str, Any]:
    """The public methods of a module's class that may write to it, and what sets its attributes."""
    # A class that was made for one pipeline goes with it.
    is_of_library = getattr(sys.modules.get(cls.__module__), cls.__qualname__, None) is cls
    return _library_methods(cls) if is_of_library else _writing_methods(cls)


@functools.cache
def _library_methods(cls: type) -> dict[str, Any]:
    return _writing_methods(cls)


def _writing_methods(cls: Any) -> dict[str, Any]:
    names = [name for name in dir(cls) if not name.startswith("_")] + ["__setattr__", "__delattr__"]
    functions = {name: inspect.getattr_static(cls, name) for name in names}
    return {
        name: _reporting(name, function)
        for name, function in functions.items()
        # What yields (`parameters`) reads; `forward` is answered by a session or refused.
        if isinstance(function, types.FunctionType)
        and function not in _not_overridden()
        and not inspect.isgeneratorfunction(function)
        and name != "forward"
    }


@functools.lru_cache(maxsize=1)
def _not_overridden() -> tuple[Any, ...]:
    """What `state_dict` asks of a class: whether it has methods of its own in the place of these."""
    import torch

    return torch.nn.Module.get_extra_state, torch.nn.Module.set_extra_state


def _reporting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        changes: Changes = getattr(type(self), CHANGES)
        if not changes.watching:
            return function(self, *args, **kwargs)
        operation = f"a change of '{args[0]}'" if name.startswith("__") else f"{name}()"
        if args[:1] == ("__class__",):
            raise changes.refusal(operation, f"its class is {type(self).__name__}")
        return changes.make(operation, lambda: function(self, *args, **kwargs))

    return method


def _torch_function(
    cls: Any, func: Any, kinds: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
) -> Any:
    """Runs a function on tensors of a compiled module; one that writes to them is undone and refused.

    While everything may be set, it is done, and its write is counted.
    """
    import torch
    from torch.autograd.grad_mode import _unsafe_preserve_version_counter

    keywords = dict(kwargs or {})
    changes: Changes = getattr(cls, CHANGES)
    with torch._C.DisableTorchFunctionSubclass():
        own = [value for value in _flat((*args, *keywords.values())) if hasattr(type(value), CHANGES)]
        if not changes.watching:
            versions = [value._version for value in own]
            result = func(*args, **keywords)
            sets_data = func == torch.Tensor.data.__set__  # type: ignore[attr-defined]
            if sets_data or [value._version for value in own] != versions:
                changes.count_write()
        else:
            if func == torch.Tensor.data.__set__:  # type: ignore[attr-defined]
                raise changes.refusal("a change of a parameter", "'data' is set")
            before = [(value, value._version, None if value.is_meta else value.clone()) for value in own]
            with _unsafe_preserve_version_counter(tuple(own)):
                result = func(*args, **keywords)
                written = [(value, clone) for value, version, clone in before if value._version != version]
                for value, clone in written:
                    if clone is not None:
                        value.copy_(clone)
            if written:
                raise changes.refusal(
                    "a change of a parameter", f"{getattr(func, '__name__', func)} writes to it"
                )
        # `data` and views are other tensors on the same memory.
        for view in _flat((result,)):
            if type(view) is torch.Tensor and any(_shared(view, value) for value in own):
                view.__class__ = type("Tensor", (torch.Tensor,), _tensor_body(changes))
    return result


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    """The values, and those in lists and tuples among them."""
    for value in values:
        if type(value) in (list, tuple):
            yield from value
        else:
            yield value


def _shared(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(a.untyped_storage()._cdata == b.untyped_storage()._cdata)


def _tensor_body(changes: Changes) -> dict[str, Any]:
    """Of a class of tensors that report what is done to them."""
    return {"__torch_function__": classmethod(_torch_function), CHANGES: changes, COUNTED: True}
