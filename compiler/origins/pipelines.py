"""Which of diffusers' pipelines does with a further component what another does without, told by their signatures."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Collection, Iterator
from typing import Any

from runtimes.trusted_classes import is_list, is_own

# Arguments of a call that say what a pipeline starts from.
_STARTS = ("strength", "mask_image", "original_image")


def with_component(
    pipeline: type, names: Collection[str], settings: Collection[str], component: str
) -> tuple[type, ...]:
    """`pipeline`, if it takes the component; else those of diffusers that start from the same with it, likely first.

    Args:
        names: the components that the model has.
        settings: what its index has beside components.
    """
    if component in inspect.signature(pipeline.__init__).parameters:  # type: ignore[misc]
        return (pipeline,)
    result = []
    for candidate in _family(pipeline, component):
        parameters = inspect.signature(candidate.__init__).parameters  # type: ignore[misc]
        optional = set(getattr(candidate, "_optional_components", ()))
        required = {n for n, p in parameters.items() if p.default is p.empty and n != "self"} - optional
        if (
            component in parameters
            and required <= {*names, *settings, component}
            and set(names) <= set(parameters)
            and _starts(candidate) == _starts(pipeline)
        ):
            result.append(candidate)
    return tuple(result)


def names_class(pipeline: type, component: str, cls: type) -> bool:
    """Whether the pipeline's constructor names the class, or a base of it, for that component."""
    words = _words(inspect.signature(pipeline.__init__).parameters[component])  # type: ignore[misc]
    return any(base.__name__ in words for base in cls.__mro__)


def list_class(pipeline: type, component: str) -> type | None:
    """The class of several such components (MultiControlNetModel), which the pipeline's constructor names."""
    words = _words(inspect.signature(pipeline.__init__).parameters[component])  # type: ignore[misc]
    classes = (getattr(sys.modules[pipeline.__module__], word, None) for word in words)
    return next((c for c in classes if isinstance(c, type) and is_own(c) and is_list(c)), None)


def _family(pipeline: type, component: str) -> Iterator[type]:
    """The pipelines named after this one and the component: importing all of diffusers' takes many seconds."""
    import diffusers

    stem = pipeline.__name__.removesuffix("Pipeline")
    word = component.replace("_", "")
    names = [n for n in dir(diffusers) if n.startswith(stem) and word in n.lower() and n.endswith("Pipeline")]
    for name in sorted(names, key=lambda n: (len(n), n)):
        candidate: Any = getattr(diffusers, name, None)
        if isinstance(candidate, type) and is_own(candidate):
            yield candidate


def _starts(pipeline: Any) -> set[str]:
    return set(_STARTS) & set(inspect.signature(pipeline.__call__).parameters)


def _words(parameter: inspect.Parameter) -> list[str]:
    return re.findall(r"\w+", str(parameter.annotation))
