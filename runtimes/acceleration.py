"""How far steps that are forecast may be off, as people ask for it."""

from __future__ import annotations

import math

from artifacts.errors import UsageError

OFF, AUTO = "off", "auto"


def check_accelerate(asked: str | float) -> None:
    """Raises UsageError unless `asked` is "off", "auto" or a tolerance: a number of at least 0, or one as text."""
    tolerance_of(asked, 0.0)


def tolerance_of(asked: str | float, tuned: float) -> float:
    """The tolerance that is asked for; 0 is off.

    Args:
        tuned: what "auto" stands for.

    Raises:
        UsageError: it is none.
    """
    if asked == AUTO:
        return tuned
    if asked == OFF:
        return 0.0
    try:
        tolerance = math.nan if isinstance(asked, bool) else float(asked)
    except (TypeError, ValueError):
        tolerance = math.nan
    if not 0 <= tolerance < math.inf:
        raise UsageError(
            f"accelerate is off, auto or a tolerance of at least 0; found {str(asked)!r}.",
            "For instance 0.1; latentc tune ARTIFACT --min-psnr 45 finds one for auto",
        )
    return tolerance
