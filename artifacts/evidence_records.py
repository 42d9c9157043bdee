"""What was measured of an artifact, as its manifest keeps it: of graphs, pictures, tasks and forecast steps."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from artifacts.strict_record import Count, Figure, Record, Share

MOST_PARTS = 64
"""Of a graph, that a manifest may tell of: what is computed of them takes the square of their number."""


Cuts = Annotated[
    tuple[Annotated[tuple[Count, ...], Field(min_length=1, max_length=MOST_PARTS)], ...],
    Field(max_length=MOST_PARTS),
]
"""Bytes of weights of a graph's parts, for one number of parts after the other."""


class CallMemory(Record):
    """What one call of an open graph took.

    Attributes:
        sizes: of the symbolic dimensions at that call.
        elements: of its inputs and outputs.
        anonymous: bytes of no file, at most; the graph keeps them while it is open.
    """

    sizes: dict[str, Count]
    elements: Count
    anonymous: Count


class MemoryUse(Record):
    """What an open graph was measured to take.

    Attributes:
        opening: bytes of no file, at most while it was opened.
        anonymous: those that remained. file_backed: of mapped files, which the system can drop and read again.
        calls: those that were made, from the smallest to the largest.
        process: bytes of no file that the process held before, libraries and all.
        cuts: bytes of weights of the parts that the graph is cut into, for more and more parts
            (`runtimes.graph_memory.DIVISIONS`); empty where that is not known.
    """

    opening: Count
    anonymous: Count
    file_backed: Count
    calls: tuple[CallMemory, ...] = ()
    process: Count = 0
    cuts: Cuts = ()


class Evidence(Record):
    """What was measured of one graph in one type, or that nothing was.

    Attributes:
        compute: what it was computed in ("fp32", "fp16", "bf16"); empty where nothing was measured, and in manifests
            of schema version 1, which do not tell.
        device: what it was computed on, by the session's own name ("cpu").
        check: "quick" (one shape), "full" (minimum, maximum and a point off the grid), or "not measured".
        error: for each output, the worst ``||out - ref|| / ||ref||`` against PyTorch in fp32.
        tolerance: the limit that `error` was held to.
        reason: why it was not measured; empty when it was.
        broken: how the type fails the graph, which `compute="auto"` then computes in fp32; empty where it holds. An
            output that is not finite has no `error`.
        memory: what the graph takes while it is open; None where that was not measured. It can be known where no error
            was measured.

    What was measured has an error or is broken; what was not has neither, so that nothing can be read as "error 0".
    """

    compute: str = ""
    device: str = ""
    check: Literal["quick", "full", "not measured"]
    error: dict[str, Share] = Field(default_factory=dict)
    tolerance: Share | None = None
    reason: str = ""
    broken: str = ""
    memory: MemoryUse | None = None

    @model_validator(mode="after")
    def _measured_or_not(self) -> Evidence:
        figures = bool(self.error or self.broken)
        if self.check == "not measured" and figures:
            raise ValueError("an error is told of what was not measured")
        if self.check != "not measured" and not figures:
            raise ValueError("it is said to be measured, and no error is told")
        return self


class PictureEvidence(Record):
    """Pictures of a quantized model, computed in one type, beside PyTorch's in fp32, from the same seeds.

    Attributes:
        compute: what the graphs were computed in; those that the type breaks in fp32. Empty as in `Evidence`.
        prompts, steps, guidance, width, height: what was drawn; None where nothing was.
        psnr, worst_psnr: in dB, mean and worst of the pictures; 100 where they are equal.
        ssim, worst_ssim: structural similarity, 1 where they are equal.
        reason: why it was not measured; empty when it was.
    """

    compute: str = ""
    prompts: Count | None = None
    steps: Count | None = None
    guidance: float | None = None
    width: int | None = None
    height: int | None = None
    psnr: Figure | None = None
    worst_psnr: Figure | None = None
    ssim: Figure | None = None
    worst_ssim: Figure | None = None
    reason: str = ""

    @model_validator(mode="before")
    @classmethod
    def _nothing_drawn(cls, data: Any) -> Any:
        """Earlier manifests say 0 prompts of 0 steps where nothing was drawn."""
        if not isinstance(data, dict) or data.get("prompts") != 0:
            return data
        drawn = ("prompts", "steps", "guidance", "width", "height")
        return {name: value for name, value in data.items() if name not in drawn}


