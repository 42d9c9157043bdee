"""What to do about tensors whose sizes no graph takes: by the axes that differ, and what the manifest says of them.

A named dimension is declared by an option of `compile`. A fixed number is one that an argument of the call decides, the
length of a text, a picture's side where there is one size only, or else the model's own, which no compile changes.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from artifacts.manifest import DimRange, Manifest
from runtimes.compiled_method import NotCompiled
from runtimes.generate_options import SYNONYMS, as_compile_options, parameters, parse_value, synonym
from runtimes.value_tree import Misfit, shape_text

OPTIONS: Mapping[str, str] = {
    "height": "size",
    "width": "size",
    "tokens": "size",  # Of a picture, whose pixels are in a row.
    "batch": "batch",
    "frames": "frames",
    "text": "tokens",
}
"""The manifest's name of a dimension, without its number -> the option of `compile` that declares it."""

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Channels -> what Pillow calls such pictures."""


def next_step(
    error: NotCompiled, pipeline: Any, args: Sequence[Any], kwargs: Mapping[str, Any], manifest: Manifest
) -> str:
    """What to do about a call that no graph answers; what the error says itself, where nothing else is known.

    Args:
        pipeline: diffusers' own.
        args, kwargs: what it was called with.
    """
    signature = parameters(pipeline)
    passed = {**dict(zip(signature, args, strict=False)), **kwargs}
    if (hint := size_hint(error.misfits, pipeline, passed, manifest)) or error.by_shape:
        return hint
    options = as_compile_options(signature, passed, manifest.arguments)
    return (
        f"Compile it with what this call is given: latentc compile MODEL OUT {options}"
        if options
        else error.hint
    )


def size_hint(
    misfits: Sequence[Sequence[Misfit]], pipeline: Any, given: Mapping[str, Any], manifest: Manifest
) -> str:
    """The next thing to do; empty where none is known.

    Args:
        misfits: of each graph that a call might have been for, the axes whose sizes do not fit.
        pipeline: diffusers' own.
        given: what it was called with, by the names of its parameters.
    """
    call = _Call(pipeline, given, manifest)
    return next((hint for wrong in sorted(misfits, key=len) if (hint := call.hint(wrong))), "")


def refusal(misfits: Sequence[Sequence[Misfit]], pipeline: Any, manifest: Manifest) -> tuple[str, str] | None:
    """What is wrong with a request itself, and what to ask for; None where a compile may help.

    Args:
        misfits, pipeline: as of `size_hint`.
    """
    signature = parameters(pipeline)
    for misfit in (misfit for wrong in misfits for misfit in wrong):
        size = misfit.dim.rstrip("0123456789").rstrip("_")
        if misfit.found == 0 and synonym("strength", signature):
            return (
                f"{type(pipeline).__name__} is left with no step: so little is to be drawn anew.",
                "Ask for more strength, or for more steps.",
            )
        if misfit.between and misfit.step > 1 and size in manifest.sizes:
            return (
                f"the artifact was compiled for a {size} of {manifest.sizes[size].text}; the one that is asked for "
                "lies between.",
                "Ask for one of these, or compile one size: latentc compile MODEL OUT --size WIDTHxHEIGHT",
            )
    return None


class _Call:
    def __init__(self, pipeline: Any, given: Mapping[str, Any], manifest: Manifest) -> None:
        self._known = parameters(pipeline)
        self._given = {name: value for name, value in given.items() if value is not None}
        self._manifest = manifest
        encode = getattr(pipeline, "encode_prompt", None)
        of_text = frozenset() if encode is None else inspect.signature(encode).parameters.keys()
        self._tensors = dict(self._shapes())
        self._embeddings = {name: shape for name, shape in self._tensors.items() if name in of_text}

    def hint(self, misfits: Sequence[Misfit]) -> str:
        """What makes all of these fit; what the call itself must have otherwise comes before any compile."""
        options: dict[str, str] = {}
        for misfit in misfits:
            if otherwise := self._otherwise(misfit):
                return otherwise
            options |= dict([self._option(misfit)])
        if not options or "" in options:  # One that no compile is known to mend.
            return ""
        return f"Compile it for that: latentc compile MODEL OUT {' '.join(filter(None, options.values()))}"

    def _otherwise(self, misfit: Misfit) -> str:
        """What the call must be given in place of what it is given; empty where that is not known."""
        if misfit.apart:
            shapes = [f"'{name}' is {shape_text(shape)}" for name, shape in self._tensors.items()]
            return f"Give it arguments of one size: {', '.join(shapes)}." if len(shapes) > 1 else ""
        if misfit.dim:
            return ""
        return self._picture(misfit) or self._left_out(misfit) or self._own_size(misfit)

    def _picture(self, misfit: Misfit) -> str:
        """Of a picture with other channels than the model's."""
        mode = MODES.get(misfit.low)
        if misfit.rank < 4 or misfit.axis in (0, misfit.rank - 1) or mode is None:
            return ""
        for name, value in self._given.items():
            first = _first(value)
            bands = getattr(first, "getbands", None)
            if bands is not None and len(bands()) == misfit.found:
                return f"Give '{name}' as {mode}: picture.convert(\"{mode}\")"
        return ""

    def _left_out(self, misfit: Misfit) -> str:
        """Of a number that the artifact was compiled with, and that the call leaves at the pipeline's default."""
        for name, text in self._manifest.arguments.items():
            value, default = parse_value(text, name), self._default(name)
            if name not in self._given and _explains(default, value, misfit):
                return f"Call it as it was compiled: {name}={value}"
        return ""

    def _own_size(self, misfit: Misfit) -> str:
        """Of a size of the model's own: the width of embeddings, the channels of latents."""
        own = misfit.axis == (1 if misfit.rank > 3 else misfit.rank - 1)
        for name, shape in self._tensors.items():
            if own and len(shape) == misfit.rank and shape[misfit.axis] == misfit.found:
                return (
                    f"Give '{name}' with {misfit.low} in place of {misfit.found} in its axis {misfit.axis}: "
                    "that is the model's, however it is compiled."
                )
        return ""

    def _option(self, misfit: Misfit) -> tuple[str, str]:
        """An option of `compile`, and how it is written; both empty where none is known."""
        if misfit.dim:
            name = OPTIONS.get(misfit.dim.rstrip("0123456789").rstrip("_"), "")
            return self._text(misfit) if name == "tokens" else _more(self._counted(name))
        usual = {name for names in SYNONYMS.values() for name in names}
        for name in (name for name in self._given if name in self._known and name not in usual):
            compiled = self._manifest.arguments.get(name)
            before = self._default(name) if compiled is None else parse_value(compiled, name)
            if _explains(self._given[name], before, misfit):
                return name, f"--arg {name}={self._given[name]}"
        if any(len(shape) == 3 and shape[1] == misfit.found for shape in self._embeddings.values()):
            return self._text(misfit)
        if misfit.axis == 0:
            return _more("batch")
        return _more(self._side(misfit))

    def _counted(self, name: str) -> str:
        """Frames may be in a row with those of the other videos of a call."""
        requested = self._given.get(synonym("frames", self._known) or "")
        limits = self._manifest.sizes.get("frames")
        within = isinstance(requested, int) and limits is not None and limits.min <= requested <= limits.max
        return "batch" if name == "frames" and within else name

    def _text(self, misfit: Misfit) -> tuple[str, str]:
        """The length of a text that is given as embeddings."""
        if not self._embeddings:
            return "", ""
        own = DimRange(min=misfit.low, max=misfit.high)
        declared = self._manifest.sizes.get("tokens", own)
        low, high = min(declared.min, misfit.found), max(declared.max, misfit.found)
        return "tokens", f"--tokens {low}..{high}"

    def _side(self, misfit: Misfit) -> str:
        """ "size" or "frames" of an artifact that has only one, where a call asks for another."""
        for option, names in (("size", ("height", "width")), ("frames", ("frames",))):
            for name in names:
                limits = self._manifest.sizes.get(name)
                requested = self._given.get(synonym(name, self._known) or "")
                fixed = limits is not None and limits.min == limits.max
                if fixed and isinstance(requested, int) and requested != limits.min:  # type: ignore[union-attr]
                    return option
                if fixed and option == "size" and misfit.rank >= 4 and misfit.axis >= misfit.rank - 2:
                    return option
        return ""

    def _default(self, name: str) -> Any:
        return self._known[name].default if name in self._known else None

    def _shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        for name, value in self._given.items():
            first = _first(value)
            shape = getattr(first, "shape", None)
            if shape is not None:
                yield name, tuple(shape)


def _more(option: str) -> tuple[str, str]:
    return (option, f"--{option} MIN..MAX") if option else ("", "")


def _explains(value: Any, before: Any, misfit: Misfit) -> bool:
    """Whether a number in the place of another changes a size as it is changed."""
    numbers = all(isinstance(n, int) and not isinstance(n, bool) for n in (value, before))
    return numbers and value != before and value - before == misfit.found - misfit.low


def _first(value: Any) -> Any:
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return value
