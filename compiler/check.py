"""The relative error, by the name that scripts outside the project import it by; the room is `compiler.evidence`."""

from compiler.evidence.metrics import relative_error

__all__ = ["relative_error"]
