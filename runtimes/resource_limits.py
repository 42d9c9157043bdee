"""How much an object may take that is made of files others wrote: modules, elements, memory and time.

A configuration's figures are no figures of memory: what they size is up to hundreds of classes. What those do while
they are made is watched instead.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

from artifacts.errors import LatentcError
from runtimes.config_keys import largest_figure, largest_figures

MODULES = 20_000
"""In one component, its submodules included."""
SPARE_WEIGHTS = 1 << 24
"""Weights that a module may have beside those that its files can hold."""
TENSOR = 128 << 20
"""Bytes of one tensor whose values are computed, which a module without weights has few of."""
SMALL = 1 << 16
"""Elements. What is computed of fewer is measured when it is there."""
BLOCKS = 3_000_000
"""Python objects that may be made at once, of some 100 bytes each."""
CPU_SECONDS = 60.0
"""Of the thread that makes it. Libraries are imported meanwhile, which takes ten of a slow machine."""
WALL_SECONDS = 300.0
"""Where a system does not tell a thread's own time."""
PULSE = 0.05
HINT = "compile the model again, from a source that you trust."


class _Exceeded(BaseException):
    """Raised in a thread from outside of it: nothing that catches `Exception` keeps it from getting out."""


class _Limit(BaseException):
    """Raised where something is made that is too large; nor does anything try again in another way."""


@contextmanager
def bounded(
    subject: str, elements: int | None = None, config: bytes = b"", tensor: int = TENSOR, hint: str = HINT
) -> Iterator[None]:
    """For as long as it is open, what this thread makes stays within the limits above.

    Python's loops are ended from outside when they run too long or make too many objects. One call of a native
    function is not: tensors are measured before they are made, and figures that size other arrays have limits of their
    own (`runtimes.configs`).

    Args:
        subject: what is being made, for the error.
        elements: parameters that all modules together may have, of any device; None for any number.
        config: the configuration that it is made of, whose largest figures the error names; empty for none.
        tensor: bytes that one tensor may have whose values are computed.
        hint: what to do about it.

    Raises:
        LatentcError: it does not.
    """
    try:
        with _ended_from_outside(), _measured_modules(elements), _measured_tensors(elements, tensor):
            yield
    except (_Limit, _Exceeded) as error:
        raise LatentcError(
            f"{subject} is too large: {error}.{largest_figures(config)}",
            f"A figure in its configuration is wrong: {hint}",
        ) from None
    except MemoryError:
        raise LatentcError(
            f"{subject} takes more memory than there is.{largest_figures(config)}",
            "A figure in its configuration is wrong, or close other programs.",
        ) from None


@contextmanager
def sized_within(subject: str, tensor: int, configs: Mapping[str, bytes], hint: str) -> Iterator[None]:
    """For as long as it is open, tensors that this thread makes of a size alone (zeros, noise) have at most `tensor`
    bytes.

    Args:
        subject: what makes them, for the error.
        configs: file -> the configuration in it, of which the error names the one with the largest figure.
        hint: what to do about it.

    Raises:
        LatentcError: one has more.
    """
    try:
        with _measured_tensors(None, tensor, results=False):
            yield
    except _Limit as error:
        file = max(configs, key=lambda file: largest_figure(configs[file]), default="")
        where = f" It follows {file}.{largest_figures(configs[file])}" if file else ""
        raise LatentcError(f"{subject}: {error}.{where}", hint) from None


