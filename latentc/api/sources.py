"""What a compile is told of its model's own files: adapters, embeddings and other components."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Union

from artifacts.errors import UsageError
from latentc.api.keywords import File

if TYPE_CHECKING:
    from artifacts.manifest import Adapter, Embedding, IpAdapter

Components = Mapping[str, Union[File, Sequence[File]]]
"""Name -> a folder, a file of weights, "none", or several folders, for a list of models."""

Loras = Union[File, Sequence[Union[File, "Adapter"]], Mapping[str, Union[float, Mapping[str, float]]]]
"""A file, several ("style.safetensors:0.8"), or file -> weight, or file -> component -> weight."""

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"


def adapters(loras: Loras | None) -> tuple[Adapter, ...] | None:
    """The adapters that texts (``FILE[:WEIGHT]``, ``FILE:unet=0.8,text_encoder=0``) or a dict name.

    Raises:
        UsageError: a weight is no finite number, or a file is given twice.
    """
    result = _adapters(loras)
    seen: set[str] = set()
    for adapter in result or ():
        place = os.path.realpath(adapter.file)
        if place in seen:
            raise UsageError(
                f"--lora: {adapter.file} is given twice.", "Give it once, with the sum of the weights."
            )
        seen.add(place)
    return result


def _adapters(loras: Loras | None) -> tuple[Adapter, ...] | None:
    from artifacts.manifest import Adapter

    if loras is None:
        return None
    if isinstance(loras, Mapping):
        result = []
        for file, weight in loras.items():
            weights = dict(weight) if isinstance(weight, Mapping) else {}
            whole = 1.0 if isinstance(weight, Mapping) else weight
            result.append(_adapter(os.fspath(file), whole, weights))
        return tuple(result)
    files = [loras] if isinstance(loras, (str, os.PathLike)) else loras
    return tuple(item if isinstance(item, Adapter) else _parsed(os.fspath(item)) for item in files)


def _parsed(text: str) -> Adapter:
    file, colon, weight = text.rpartition(":")
    if colon and re.fullmatch(_NUMBER, weight):
        return _adapter(file, float(weight), {})
    if colon and re.fullmatch(rf"\w+={_NUMBER}(?:,\w+={_NUMBER})*", weight):
        pairs = (pair.partition("=") for pair in weight.split(","))
        return _adapter(file, 1.0, {name: float(value) for name, _, value in pairs})
    # A path that ends in ":text" was a weight that is none; a drive letter has a separator behind its colon.
    if colon and file and not re.search(r"[\\/]", weight) and not os.path.exists(text):
        raise UsageError(
            f"--lora: '{weight}' is no weight of {file}.",
            "Write FILE, FILE:0.8 or FILE:unet=0.8,text_encoder=0",
        )
    return _adapter(text, 1.0, {})


def _adapter(file: str, weight: float, components: Mapping[str, float]) -> Adapter:
    from artifacts.manifest import LARGEST_STRENGTH, Adapter

    for value in (weight, *components.values()):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
            raise UsageError(f"--lora: the weight of {file} is {value!r}; it must be a finite number.")
        if abs(value) > LARGEST_STRENGTH:
            raise UsageError(
                f"--lora: the weight of {file} is larger than float32 holds; it must be a finite number up to "
                f"{LARGEST_STRENGTH:.3g}."
            )
    return Adapter(file=os.path.abspath(file), weight=weight, components=dict(components))


def embeddings(files: File | Sequence[File] | Mapping[str, str] | None) -> tuple[Embedding, ...] | None:
    """The textual inversions that texts (``FILE[:TOKEN]``), or a dict of file -> token, name."""
    from artifacts.manifest import Embedding

    if files is None:
        return None
    if isinstance(files, Mapping):
        return tuple(Embedding(file=os.path.abspath(file), token=token) for file, token in files.items())
    result = []
    for item in [files] if isinstance(files, (str, os.PathLike)) else files:
        text = os.fspath(item)
        file, colon, token = text.rpartition(":")
        named = bool(colon) and len(file) > 1 and not re.search(r"[\\/]", token) and not os.path.exists(text)
        result.append(Embedding(file=os.path.abspath(file if named else text), token=token if named else ""))
    return tuple(result)


def components(
    places: Components | Iterable[tuple[str, str]] | None,
) -> dict[str, str | tuple[str, ...]] | None:
    """Other components by name; a name that pairs give several times has several places.

    Raises:
        UsageError: "none" is one of several places.
    """
    if places is None:
        return None
    grouped: dict[str, list[str]] = {}
    for name, value in places.items() if isinstance(places, Mapping) else places:
        several = [value] if isinstance(value, (str, os.PathLike)) else value
        grouped.setdefault(name, []).extend(map(os.fspath, several))
    for name, texts in grouped.items():
        if len(texts) > 1 and "none" in texts:
            raise UsageError(f"--component {name} is both left out (none) and given.", "Give one of both.")
    return {name: texts[0] if len(texts) == 1 else tuple(texts) for name, texts in grouped.items()}


def ip_adapters(files: File | Sequence[File] | None) -> tuple[IpAdapter, ...] | None:
    """The IP-Adapters in files."""
    from artifacts.manifest import IpAdapter

    if files is None:
        return None
    several = [files] if isinstance(files, (str, os.PathLike)) else files
    return tuple(IpAdapter(file=os.path.abspath(file)) for file in several)
