"""What sessions share: devices by name, vendor errors in our words, threads, arrays that fit their specs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.error_text import first_lines
from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import TensorSpec
from artifacts.processors import limit
from artifacts.units import whole_number
from runtimes.sessions.session_contract import Device, Refused, Releases, Session

if TYPE_CHECKING:
    import numpy as np

THREADS = "LATENTC_THREADS"
MOST_THREADS = 1024

# Of what a vendor says.
_LINES = 6
_preferred: ContextVar[int | None] = ContextVar("preferred_threads", default=None)


@contextmanager
def preferred_threads(count: int | None) -> Iterator[None]:
    """What is opened meanwhile has `count` threads where nobody asks for another number; None changes nothing."""
    token = _preferred.set(_preferred.get() if count is None else count)
    try:
        yield
    finally:
        _preferred.reset(token)


def threads() -> int | None:
    """Threads for one inference: those of the environment variable LATENTC_THREADS, or those that are preferred, but no
    more than the processors that this process is bound to or its container is given; None where that is all of the
    machine's: the vendor chooses.

    Raises:
        UsageError: the variable is not a positive integer, or more than `MOST_THREADS`.
    """
    text = os.environ.get(THREADS, "")
    if not text:
        preferred, most = _preferred.get(), limit()
        return most if preferred is None else preferred if most is None else min(preferred, most)
    count = whole_number(text)
    if count is None or not 1 <= count <= MOST_THREADS:
        raise UsageError(
            f"{THREADS} must be a positive integer of at most {MOST_THREADS}; found '{text}'.",
            f"For instance: {THREADS}=4",
        )
    return count


def choose(device: str, devices: Sequence[Device], target: str, install: str) -> str:
    """The name of the device to open: `device` itself, or the first there is for "auto".

    Raises:
        LatentcError: the vendor's package is missing, so there are no devices.
        UsageError: there is no such device.
    """
    if not devices:
        raise LatentcError(
            f"artifacts of target '{target}' need a package that is not installed.", f"Run: {install}"
        )
    names = [d.name for d in devices]
    if device == "auto":
        return names[0]
    if device.lower() in names:
        return device.lower()
    raise UsageError(f"target '{target}' has no device '{device}' here (there are: {', '.join(names)}).")


@contextmanager
def opening(model_file: Path, target: str) -> Iterator[None]:
    """Turns what a vendor raises while it opens `model_file` into a `Refused`."""
    try:
        yield
    except LatentcError:
        raise
    except Exception as error:  # Vendors raise their own types, some of them directly under Exception.
        raise Refused(
            f"{target} cannot open {model_file.parent.name}/{model_file.name}: {first_lines(error, _LINES)}",
            "See: latentc verify ARTIFACT",
        ) from error


@contextmanager
def running(name: str, target: str, inputs: Mapping[str, np.ndarray]) -> Iterator[None]:
    """Turns what a vendor raises while it runs into a `Refused` that says which graph and shapes."""
    try:
        yield
    except LatentcError:
        raise
    except Exception as error:  # As above.
        shapes = ", ".join(f"{k} {v.dtype.name}{list(v.shape)}" for k, v in inputs.items())
        raise Refused(f"{target} failed in {name} with {shapes}: {first_lines(error, _LINES)}") from error


def give_back(session: Session) -> bool:
    """Has a session give back the memory that calls computed in, if it keeps any until the next; returns whether it
    could: one that cannot keeps it until it is closed."""
    return session.release() if isinstance(session, Releases) else True


def check_inputs(inputs: Mapping[str, np.ndarray], specs: Mapping[str, TensorSpec], name: str) -> None:
    """Raises LatentcError unless `inputs` has exactly the arrays of `specs`, with their dtypes and shapes."""
    missing = [n for n in specs if n not in inputs]
    extra = [n for n in inputs if n not in specs]
    if missing or extra:
        raise LatentcError(
            f"{name} takes the inputs {', '.join(specs)}; missing: {missing}, not its own: {extra}."
        )
    for key, spec in specs.items():
        array = inputs[key]
        fits = len(array.shape) == len(spec.shape) and all(
            isinstance(want, str) or want == have for want, have in zip(spec.shape, array.shape, strict=True)
        )
        if _name(array.dtype) != spec.dtype or not fits:
            raise LatentcError(
                f"{name} takes '{key}' as {spec.dtype}{list(spec.shape)}; "
                f"found {array.dtype.name}{list(array.shape)}."
            )


@cache
def _name(dtype: np.dtype[Any]) -> str:
    """The type's name, which NumPy puts together anew each time."""
    return dtype.name


def check_run(
    opened: object | None, inputs: Mapping[str, np.ndarray], specs: Mapping[str, TensorSpec], name: str
) -> None:
    """What a session's `run` begins with.

    Args:
        opened: the vendor's object; None after `close`.

    Raises:
        LatentcError: the session is closed, or `inputs` are not the graph's.
    """
    if opened is None:
        raise LatentcError(f"the session of {name} is closed.")
    check_inputs(inputs, specs, name)


class InputCheck:
    """What a session's `run` begins with: inputs like the last ones, which were looked at, pass at once."""

    def __init__(self, specs: Mapping[str, TensorSpec], name: str) -> None:
        self._specs = specs
        self._name = name
        self._passed: list[Any] = []

    def check(self, opened: object | None, inputs: Mapping[str, np.ndarray]) -> None:
        """Raises LatentcError as `check_run` does."""
        form = [(name, array.dtype, array.shape) for name, array in inputs.items()]
        if opened is None or form != self._passed:
            check_run(opened, inputs, self._specs, self._name)
            self._passed = form
