"""One compile at a time for one OUT."""

from __future__ import annotations

import json
import os
import platform
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock, Timeout

from artifacts.disk import write_synced
from artifacts.errors import LatentcError


class OutLock:
    """An exclusive lock in the work folder, freed by the system when its process ends in whatever way."""

    def __init__(self, out: Path, work: Path) -> None:
        self._out = out
        self._work = work
        self._owner = work / "owner.json"
        # Held by whoever compiles, in whichever thread: filelock's own default is one hold per thread.
        self._lock = FileLock(work / "lock", thread_local=False)

    def acquire(self) -> None:
        """Takes the lock, making the work folder.

        Raises:
            LatentcError: another compile holds it, or the folder of OUT cannot be written.
        """
        for attempt in range(10):
            try:
                self._work.mkdir(parents=True, exist_ok=True)
                self._lock.acquire(blocking=False)
                break
            except Timeout:
                raise LatentcError(
                    f"another compile{self._who()} is writing {self._out}.",
                    "Wait until it has ended, or name another OUT.",
                ) from None
            except FileNotFoundError:  # the one before us has just removed the work folder
                if attempt == 9:
                    raise
            except OSError as error:
                raise LatentcError(
                    f"cannot make the work folder {self._work}: {error.strerror or error}.",
                    "Name an OUT in a folder that you may write to.",
                ) from error
        started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        owner = {"pid": os.getpid(), "host": platform.node(), "started": started}
        try:
            write_synced(self._owner, json.dumps(owner).encode())
        except BaseException:
            self._lock.release()
            raise

    def _who(self) -> str:
        """Who holds it, as far as its note can be read: it is written just after the lock is taken."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            owner = json.loads(self._owner.read_text("utf-8"))
            return f" (process {int(owner['pid'])} on {owner['host']}, started {owner['started']})"
        return ""

    def release(self, *, remove: bool) -> None:
        """Frees the lock; with `remove`, the lock file goes too, and the work folder if it is empty."""
        with suppress(OSError):  # of a disk that fails: the note is of no use without the lock
            self._owner.unlink(missing_ok=True)
        path = Path(self._lock.lock_file)
        if remove and os.name != "nt":
            # While it is held: whoever opened it meanwhile finds, once locked, that it has no name any more,
            # and starts over. After the release it could be somebody else's lock by then.
            with suppress(OSError):
                path.unlink(missing_ok=True)
        self._lock.release()
        if remove:
            if os.name == "nt":
                with suppress(OSError):  # refused while another process has it open
                    path.unlink(missing_ok=True)
            with suppress(OSError):
                self._work.rmdir()
