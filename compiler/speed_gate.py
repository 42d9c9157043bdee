"""What pictures that are drawn faster are held to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from artifacts.evidence_records import ForecastRun, SpeedTrial

WORST_BELOW = 6.0
"""dB that the worst picture may be below what the mean is held to."""


@dataclass(frozen=True)
class Setting:
    """How pictures are drawn: a scheduler (empty for the model's own) and a number of steps."""

    scheduler: str
    steps: int


@dataclass(frozen=True)
class Gate:
    """What pictures are held to.

    Attributes:
        min_psnr: dB, mean over the pictures of each setting; the worst may be `worst_below` less.
        settings: all of which hold it.
    """

    min_psnr: float
    settings: tuple[Setting, ...]
    worst_below: float = WORST_BELOW

    def admits(self, runs: Sequence[ForecastRun]) -> bool:
        """Whether all of these hold it."""
        worst = self.min_psnr - self.worst_below
        return all(run.psnr >= self.min_psnr and run.worst_psnr >= worst for run in runs)

    def nearness(self, measured: ForecastRun | SpeedTrial) -> float:
        """The largest `min_psnr` that these pictures would hold, in dB."""
        return min(measured.psnr, measured.worst_psnr + self.worst_below)


def prompts_digest(prompts: Sequence[str]) -> str:
    """SHA-256 of prompts, one on each line."""
    return hashlib.sha256("\n".join(prompts).encode()).hexdigest()
