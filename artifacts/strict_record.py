"""The base of everything that is read from disk, and what its numbers may be."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Record(BaseModel):
    """Base of everything read from disk: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


Figure = Annotated[float, Field(allow_inf_nan=False)]
"""A measured number. One that is not finite is no measurement and cannot be recorded as one."""
Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A measured relative error."""
Count = Annotated[int, Field(ge=0, lt=2**63)]
"""Of elements or bytes."""
