"""What a pipeline has beside its modules: schedulers, tokenizers and processors, each from its own files alone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from artifacts import foreseen
from artifacts.contents import Contents
from artifacts.error_text import class_and_text
from artifacts.errors import LatentcError
from artifacts.temporary import no_room
from runtimes.config_keys import keys_behind
from runtimes.configs import MAX_FIGURE, UNLIMITED, cleaned, is_config
from runtimes.guard import guarded
from runtimes.refusals import panics
from runtimes.resource_limits import bounded
from runtimes.tokenizer_growth import TOKENIZER, check_growth
from runtimes.trusted_classes import is_own

SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken")
"""Of the files that schedulers, tokenizers and processors are made of. Code and pickles are not among them."""

MAX_TIMESTEPS = 10**6
"""Of a scheduler. Published ones have 1,000."""
MAX_TOKENS = 1 << 20
"""That a tokenizer pads to, or cuts to."""


def is_part(cls: type) -> bool:
    """Whether the class is a scheduler, a guider, a tokenizer or a processor of diffusers or transformers.

    A closed list of roles: none of these is made of weights, and none loads another model.
    """
    from diffusers import SchedulerMixin
    from diffusers.guiders import BaseGuidance
    from transformers import (
        FeatureExtractionMixin,
        ImageProcessingMixin,
        PreTrainedTokenizerBase,
        ProcessorMixin,
    )

    roles = (
        SchedulerMixin,
        BaseGuidance,
        PreTrainedTokenizerBase,
        FeatureExtractionMixin,
        ImageProcessingMixin,
        ProcessorMixin,
    )
    return is_own(cls) and issubclass(cls, roles) and cls not in roles and hasattr(cls, "from_pretrained")


def role(cls: type) -> str:
    """What a component is, in a word: "module", "scheduler", "tokenizer" or "processor"."""
    import torch
    from diffusers import SchedulerMixin
    from transformers import PreTrainedTokenizerBase

    kinds = (
        (torch.nn.Module, "module"),
        (SchedulerMixin, "scheduler"),
        (PreTrainedTokenizerBase, "tokenizer"),
    )
    return next((word for base, word in kinds if issubclass(cls, base)), "processor")


def make_part(files: Contents, name: str, cls: Any) -> Any:
    """The scheduler, tokenizer or processor in the folder `name`.

    Args:
        cls: one that `is_part`.

    Raises:
        LatentcError: its files do not make one.
    """
    largest = largest_figure(cls)
    if not any(path.endswith(SUFFIXES) for path in files.names(name)):
        # Of nothing, transformers makes a tokenizer that knows no word and has no length.
        raise LatentcError(
            f"'{name}' ({cls.__name__}) has no files: {files.shown(name)} is missing or empty.",
            "Download or save the model again, or take that folder from the model that it was made from.",
        )
    with view(files, name, largest) as folder, making(cls, files.shown(name)):
        part = cls.from_pretrained(str(folder), local_files_only=True)
    check_padding(part, files.shown(name))
    return part


def largest_figure(cls: type) -> int:
    """The largest whole number that a configuration of this class may hold.

    Figures size arrays of one dimension: a scheduler's betas, a tokenizer's padding, pixels of a picture.
    """
    from diffusers import SchedulerMixin
    from transformers import PreTrainedTokenizerBase

    if issubclass(cls, SchedulerMixin):
        return MAX_TIMESTEPS
    return MAX_TOKENS if issubclass(cls, PreTrainedTokenizerBase) else MAX_FIGURE


def check_padding(part: Any, place: str) -> None:
    """Whether a tokenizer pads to what memory can hold; other parts pass.

    Raises:
        LatentcError: it pads to no number of tokens, or to far too many.
    """
    figures = [getattr(part, "model_max_length", 1)]
    backend = getattr(part, "backend_tokenizer", None)
    for settings in (getattr(backend, "padding", None), getattr(backend, "truncation", None)):
        figures += [
            v for k, v in (settings or {}).items() if k in ("length", "max_length", "pad_to_multiple_of")
        ]
    for figure in figures:
        numeric = isinstance(figure, (int, float))
        if figure is not None and not (numeric and (0 < figure <= MAX_TOKENS or figure >= UNLIMITED)):
            raise LatentcError(
                f"{place}: the tokenizer pads or cuts to {ascii(figure)[:80]} tokens; 1 to {MAX_TOKENS} can be.",
                "Compile the model again, from a source that you trust.",
            )


def pads_to_no_length(parts: Mapping[str, Any]) -> str:
    """The first tokenizer of a pipeline that says no length to pad to, by its name there; empty for none.

    transformers then gives 10**30, with which a pipeline that pads to it fails somewhere in its tokenizer.
    """
    from transformers import PreTrainedTokenizerBase

    for name, part in parts.items():
        if isinstance(part, PreTrainedTokenizerBase) and part.model_max_length >= UNLIMITED:
            return name
    return ""


@contextmanager
def making(cls: type, place: str, elements: int | None = None, config: bytes = b"") -> Iterator[None]:
    """While an object of `cls` is made of files in `place`: nothing is fetched, and what does not work is an error.

    Args:
        elements: weights that modules may have; None for any number.
        config: the configuration in `place`, whose keys errors name; empty for none.
    """
    try:
        with (
            bounded(f"{cls.__name__}, made of {place},", elements, config),
            guarded(f"{cls.__name__}, made of {place},"),
            panics(),
        ):
            yield
    except LatentcError:
        raise
    except Exception as error:  # Hundreds of classes, whose constructors refuse settings in as many ways.
        if (used_up := foreseen.exhausted(error)) is not None:
            raise used_up from error
        raise LatentcError(
            f"{cls.__name__} cannot be made of {place}: {class_and_text(error)}.{keys_behind(error, config)}"
        ) from error


def part_files(files: Contents, folder: str, largest: int = MAX_FIGURE) -> Iterator[tuple[str, bytes]]:
    """The settings and vocabularies below `folder`: path in it, and content.

    Args:
        largest: whole number that settings may hold.

    Raises:
        LatentcError: a file does not hold, or names something else (`runtimes.configs`).
    """
    for path in files.names(folder):
        if path.endswith(SUFFIXES):
            data = files.read(path)
            if is_config(path):
                data = cleaned(data, files.shown(path), files.verified, largest)
            elif PurePosixPath(path).name == TOKENIZER:
                check_growth(data, files.shown(path))
            yield path[len(folder) + 1 :], data


@contextmanager
def view(files: Contents, folder: str, largest: int = MAX_FIGURE) -> Iterator[Path]:
    """A private folder with the `part_files` of `folder` and nothing else; gone at the end."""
    with passing_folder() as place:
        for path, data in part_files(files, folder, largest):
            _write(place.joinpath(*path.split("/")), data)
        yield place


@contextmanager
def private_copy(data: bytes, name: str) -> Iterator[Path]:
    """A file called `name` in a folder of its own; gone at the end."""
    with passing_folder() as place:
        _write(place / name, data)
        yield place / name


@contextmanager
def passing_folder() -> Iterator[Path]:
    """A temporary folder that nobody else can have put something into; gone at the end.

    It has no lock, unlike `artifacts.temporary.private_folder`: each load makes several, for small files of a moment.
    """
    try:
        place = tempfile.TemporaryDirectory(prefix="latentc-", ignore_cleanup_errors=True)
    except OSError as error:
        raise no_room(tempfile.gettempdir(), error) from error
    with place as name:
        yield Path(name)


def _write(file: Path, data: bytes) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    except OSError as error:
        raise no_room(str(file), error) from error
