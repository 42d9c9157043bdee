"""What Python does while an artifact or a model is used, by its audit events, and what of it nothing may do.

Allowed are: reading the artifact, the installed libraries and the system's figures; writing below the temporary folder;
and our own workers. A file elsewhere, a connection, a pickle's class, another process, and an object of a class that no
artifact may name are faults. Python tells of what Python does: what a vendor's native code opens is not seen.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from artifacts import worker_loop

SYSTEM = ("/proc/", "/sys/", "/dev/null", "/dev/urandom", "/etc/os-release", "/usr/lib/os-release")
"""What libraries read of the system: its own figures, its name (ONNX Runtime as it is imported), and random numbers."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_NETWORK = (
    "socket.",
    "urllib.",
    "http.",
    "ftplib.",
    "smtplib.",
    "imaplib.",
    "poplib.",
    "telnetlib.",
    "webbrowser.",
)
_HARMLESS = frozenset({"socket.gethostname"})
_PROCESSES = frozenset(
    {"subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "pty.spawn",
     "os.startfile", "os.startfile/2"}
)  # fmt: skip
# Event -> which of its arguments are paths that it changes, and at which place it names an open folder instead.
_CHANGES = {
    "os.remove": ((0,), 1), "os.rmdir": ((0,), 1), "os.mkdir": ((0,), 2), "os.rename": ((0, 1), 2),
    "os.link": ((0, 1), 2), "os.symlink": ((1,), 2), "os.truncate": ((0,), None), "os.chmod": ((0,), 2),
    "os.chown": ((0,), 3), "os.utime": ((0,), 3),
}  # fmt: skip

LIBRARIES = frozenset({"diffusers", "transformers", "torch", "runtimes", "compiler", "tokenizers"})
"""Whose classes may be made: those that an artifact may name, and what they are made of."""


class AuditWatch:
    """Python keeps an audit hook until its process ends: this is for processes of the campaign alone.

    Events that another hook refuses before are not seen: what was refused did not happen.
    """

    def __init__(self, readable: Sequence[Path], writable: Path) -> None:
        """Begins to listen; only what happens inside of `watch` counts.

        Args:
            readable: folders that may be read, beside the libraries' own.
            writable: the folder that may be written. Relative names are taken for names in it: the process must stand
                there, since what removes a folder names its files so.
        """
        libraries: list[str | Path] = [
            folder for folder in (*sys.path, sys.prefix, sys.base_prefix) if folder
        ]
        places = {os.path.abspath(place) for place in [*libraries, *readable, writable]}
        places |= {os.path.realpath(place) for place in places}
        self._readable = tuple(f"{place}{os.sep}" for place in places)
        places = {os.path.abspath(writable), os.path.realpath(writable)}
        self._writable = tuple(f"{place}{os.sep}" for place in places)
        self._faults: list[str] | None = None
        self._lock = threading.Lock()
        sys.addaudithook(self._hook)

    @contextmanager
    def watch(self) -> Iterator[list[str]]:
        """The faults of what happens inside, in any thread: one line for each."""
        faults: list[str] = []
        self._faults = faults
        try:
            yield faults
        finally:
            self._faults = None

    def note(self, fault: str) -> None:
        """Adds a fault that no event tells of."""
        with self._lock:
            if self._faults is not None and fault not in self._faults:
                self._faults.append(fault)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._faults is None or not (fault := self._fault(event, arguments)):
            return
        self.note(fault)
        raise PermissionError(f"the campaign does not allow it: {fault}")

    def _fault(self, event: str, arguments: tuple[Any, ...]) -> str:
        """What is wrong with an event; empty where nothing is."""
        if event == "open":
            return self._open_fault(*arguments)
        if event == "pickle.find_class":
            return f"looked up a pickle's class: {'.'.join(map(str, arguments))}"
        if event in _CHANGES:
            places, at = _CHANGES[event]
            if at is not None and at < len(arguments) and arguments[at] not in (-1, None):
                return ""  # Names in a folder that was opened, as another event told.
            paths = [path for path in map(_absolute, (arguments[place] for place in places)) if path]
            outside = [path for path in paths if not _below(path, self._writable)]
            return f"{event} of {', '.join(outside)}" if outside else ""
        if event in _PROCESSES:
            ours = event == "subprocess.Popen" and f"{worker_loop.__name__}:main" in list(arguments[1])
            return "" if ours else f"started a process: {event} {ascii(arguments)[:200]}"
        if event.startswith(_NETWORK) and event not in _HARMLESS:
            return f"used the network: {event} {ascii(arguments[1:])[:200]}"
        if event in ("ctypes.dlopen", "import") and (path := _absolute(_library(event, arguments))):
            return "" if _below(path, self._readable) else f"loaded native code: {path}"
        return ""

    def _open_fault(self, file: Any, mode: Any, flags: Any) -> str:
        path = _absolute(file)
        if not path:
            return ""
        if isinstance(flags, int) and flags & _WRITING:
            written = _below(path, self._writable) or path == os.devnull
            return "" if written else f"opened {path} for writing"
        return "" if path.startswith(SYSTEM) or _below(path, self._readable) else f"opened {path}"