class PipelineEvidence(Record):
    """A small picture of a few steps, drawn by the artifact's pipeline and by PyTorch's from the same seed.

    Attributes:
        task: one of the artifact's.
        check: "not measured" where `reason` says why.
        compute, device: what the graphs were computed in, and where.
        width, height, steps: what was drawn.
        error: ``||picture - PyTorch's|| / ||PyTorch's||`` of the pipeline's own call.
        tolerance: the limit that `error` was held to.
        calls: how many calls of components were compared.
        loop: the largest such error of what `generate` gives to components and of its picture, where components give
            back what PyTorch's did; None where `reason` says why.
    """

    task: str
    check: Literal["quick", "full", "not measured"]
    compute: str = ""
    device: str = ""
    width: int = 0
    height: int = 0
    steps: int = 0
    error: Share | None = None
    tolerance: Share | None = None
    calls: int = 0
    loop: Share | None = None
    reason: str = ""


class Calibration(Record):
    """What the ranges of a graph's activations in 8 bits were measured on.

    Attributes:
        prompts, steps: of the pictures that were drawn.
        calls: of the component, spread over them, that ranges are those of.
        cut_calls: of these, those that were tried with outliers cut off; 0 where there were no outliers.
        compute: what the graph was computed in.
    """

    prompts: Count
    steps: Count
    calls: Count
    cut_calls: Count
    compute: str


class ForecastRun(Record):
    """Pictures with steps that are forecast beside the same artifact's with all calls made, from the same seeds.

    Attributes:
        scheduler: as `generate` takes it; empty for the model's own.
        prompts, steps, guidance, width, height: what was drawn.
        compute, device: what the graphs were computed in, and on.
        calls, calls_made: timesteps of all pictures, and those for which the denoiser was called.
        psnr, worst_psnr, ssim, worst_ssim: as in `PictureEvidence`.
        seconds, seconds_unaccelerated: medians of a picture's.
        processor_seconds, processor_seconds_unaccelerated: the same of all processors, for which other programs do not
            count; 0 where another device computes.
    """

    scheduler: str = ""
    prompts: int
    steps: int
    guidance: float | None = None
    width: int
    height: int
    compute: str
    device: str
    calls: int
    calls_made: int
    psnr: Figure
    worst_psnr: Figure
    ssim: Figure
    worst_ssim: Figure
    seconds: Share
    seconds_unaccelerated: Share
    processor_seconds: Share = 0.0
    processor_seconds_unaccelerated: Share = 0.0


class Forecast(Record):
    """How far forecasts of a denoiser's outputs may be off, chosen by pictures.

    Attributes:
        tolerance: what ``accelerate="auto"`` is (`runtimes.forecaster.Forecaster`).
        min_psnr: dB that the mean was held to; the worst picture to `worst_psnr_below` dB less.
        tuned_on, verified_on: SHA-256 of the prompts, one on each line; no prompt is in both.
        tuning, verification: what was measured on them with that tolerance, for each scheduler and number of steps.
    """

    tolerance: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    min_psnr: Figure
    worst_psnr_below: Figure
    tuned_on: str
    verified_on: str
    tuning: tuple[ForecastRun, ...]
    verification: tuple[ForecastRun, ...]


class SpeedTrial(Record):
    """One way to draw faster that was tried, beside the same artifact as it draws by default, from the same seeds.

    Attributes:
        way: what was tried; "verification" of what was chosen, on other prompts.
        combination: all that was drawn with, the way among it.
        psnr, worst_psnr: dB, the lowest of any scheduler and number of steps; 0, with `speed_up` 0, where nothing was
            drawn, which `reason` tells.
        speed_up: seconds of a picture by default over seconds with it; processors' seconds where as many threads of
            theirs compute.
        pictures: that were drawn and compared; 0 in artifacts that were made before they were counted.
        kept: whether it held the gate and was faster.
        reason: why it was not kept; empty where it was.
    """

    way: str
    combination: str
    psnr: Figure = 0.0
    worst_psnr: Figure = 0.0
    speed_up: Share = 0.0
    pictures: Count = 0
    kept: bool = False
    reason: str = ""

    @property
    def measured(self) -> bool:
        """Whether pictures were drawn."""
        return self.speed_up > 0


class SpeedChoice(Record):
    """The fastest way to draw that held a gate on pictures, and what was tried.

    Attributes:
        min_psnr, worst_psnr_below: the gate, as in `Forecast`.
        compute: what graphs are computed in where nothing else is asked for; "auto" for the device's own.
        threads: for one inference, on machines of `cores` cores; None for the vendor's own number.
        device: what it was measured on, by the session's own name.
        verified: whether it held on prompts that it was not chosen by.
        trials: in order.
    """

    min_psnr: Figure
    worst_psnr_below: Figure
    compute: str
    threads: Annotated[int, Field(ge=1)] | None = None
    cores: Count
    device: str
    verified: bool
    trials: tuple[SpeedTrial, ...]
