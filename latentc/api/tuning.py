"""How far steps that are forecast may be off, chosen by pictures: `tune`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts.progress import Progress, silent
from latentc.api import keywords
from latentc.api.keywords import File

if TYPE_CHECKING:
    from artifacts.verification import Artifact
    from compiler.forecast_tuning import TuneRequest


def tune(
    artifact: File | TuneRequest,
    *,
    min_psnr: float | None = None,
    prompts: File | Sequence[str] | None = None,
    steps: int | Sequence[int] | None = None,
    scheduler: str | Sequence[str] | None = None,
    device: str | None = None,
    compute: str | None = None,
    progress: Progress = silent,
) -> Artifact:
    """Finds the largest tolerance of forecast steps that holds a PSNR, and keeps it in the artifact, as `latentc tune`.

    What is None is as the command's default, or as in the request.

    Args:
        artifact: its folder; or a whole `TuneRequest`.
        min_psnr: dB to the same artifact's pictures with all calls made, in the mean; the worst may be 6 dB below.
        prompts: a list, or a text file with one on each line; every second is tuned on, the others are verified on.
        steps: a number of steps or several, all of which hold it.
        scheduler: one of diffusers' or several, as `Pipeline.generate` takes them; None for the model's own.
        device, compute: as `load` takes them.

    Returns:
        The artifact: `manifest.forecast` has the tolerance, and what was measured of it.

    Raises:
        UsageError: a request that is wrong in itself.
        LatentcError: the artifact cannot be drawn with here, or no tolerance holds; the message says how near one came.
    """
    from compiler import forecast_tuning as work

    base = artifact if isinstance(artifact, work.TuneRequest) else work.TuneRequest(Path(artifact))
    request = keywords.changed(
        base,
        {
            "min_psnr": min_psnr,
            "prompts": keywords.prompts(prompts),
            "steps": (steps,) if isinstance(steps, int) else None if steps is None else tuple(steps),
            "schedulers": keywords.names(scheduler),
            "device": device,
            "compute": compute,
        },
    )
    with keywords.reporting(progress) as reported:
        return work.tune(request, reported)
