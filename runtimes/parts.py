"""What a pipeline has beside its modules: schedulers, tokenizers and processors, each from its own files alone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from artifacts.contents import Contents
from artifacts.errors import LatentcError
from runtimes.classes import is_own
from runtimes.configs import cleaned, is_config
from runtimes.guard import guarded

SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken")
"""Of the files that schedulers, tokenizers and processors are made of. Code and pickles are not among them."""


def is_part(cls: type) -> bool:
    """Whether the class is a scheduler, a tokenizer or a processor of diffusers or transformers.

    A closed list of roles: none of these is made of weights, and none loads another model.
    """
    from diffusers import SchedulerMixin
    from transformers import (
        FeatureExtractionMixin,
        ImageProcessingMixin,
        PreTrainedTokenizerBase,
        ProcessorMixin,
    )

    roles = (
        SchedulerMixin,
        PreTrainedTokenizerBase,
        FeatureExtractionMixin,
        ImageProcessingMixin,
        ProcessorMixin,
    )
    return is_own(cls) and issubclass(cls, roles) and cls not in roles and hasattr(cls, "from_pretrained")


def make_part(files: Contents, name: str, cls: Any) -> Any:
    """The scheduler, tokenizer or processor in the folder `name`.

    Args:
        cls: one that `is_part`.

    Raises:
        LatentcError: its files do not make one.
    """
    with view(files, name) as folder, making(cls, files.shown(name)):
        return cls.from_pretrained(str(folder), local_files_only=True)


@contextmanager
def making(cls: type, place: str) -> Iterator[None]:
    """While an object of `cls` is made of files in `place`: nothing is fetched, and what does not work is an error."""
    try:
        with guarded(f"{cls.__name__}, made of {place},"):
            yield
    except LatentcError:
        raise
    except Exception as error:  # Hundreds of classes, whose constructors refuse settings in as many ways.
        raise LatentcError(
            f"{cls.__name__} cannot be made of {place}: {type(error).__name__}: {_brief(error)}"
        ) from error


def part_files(files: Contents, folder: str) -> Iterator[tuple[str, bytes]]:
    """The settings and vocabularies below `folder`: path in it, and content.

    Raises:
        LatentcError: a file does not hold, or names something else (`runtimes.configs`).
    """
    for path in files.names(folder):
        if path.endswith(SUFFIXES):
            data = files.read(path)
            if is_config(path):
                data = cleaned(data, files.shown(path), files.verified)
            yield path[len(folder) + 1 :], data


@contextmanager
def view(files: Contents, folder: str) -> Iterator[Path]:
    """A private folder with the `part_files` of `folder` and nothing else; gone at the end."""
    with _temporary() as place:
        for path, data in part_files(files, folder):
            _write(place.joinpath(*path.split("/")), data)
        yield place


@contextmanager
def private_copy(data: bytes, name: str) -> Iterator[Path]:
    """A file called `name` in a folder of its own; gone at the end."""
    with _temporary() as place:
        _write(place / name, data)
        yield place / name


@contextmanager
def _temporary() -> Iterator[Path]:
    try:
        place = tempfile.TemporaryDirectory(prefix="latentc-", ignore_cleanup_errors=True)
    except OSError as error:
        raise _no_room(tempfile.gettempdir(), error) from error
    with place as name:
        yield Path(name)


def _write(file: Path, data: bytes) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    except OSError as error:
        raise _no_room(str(file), error) from error


def _no_room(place: str, error: OSError) -> LatentcError:
    return LatentcError(
        f"a temporary file cannot be written at {place}: {error.strerror or error}.",
        "Make room there, or set TMPDIR (on Windows TEMP) to another folder.",
    )


def _brief(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:297]}..."
