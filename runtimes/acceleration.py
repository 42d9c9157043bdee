"""How far steps that are forecast may be off, as people ask for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from artifacts.errors import UsageError
from artifacts.evidence_records import Forecast

OFF, AUTO = "off", "auto"


def check_accelerate(accelerate: str | float) -> None:
    """Raises UsageError unless `accelerate` is "off", "auto" or a tolerance: a number of at least 0, or one as text."""
    tolerance_of(accelerate, 0.0)


@dataclass(frozen=True)
class Tuned:
    """What "auto" stands for.

    Attributes:
        tolerance: of the estimated error; 0 where all calls are made.
        note: why an artifact that was tuned makes all calls; empty where it does not.
    """

    tolerance: float = 0.0
    note: str = ""


def tuned_to(forecast: Forecast | None, guidance: Any, own: Any) -> Tuned:
    """What an artifact was tuned to; nothing where more guidance is asked for than it was tuned by.

    Guidance multiplies the difference of two outputs, and what forecasts are off by.

    Args:
        guidance, own: the scale that is asked for, and what the pipeline takes where none is; None where there is none.
    """
    if forecast is None:
        return Tuned()
    runs = (*forecast.tuning, *forecast.verification)
    scales = [own if run.guidance is None else run.guidance for run in runs]
    requested = own if guidance is None else guidance
    numeric = all(isinstance(scale, (int, float)) for scale in (requested, *scales))
    if not numeric or requested <= (most := max(scales, default=requested)):
        return Tuned(forecast.tolerance)
    return Tuned(
        note=f"all calls are made, as guidance is {requested:g}, and the artifact is tuned by {most:g} at the most. "
        f"For fewer: --guidance {most:g}, or latentc tune ARTIFACT --guidance {requested:g}"
    )


def tolerance_of(accelerate: str | float, tuned: float) -> float:
    """The tolerance that is asked for; 0 is off.

    Args:
        tuned: what "auto" stands for.

    Raises:
        UsageError: it is none.
    """
    if accelerate == AUTO:
        return tuned
    if accelerate == OFF:
        return 0.0
    try:
        tolerance = math.nan if isinstance(accelerate, bool) else float(accelerate)
    except (TypeError, ValueError):
        tolerance = math.nan
    if not 0 <= tolerance < math.inf:
        raise UsageError(
            f"accelerate is off, auto or a tolerance of at least 0; found {str(accelerate)!r}.",
            "For instance 0.1; latentc tune ARTIFACT --min-psnr 45 finds one for auto",
        )
    return tolerance
