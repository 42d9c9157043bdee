"""What functions of the API take is what their annotations say, and nothing else."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Union

import numpy as np
import pytest
import torch

from artifacts import manifest
from artifacts.argument_types import typed, with_fields_fitted
from artifacts.errors import UsageError
from runtimes.meter import Cancel

if TYPE_CHECKING:
    from artifacts.manifest import Recipe

File = Union[str, "Recipe"]


@typed
def take(
    whole: int | Sequence[int] | None = None,
    number: float | None = None,
    text: str | None = None,
    on: bool = False,
    path: str | Path | None = None,
    size: str | int | tuple[int, int] | None = None,
    weights: Mapping[str, float | Mapping[str, float]] | None = None,
    names: tuple[str, ...] = (),
    several: Iterable[str] | None = None,
    call: Callable[[int], None] | None = None,
    recipe: File | None = None,
    cancel: Cancel | None = None,
    kind: type[Exception] | None = None,
    anything: Any = None,
    **others: int,
) -> dict[str, Any]:
    return {
        name: value
        for name, value in locals().items()
        if value is not None and value is not False and value != () and value != {}
    }


class Derived(manifest.Recipe):
    """Of a class that `take` knows by its name only."""


TAKEN: list[tuple[str, Any, Any]] = [
    ("whole", 3, 3),
    ("whole", np.int64(3), 3),
    ("whole", np.array(3), 3),
    ("whole", torch.tensor(3), 3),
    ("whole", torch.tensor([3]), 3),
    ("whole", torch.tensor([3, 4]), [3, 4]),
    ("whole", np.array([3, 4]), [3, 4]),
    ("whole", (np.uint8(3), 4), (3, 4)),
    ("whole", range(2), [0, 1]),
    ("number", 3, 3),
    ("number", np.float32(0.5), 0.5),
    ("number", torch.tensor(0.5), 0.5),
    ("number", Fraction(1, 2), 0.5),
    ("text", np.str_("a"), "a"),
    ("on", np.bool_(True), True),
    ("path", "a", "a"),
    ("path", PurePosixPath("a"), Path("a")),
    ("size", 64, 64),
    ("size", [np.int64(64), 32], (64, 32)),
    ("weights", {"a": 1, "b": {"c": np.float16(0.5)}}, {"a": 1, "b": {"c": 0.5}}),
    ("names", ["a", "b"], ["a", "b"]),
    ("several", {"a": 1}.keys(), ["a"]),
    ("call", print, print),
    ("kind", ValueError, ValueError),
]


@pytest.mark.parametrize(("name", "value", "expected"), TAKEN)
def test_what_is_taken(name: str, value: Any, expected: Any) -> None:
    made = take(**{name: value})[name]
    assert made == expected and type(made) in (type(expected), np.str_)


def test_what_needs_no_change_stays_the_object_that_it_was() -> None:
    for name, value in {
        "weights": {"a": 1.0},
        "names": ["a"],
        "anything": object(),
        "recipe": Derived(components={}),
    }.items():
        assert take(**{name: value})[name] is value
    event = threading.Event()
    assert take(cancel=event, more=1.5) == {"cancel": event, "others": {"more": 1.5}}
    assert take(3, None, "a") == {"whole": 3, "text": "a"}


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError


REFUSED: list[tuple[str, Any, str]] = [
    ("whole", 1.5, r"'whole' is an integer or a list \(of each: an integer\); found 1\.5\."),
    ("whole", "2", "found '2'"),
    ("whole", True, "found True"),
    ("whole", torch.tensor(1.5), "found tensor"),
    ("whole", [1, "a"], "found"),
    ("whole", b"ab", "found b'ab'"),
    ("number", "3", "'number' is a number; found '3'"),
    ("number", False, "found False"),
    ("number", np.array([1.0, 2.0]), "found"),
    ("number", 1j, "found 1j"),
    ("text", 5, "'text' is a text; found 5"),
    ("text", b"a", "found b'a'"),
    ("on", 1, "'on' is True or False; found 1"),
    ("path", 5, "'path' is a text or a path; found 5"),
    ("size", (1, 2, 3), r"a text, an integer or \(an integer, an integer\); found \(1, 2, 3\)"),
    ("size", 32.0, "found 32.0"),
    (
        "weights",
        {"a": "b"},
        r"'weights' is a dict \(of each: a text -> a number or a dict .*found \{'a': 'b'\}",
    ),
    ("weights", {1: 1}, "found"),
    ("weights", [("a", 1)], "found"),
    ("names", "ab", r"'names' is a list \(of each: a text\); found 'ab'"),
    ("several", 5, "found 5"),
    ("call", 5, "'call' is a function; found 5"),
    ("recipe", 5, "'recipe' is a text or a Recipe; found 5"),
    ("cancel", 5, "'cancel' is an object with is_set; found 5"),
    ("kind", 5, "'kind' is a class; found 5"),
    ("text", Unprintable(), "found an object of Unprintable"),
    ("text", list(range(100)), r"found \[0, 1, .*\.\.\.\."),
]


@pytest.mark.parametrize(("name", "value", "message"), REFUSED)
def test_what_is_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        take(**{name: value})
    assert len(refused.value.message) < 250


def test_pythons_own_errors_and_what_tools_see() -> None:
    with pytest.raises(TypeError, match="multiple values"):
        take(1, whole=1)
    assert list(inspect.signature(take).parameters)[:2] == ["whole", "number"]
    assert take.__name__ == "take"


@dataclass(frozen=True)
class Request:
    """A request with a field of a class that is imported for type checkers only."""

    names: tuple[str, ...] = ()
    recipe: Recipe | str = ""
    out: Path = Path()


def test_fields_of_a_request() -> None:
    whole = Request(("a",), Derived(components={}), Path("out"))
    assert with_fields_fitted(whole) is whole
    assert with_fields_fitted(Request(out="out")) == Request(out=Path("out"))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="'recipe' is a Recipe or a text; found 5"):
        with_fields_fitted(Request(recipe=5))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="'names' is a list"):
        with_fields_fitted(Request(names="ab"))  # type: ignore[arg-type]