def _below(path: str, places: tuple[str, ...]) -> bool:
    """Whether a file lies in one of the folders, also where links on its way lead."""
    return f"{path}{os.sep}".startswith(places) and f"{os.path.realpath(path)}{os.sep}".startswith(places)


def _absolute(file: Any) -> str:
    """A path without "..", which is followed by name; empty where it is none (a descriptor, nothing)."""
    try:
        return os.path.abspath(os.fsdecode(file)) if isinstance(file, (str, bytes, os.PathLike)) else ""
    except OSError:  # the current folder is gone
        return os.fsdecode(file)


def _library(event: str, arguments: tuple[Any, ...]) -> Any:
    """The file that is loaded as native code, where it is named by path and not looked up by the system."""
    file = arguments[0] if event == "ctypes.dlopen" else arguments[1]
    return file if isinstance(file, (str, bytes)) and os.path.dirname(os.fsdecode(file)) else None


def note_classes(note: Callable[[str], None], pipelines: Callable[[type], None] = lambda cls: None) -> None:
    """From now on, until the process ends, tells of objects whose class is none that a trusted library defines.

    Args:
        note: is given a line for each.
        pipelines: is given the class of each pipeline of diffusers that is made.
    """
    import torch
    from diffusers import ConfigMixin, DiffusionPipeline
    from transformers import (
        FeatureExtractionMixin,
        ImageProcessingMixin,
        PreTrainedTokenizerBase,
        ProcessorMixin,
    )

    def look(cls: type) -> None:
        if fault := class_fault(cls):
            note(fault)
        if issubclass(cls, DiffusionPipeline):
            pipelines(cls)

    roots: tuple[tuple[Any, str], ...] = (
        (torch.nn.Module, "__init__"),
        (ConfigMixin, "register_to_config"),
        (PreTrainedTokenizerBase, "__init__"),
        (FeatureExtractionMixin, "__init__"),
        (ImageProcessingMixin, "__init__"),
        (ProcessorMixin, "__init__"),
    )
    for root, method in roots:
        _tell_of(root, method, look)


def class_fault(cls: type) -> str:
    """What is wrong with an object of this class; empty where nothing is."""
    generic = ("diffusers", "DiffusionPipeline"), ("diffusers", "OnnxRuntimeModel")
    library = cls.__module__.partition(".")[0]
    if library not in LIBRARIES or (library, cls.__name__) in generic:
        return f"made a {cls.__module__}.{cls.__qualname__}"
    return ""


def _tell_of(root: Any, method: str, look: Callable[[type], None]) -> None:
    original = getattr(root, method)

    @functools.wraps(original)
    def telling(self: Any, *args: Any, **kwargs: Any) -> Any:
        look(type(self))
        return original(self, *args, **kwargs)

    setattr(root, method, telling)
