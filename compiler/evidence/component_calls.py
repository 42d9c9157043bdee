"""What pipelines ask of their components: kept while one runs, and compared while another is given the same back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from compiler.capture import trees
from compiler.evidence.metrics import relative_error
from runtimes.call_arguments import bind

Methods = Mapping[str, tuple[torch.nn.Module, str]]
""" "unet.forward" -> the module that has the method, and the method's name there."""


class Difference(Exception):
    """A pipeline asked something else of a component, or a component gave something else back."""


@dataclass(frozen=True)
class Call:
    """One call of a component: its tensors by the names of its arguments, and what came back."""

    name: str
    inputs: Mapping[str, torch.Tensor]
    result: Any


@dataclass
class Worst:
    """The largest relative errors of all calls: of what components were given, and of what they gave back."""

    inputs: float = 0.0
    outputs: float = 0.0


@dataclass
class Calls:
    """The calls of components that one run of a pipeline made, in order."""

    _calls: list[Call] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._calls)

    @contextmanager
    def recording(self, methods: Methods) -> Iterator[None]:
        """While it is open, calls of `methods` are kept; those that a component makes of itself are not."""
        inside = False

        def keep(name: str, owner: torch.nn.Module, leaf: str, original: Callable[..., Any]) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal inside
                if inside:
                    return original(*args, **kwargs)
                inputs = _tensors(owner, leaf, args, kwargs)  # before the call, which may write to them
                inside = True
                try:
                    result = original(*args, **kwargs)
                finally:
                    inside = False
                self._calls.append(Call(name, inputs, trees.map_tensors(result, torch.clone)))
                return result

            return call

        with _replaced(methods, keep):
            yield

    @contextmanager
    def replaying(self, methods: Methods, tolerance: float, limits: Mapping[str, float]) -> Iterator[Worst]:
        """While it is open, `methods` are called and compared with the calls that were kept, and give back what those
        gave.

        Args:
            tolerance: the largest relative error of an input.
            limits: of what each method gives back.

        Raises:
            Difference: in a call: it is another one, or an error is larger. At the end: calls are missing.
        """
        pending = iter(enumerate(self._calls, start=1))
        worst = Worst()

        def compare(name: str, owner: torch.nn.Module, leaf: str, original: Callable[..., Any]) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                number, expected = next(pending, (len(self._calls) + 1, None))
                if expected is None or expected.name != name:
                    wanted = "nothing more" if expected is None else f"'{expected.name}'"
                    raise Difference(
                        f"call {number} of a component is of '{name}', where PyTorch's calls {wanted}."
                    )
                inputs = _tensors(owner, leaf, args, kwargs)
                error = _compared(
                    inputs, expected.inputs, tolerance, f"call {number}, '{name}', is given another"
                )
                worst.inputs = max(worst.inputs, error)
                result = original(*args, **kwargs)
                ours, theirs = (dict(enumerate(trees.leaves(value))) for value in (result, expected.result))
                error = _compared(
                    ours, theirs, limits[name], f"call {number}, '{name}', gives back another tensor"
                )
                worst.outputs = max(worst.outputs, error)
                return trees.map_tensors(expected.result, torch.clone)

            return call

        with _replaced(methods, compare):
            yield worst
        missing = next(pending, None)
        if missing is not None:
            raise Difference(
                f"'{missing[1].name}', which PyTorch's pipeline calls as number {missing[0]}, is not called."
            )


@contextmanager
def _replaced(
    methods: Methods, make: Callable[[str, torch.nn.Module, str, Callable[..., Any]], Any]
) -> Iterator[None]:
    """Puts what `make` returns in the methods' places, on the instances."""
    with ExitStack() as stack:
        for name, (owner, leaf) in methods.items():
            original = getattr(owner, leaf)
            own = leaf in vars(owner)  # A shell's methods are its instance's.
            object.__setattr__(owner, leaf, make(name, owner, leaf, original))
            stack.callback(_put_back, owner, leaf, original if own else None)
        yield


def _put_back(owner: torch.nn.Module, leaf: str, original: Callable[..., Any] | None) -> None:
    if original is None:
        vars(owner).pop(leaf)
    else:
        object.__setattr__(owner, leaf, original)


def _tensors(owner: torch.nn.Module, leaf: str, args: Any, kwargs: Any) -> dict[str, torch.Tensor]:
    """Copies of a call's tensors, and its numbers, by the names of its arguments; defaults are among them."""
    _, flat = trees.flatten_arguments(leaf, bind(type(owner), leaf, args, kwargs))
    numbers = {"_".join(map(str, path)): torch.tensor(value) for path, value in flat.numbers.items()}
    return numbers | {name: tensor.detach().clone() for name, tensor in flat.tensors.items()}


def _compared(
    values: Mapping[Any, torch.Tensor], expected: Mapping[Any, torch.Tensor], tolerance: float, subject: str
) -> float:
    """The largest relative error.

    Raises:
        Difference: it is over the tolerance, or there are others than expected.
    """
    if values.keys() != expected.keys():
        names = sorted(map(str, values.keys() ^ expected.keys()))
        raise Difference(f"{subject}: only one of both has {', '.join(names)}.")
    worst = 0.0
    for name, value in values.items():
        error = _error(value, expected[name])
        if not error <= tolerance:
            figure = (
                f"relative error {error:.2g}, at most {tolerance:g} is allowed"
                if error == error
                else "not alike"
            )
            raise Difference(f"{subject} {name}: {figure}.".replace("tensor 0:", "tensor:"))
        worst = max(worst, error)
    return worst


def _error(value: torch.Tensor, expected: torch.Tensor) -> float:
    a, b = (_array(tensor) for tensor in (value, expected))
    return 0.0 if a.shape == b.shape and np.array_equal(a, b, equal_nan=True) else relative_error(a, b)


def _array(tensor: torch.Tensor) -> np.ndarray:
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    array: np.ndarray = real.detach().cpu().to(torch.float64).numpy()
    return array
