"""When an artifact is said to be made: now, or at the time that a reproducible build is given."""

from __future__ import annotations

import os
from datetime import datetime, timezone

from artifacts.errors import UsageError

EPOCH = "SOURCE_DATE_EPOCH"
"""A user's variable, as of reproducible-builds.org: seconds since 1970 that stand in the place of now."""


def created_now() -> str:
    """The time in ISO 8601, of UTC, to the second.

    Raises:
        UsageError: the variable is set to what is no time.
    """
    chosen = os.environ.get(EPOCH)
    if not chosen:
        return datetime.now(timezone.utc).isoformat(timespec="seconds")
    try:
        return datetime.fromtimestamp(int(chosen), timezone.utc).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(f"{EPOCH} is '{chosen}', which is no number of seconds since 1970.") from error


def reproducible() -> bool:
    """Whether a build is to give the same bytes each time: nothing that differs from run to run is to be in it."""
    return bool(os.environ.get(EPOCH))
