"""What a request is refused with, whichever API it came by."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """A request that is not answered with what it asked for.

    Args:
        status: HTTP's.
        message: what was required and what came instead.
        parameter: the request's field that is wrong; None where it is no field.
        code: a word for programs ("queue_full"); None where the status says all.
        retry_after: seconds after which the same request may be taken; None where it never will.
    """

    def __init__(
        self,
        status: int,
        message: str,
        parameter: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        # Field names of a request may hold what no encoding takes.
        self.message = message.encode("utf-8", "replace").decode("utf-8")
        self.parameter = None if parameter is None else parameter.encode("utf-8", "replace").decode("utf-8")
        self.code = code
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the response."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})

    def openai(self) -> dict[str, Any]:
        """As OpenAI's API says it."""
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(
            self.status, "invalid_request_error" if self.status < 500 else "server_error"
        )
        return {
            "error": {
                "message": self.message,
                "type": kind,
                "param": self.parameter,
                "code": self.code,
            }
        }

    def automatic1111(self) -> dict[str, Any]:
        """As AUTOMATIC1111's API says it."""
        return {
            "error": self.code or "HTTPException",
            "detail": self.message,
            "body": self.parameter or "",
            "errors": self.message,
        }
