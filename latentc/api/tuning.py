"""The fastest way to draw whose pictures stay near: `tune`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts.argument_types import typed
from artifacts.progress import Progress, silent
from latentc.api import keywords
from latentc.api.keywords import File

if TYPE_CHECKING:
    from artifacts.verification import Artifact
    from compiler.speed_tuning import TuneRequest


@typed
def tune(
    artifact: File | TuneRequest,
    *,
    min_psnr: float | None = None,
    prompts: File | Sequence[str] | None = None,
    steps: int | Sequence[int] | None = None,
    scheduler: str | Sequence[str] | None = None,
    only: str | Sequence[str] | None = None,
    device: str | None = None,
    compute: str | None = None,
    guidance: float | None = None,
    progress: Progress = silent,
) -> Artifact:
    """Finds the fastest way to draw that holds a PSNR, and keeps it in the artifact, as `latentc tune`.

    What is None is as the command's default, or as in the request.

    Args:
        artifact: its folder; or a whole `TuneRequest`.
        min_psnr: dB to the pictures that the artifact draws by default, in the mean; the worst may be 6 dB below.
        prompts: a list, or a text file with one on each line; every second is tuned on, the others are verified on.
        steps: a number of steps or several, all of which hold it.
        scheduler: one of diffusers' or several, as `Pipeline.generate` takes them; None for the model's own.
        only: what is chosen: "compute", "threads", "forecast", or several of them; None for all.
        device, compute: as `load` takes them.
        guidance: of the pictures that it is tuned by, as `Pipeline.generate` takes it: as much as will be asked for,
            as `accelerate="auto"` makes all calls at more.

    Returns:
        The artifact: `manifest.speed` is what was chosen and what was tried, `manifest.forecast` the tolerance of steps
        that are forecast.

    Raises:
        UsageError: a request that is wrong in itself.
        LatentcError: the artifact cannot be drawn with here, or nothing faster holds; it says how near one came.
    """
    from compiler import speed_tuning as work

    base = artifact if isinstance(artifact, work.TuneRequest) else work.TuneRequest(Path(artifact))
    request = keywords.changed(
        base,
        {
            "min_psnr": min_psnr,
            "prompts": keywords.prompts(prompts),
            "steps": (steps,) if isinstance(steps, int) else None if steps is None else tuple(steps),
            "schedulers": keywords.names(scheduler),
            "ways": keywords.names(only),
            "device": device,
            "compute": compute,
            "guidance": guidance,
        },
    )
    with keywords.reporting(progress) as reported:
        return work.tune(request, reported)
