"""The errors that a person reads: what was required, what was found, and the next command to type."""

from __future__ import annotations


class LatentcError(Exception):
    """A failure that is not a bug: printed as ``Error: message`` and ``hint``, exit status 1, no traceback.

    Args:
        message: what was required and what was found, one or more whole sentences.
        hint: the next thing to do, usually a command; empty when there is none.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(LatentcError):
    """The request itself is wrong (an unknown target, an option out of its range): exit status 2."""

    exit_code = 2