@contextmanager
def _measured_modules(elements: int | None) -> Iterator[None]:
    from torch.nn.modules import module

    thread, modules, total = threading.get_ident(), 0, 0

    def count_module(*_: Any) -> None:
        nonlocal modules
        if threading.get_ident() == thread:
            modules += 1
            if modules > MODULES:
                raise _Limit(f"it has more than {MODULES} modules")

    def count_parameter(owner: Any, name: str, parameter: Any) -> None:
        nonlocal total
        if threading.get_ident() == thread and parameter is not None and elements is not None:
            total += parameter.numel()
            if total > elements:
                raise _Limit(f"it has more than {elements} weights, and its files cannot hold as many")

    hooks = (
        module.register_module_module_registration_hook(count_module),
        module.register_module_parameter_registration_hook(count_parameter),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _measured_tensors(elements: int | None, limit: int, results: bool = True) -> Iterator[None]:
    """Tensors of a size alone are measured; with `results` also what is computed of tensors."""
    with _measured()(elements, limit, results):
        yield


@cache
def _measured() -> type:
    """The mode that measures tensors. A class is a cycle, which a process with many objects rarely collects: there is
    one, and not one for each picture."""
    import torch
    from torch.overrides import TorchFunctionMode

    names = (
        "zeros",
        "ones",
        "full",
        "arange",
        "linspace",
        "logspace",
        "eye",
        "rand",
        "randn",
        "randint",
    )
    makers = {getattr(torch, name) for name in names}

    class Measured(TorchFunctionMode):
        def __init__(self, elements: int | None, limit: int, results: bool) -> None:
            super().__init__()
            self._elements, self._limit, self._results = elements, limit, results

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if str(kwargs.get("device")) == "meta":
                return func(*args, **kwargs)
            if func is torch.empty:
                # How parameters begin: it takes no memory until it is written.
                empty = func(*args, **{**kwargs, "device": "meta"})
                if self._elements is not None and empty.numel() > self._elements:
                    raise _Limit(
                        f"it has a tensor of {list(empty.shape)}, and its files hold at most {self._elements} weights"
                    )
                return func(*args, **kwargs)
            if func in makers:
                _check_size(func(*args, **{**kwargs, "device": "meta"}), self._limit)
            elif self._results and args and _is_real(args[0]) and _writes(func):
                _check_size(args[0], self._limit)
            elif self._results and any(_is_real(value) and value.numel() > SMALL for value in args):
                _check_size(_on_meta(func, args, kwargs), self._limit)
            result = func(*args, **kwargs)
            if self._results and _is_real(result) and not _shares_memory(result, args):
                _check_size(result, self._limit)
            return result

    return Measured


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _is_real(value: Any) -> bool:
    return _is_tensor(value) and value.device.type != "meta"


def _writes(func: Any) -> bool:
    """Whether a function of torch writes into its first argument."""
    name: str = getattr(func, "__name__", "")
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


def _shares_memory(result: Any, tensors: Iterable[Any]) -> bool:
    """Whether a result is a view of one of `tensors`, which are all on the meta device or all real."""
    memory = result.untyped_storage()._cdata
    return any(_is_tensor(value) and value.untyped_storage()._cdata == memory for value in tensors)


def _on_meta(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What `func` would compute, without its values; None where that takes the values, or no memory."""
    shapes = [value.to("meta") if _is_real(value) else value for value in args]
    try:
        result = func(*shapes, **kwargs)
    except Exception:  # Of functions that read values, or take more tensors than these: any kind.
        return None
    is_elsewhere = any(str(value) == "meta" for value in (*args, *kwargs.values()) if not _is_tensor(value))
    return None if is_elsewhere or not _is_tensor(result) or _shares_memory(result, shapes) else result


def _check_size(tensor: Any, limit: int) -> None:
    if tensor is not None and tensor.numel() * tensor.element_size() > limit:
        raise _Limit(f"it makes a tensor of {list(tensor.shape)}")


@contextmanager
def _ended_from_outside() -> Iterator[None]:
    watch = _Watch(threading.get_ident())
    thread = threading.Thread(target=watch.run, name="limits", daemon=True)
    thread.start()
    try:
        yield
    except _Exceeded:
        raise _Limit(watch.reason) from None
    finally:
        watch.end()
    if watch.reason:
        raise _Limit(watch.reason)


class _Watch:
    """Looks at what a thread has used, and ends what it does where that is too much."""

    def __init__(self, thread: int) -> None:
        self._thread = thread
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._clock, self._seconds = _clock(thread)
        self._start = self._clock()
        self._blocks = _blocks()
        self.reason = ""

    def run(self) -> None:
        while not self._ended.wait(PULSE):
            if self._clock() - self._start > self._seconds:
                self._stop(f"it takes more than {self._seconds:.0f} seconds to make")
            elif _blocks() - self._blocks > BLOCKS:
                self._stop(f"it is made of more than {BLOCKS} objects")

    def _stop(self, reason: str) -> None:
        with self._lock:
            if not self._ended.is_set():
                self.reason = reason
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._thread), ctypes.py_object(_Exceeded)
                )
                self._ended.set()

    def end(self) -> None:
        """Nothing is raised in the thread from now on."""
        with self._lock:
            self._ended.set()
            # What was raised and has not arrived would arrive anywhere.
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), None)


def _clock(thread: int) -> tuple[Callable[[], float], float]:
    """A clock of a thread's own time, and how long it may take by it."""
    if hasattr(time, "pthread_getcpuclockid"):
        number = time.pthread_getcpuclockid(thread)
        return (lambda: time.clock_gettime(number)), CPU_SECONDS
    return time.monotonic, WALL_SECONDS


def _blocks() -> int:
    """Python's objects, which other threads' work in native code does not change."""
    return sys.getallocatedblocks()
