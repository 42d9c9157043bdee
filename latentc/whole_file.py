"""A file that a user names, which appears when it is whole."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from artifacts.errors import LatentcError
from artifacts.publish import require_outside


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name to write to beside `path`, of its suffix, where the file appears when it is whole.

    A device or a pipe is written to as it is: /dev/null must stay one.

    Raises:
        UsageError: it lies in an artifact.
        LatentcError: it cannot be written.
    """
    if not path.name or path.is_dir():
        raise LatentcError(f"{path} cannot be written: it is a folder.", "Name a file in it.")
    require_outside(path)
    if path.exists() and not path.is_file():
        try:
            yield path
        except OSError as error:
            raise LatentcError(f"{path} cannot be written: {error.strerror or error}.") from None
        return
    # Not made of the file's name, which may be as long as the disk takes. Libraries choose the format by the suffix.
    partial = path.with_name(f".latentc-{os.getpid()}-{threading.get_ident()}.partial{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise LatentcError(f"{path} cannot be written: {error.strerror or error}.") from None
    finally:
        with suppress(OSError):  # A disk that takes no file lets none be removed.
            partial.unlink(missing_ok=True)
