"""How much an object may take that is made of files others wrote: modules, elements, memory and time.

A configuration's figures are no figures of memory: what they size is up to hundreds of classes. What those do while
they are made is watched instead.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from artifacts.errors import LatentcError

MODULES = 20_000
"""In one component, its submodules included."""
TENSOR = 128 << 20
"""Bytes of one tensor that is made for real, which a module without weights has few of."""
BLOCKS = 3_000_000
"""Python objects that may be made at once, of some 100 bytes each."""
CPU_SECONDS = 60.0
"""Of the thread that makes it. Libraries are imported meanwhile, which takes ten of a slow machine."""
WALL_SECONDS = 300.0
"""Where a system does not tell a thread's own time."""
PULSE = 0.05


class _Exceeded(BaseException):
    """Raised in a thread from outside of it: nothing that catches `Exception` keeps it from getting out."""


class _Limit(BaseException):
    """Raised where something is made that is too large; nor does anything try again in another way."""


@contextmanager
def bounded(what: str, elements: int | None = None) -> Iterator[None]:
    """For as long as it is open, what this thread makes stays within the limits above.

    Python's loops are ended from outside when they run too long or make too many objects. One call of a native
    function is not: tensors are measured before they are made, and figures that size other arrays have limits of their
    own (`runtimes.configs`).

    Args:
        what: what is being made, for the error.
        elements: parameters that all modules together may have, of any device; None for any number.

    Raises:
        LatentcError: it does not.
    """
    try:
        with _ended_from_outside(), _measured_modules(elements), _measured_tensors():
            yield
    except (_Limit, _Exceeded) as error:
        raise LatentcError(
            f"{what} is larger than an artifact can need: {error}.",
            "A figure in its configuration is wrong: compile the model again, from a source that you trust.",
        ) from None
    except MemoryError:
        raise LatentcError(
            f"{what} takes more memory than there is.",
            "A figure in its configuration is wrong, or close other programs.",
        ) from None


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
                raise _Limit(
                    f"it has more than {elements} weights, and its graphs' files cannot hold as many"
                )

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
def _measured_tensors() -> Iterator[None]:
    import torch
    from torch.overrides import TorchFunctionMode

    names = (
        "empty",
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
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in makers and str((kwargs or {}).get("device")) != "meta":
                _check_size(func(*args, **{**(kwargs or {}), "device": "meta"}))
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.device.type != "meta":
                _check_size(result)
            return result

    with Measured():
        yield


def _check_size(tensor: Any) -> None:
    if tensor.numel() * tensor.element_size() > TENSOR:
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
