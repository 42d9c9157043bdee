"""What a manifest's evidence says, in words: a figure, or that nothing was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from artifacts.evidence_records import Evidence, ForecastRun, PictureEvidence, PipelineEvidence
    from artifacts.manifest import GraphRecord, LeftOut, Manifest, WeightRecord


def worst(evidence: Evidence) -> float | None:
    """The largest relative error of a graph's outputs, or None when it was not measured."""
    if evidence.check == "not measured" or not evidence.error:
        return None
    return max(evidence.error.values())


def is_measured(evidence: Sequence[Evidence]) -> bool:
    """Whether a graph was compared with PyTorch in any type; one that the type breaks was."""
    return any(worst(measurement) is not None or measurement.broken for measurement in evidence)


def line(evidence: Evidence) -> str:
    """One graph's evidence in one type."""
    kind = (
        f"{evidence.compute} on {evidence.device}, " if evidence.compute else "in a type that is not told, "
    )
    if evidence.broken:
        return f"{kind}{evidence.check}: fails, so it is computed in fp32: {evidence.broken}"
    error = worst(evidence)
    if evidence.check == "not measured" or error is None:
        return "not measured" + (f": {evidence.reason}" if evidence.reason else "")
    limit = "" if evidence.tolerance is None else f" (limit {evidence.tolerance:.1e})".replace(".0e", "e")
    return f"{kind}{evidence.check}: {error:.1e}{limit}"


def lines(evidence: Sequence[Evidence]) -> str:
    """One graph's evidence for a table's cell: a line for each type."""
    return "\n".join(map(line, evidence)) or "not measured"


def measured_in(manifest: Manifest) -> str:
    """The types that the artifact was measured in, and where: "fp32 and bf16 on cpu"; all else is not measured."""
    devices: dict[str, dict[str, None]] = {}
    for graph in manifest.graphs:
        for measurement in graph.evidence:
            if measurement.compute and measurement.check != "not measured":
                devices.setdefault(measurement.device, {})[measurement.compute] = None
    return "; ".join(f"{' and '.join(kinds)} on {device}" for device, kinds in devices.items())


def summary(manifest: Manifest) -> str:
    """One sentence about all graphs; what was not measured is named."""
    measured: dict[str, list[tuple[float, str]]] = {}
    for graph in manifest.graphs:
        for measurement in graph.evidence:
            error = worst(measurement)
            if error is not None and not measurement.broken:
                measured.setdefault(measurement.compute, []).append((error, graph.folder))
    missing = [graph for graph in manifest.graphs if not is_measured(graph.evidence)]
    parts = []
    if measured:
        each_type = (
            f"{error:.1e} ({folder})" + (f" in {kind}" if kind else "")
            for kind, errors in measured.items()
            for error, folder in [max(errors)]
        )
        parts.append(f"Worst relative error to PyTorch: {', '.join(each_type)}.")
    for graph in manifest.graphs:
        for measurement in graph.evidence:
            if measurement.broken:
                parts.append(
                    f"{graph.folder} is computed in fp32: {measurement.compute} fails it ({measurement.broken})."
                )
    if missing:
        reasons = sorted(
            {measurement.reason for graph in missing for measurement in graph.evidence if measurement.reason}
        )
        why = f" ({'; '.join(reasons)})" if reasons else ""
        parts.append(f"Not measured: {', '.join(graph.folder for graph in missing)}{why}.")
    return " ".join(parts)


def quantized_line(manifest: Manifest) -> str:
    """One sentence about the quantized weights: how many, in how many bits, and what is not as asked."""
    weights = [weight for graph in manifest.graphs for weight in graph.weights]
    count = sum(weight.parameters for weight in weights)
    bits = f", {8 * sum(weight.bytes for weight in weights) / count:.2f} bits each" if count else ""
    text = f"Quantized: {len(weights)} weights with {count:,} parameters{bits}."
    noted = sum(bool(weight.note) for weight in weights)
    if noted:
        text += f" {noted} of them not as asked; latentc inspect says why."
    return text


def calibration_line(graph: GraphRecord) -> str:
    """One sentence about what a graph's activations were measured on; empty where none were."""
    measured = graph.calibration
    if measured is None:
        return ""
    cut = f", {measured.cut_calls} of them with outliers cut off" if measured.cut_calls else ""
    return (
        f"Activations of {graph.folder} in 8 bits: ranges of {measured.calls} calls in {measured.compute}{cut} "
        f"({measured.prompts} prompts, {measured.steps} steps)."
    )


def approximation_line(graph: GraphRecord) -> str:
    """One sentence about a graph that is not quite PyTorch's."""
    return f"Approximation: {graph.folder} has {', '.join(graph.approximations)}, after which pictures are others."


def pictures_line(pictures: PictureEvidence) -> str:
    """One sentence about a quantized or approximated model's pictures in one type."""
    figures = (pictures.psnr, pictures.worst_psnr, pictures.ssim, pictures.worst_ssim)
    if None in (*figures, pictures.prompts, pictures.steps):
        return "Pictures beside PyTorch's: not measured" + (
            f" ({pictures.reason})." if pictures.reason else "."
        )
    kind = f" in {pictures.compute}" if pictures.compute else ""
    return (
        f"Pictures{kind} beside PyTorch's: PSNR {pictures.psnr:.1f} dB, worst {pictures.worst_psnr:.1f}; "
        f"SSIM {pictures.ssim:.3f}, worst {pictures.worst_ssim:.3f} "
        f"({pictures.prompts} prompts, {pictures.steps} steps)."
    )


def pipeline_line(drawn: PipelineEvidence) -> str:
    """One sentence about a task as a whole: its picture beside PyTorch's."""
    if drawn.check == "not measured" or drawn.error is None:
        return f"Pipeline of {drawn.task}: not measured" + (f" ({drawn.reason})." if drawn.reason else ".")
    limit = "" if drawn.tolerance is None else f", limit {drawn.tolerance:.1e}".replace(".0e", "e")
    loop = (
        f"; its loop, with PyTorch's results of {drawn.calls} calls of components: {drawn.loop:.1e}"
        if drawn.loop is not None
        else f"; its loop was not compared ({drawn.reason})"
    )
    return (
        f"Pipeline of {drawn.task} in {drawn.compute} on {drawn.device}, {drawn.steps} steps of "
        f"{drawn.width}x{drawn.height}: relative error to PyTorch's picture {drawn.error:.1e}{limit}{loop}."
    )


def left_out_line(part: LeftOut) -> str:
    """One sentence about a component of the model that is not in the artifact."""
    return f"Left out: {part.name} ({part.class_name}), because {part.reason}."


def forecast_lines(manifest: Manifest) -> list[str]:
    """What an artifact's forecast steps are tuned to; none where they are not."""
    forecast = manifest.forecast
    if forecast is None:
        return []
    runs = forecast.verification or forecast.tuning
    worst = forecast.min_psnr - forecast.worst_psnr_below
    on = "verified on other prompts" if forecast.verification else "not verified on other prompts"
    return [
        f"Forecast steps: tolerance {forecast.tolerance:.3g}, tuned to {forecast.min_psnr:g} dB, worst {worst:g}; "
        f"{on}.",
        *(
            f"  {run.scheduler + ', ' if run.scheduler else ''}{run.steps} steps: "
            f"{run.calls_made / run.prompts:.1f} of {run.calls / run.prompts:.0f} calls, "
            f"PSNR {run.psnr:.1f} dB, worst {run.worst_psnr:.1f}; SSIM {run.ssim:.3f}, worst {run.worst_ssim:.3f}; "
            f"{_pace(_times_as_fast(run, manifest))} ({run.prompts} prompts, "
            f"{'' if run.guidance is None else f'guidance {run.guidance:g}, '}{run.compute} on {run.device})."
            for run in runs
        ),
    ]


def _times_as_fast(run: ForecastRun, manifest: Manifest) -> float:
    """As a search measures it: by what processors took, in which other programs have no part, unless threads differ."""
    threads = None if manifest.speed is None else manifest.speed.threads
    if run.processor_seconds and threads is None:
        return run.processor_seconds_unaccelerated / run.processor_seconds
    return run.seconds_unaccelerated / max(run.seconds, 1e-9)


def _pace(times_as_fast: float) -> str:
    if times_as_fast < 1:
        return f"slower, at {times_as_fast:.2f} of the speed"
    return f"{times_as_fast:.2f} times as fast"


def speed_lines(manifest: Manifest) -> list[str]:
    """What was chosen for speed; none where nothing was searched for."""
    speed = manifest.speed
    if speed is None:
        return []
    kept = [trial for trial in speed.trials if trial.kept]
    chosen = kept[-1].combination if kept else "nothing"
    on = "verified on other prompts" if speed.verified else "not verified on other prompts"
    # Earlier versions kept such a choice, too.
    if kept and speed.verified and kept[-1].speed_up < 1:
        on = f"{_pace(kept[-1].speed_up)} on other prompts"
    return [
        f"Chosen for speed on {speed.device}: {chosen}; {speed.min_psnr:g} dB to pictures as by default, worst "
        f"{speed.min_psnr - speed.worst_psnr_below:g}; {on}."
    ]


TRIALS = ("tried", "together", "PSNR", "worst", "pictures", "times as fast", "")
"""The head of `trials`."""


def trials(manifest: Manifest) -> list[tuple[str, ...]]:
    """What a search for speed tried, in order: a row for each, whose last cell says what became of it."""
    speed = manifest.speed
    return [
        (
            trial.way,
            trial.combination,
            f"{trial.psnr:.1f} dB" if trial.measured else "-",
            f"{trial.worst_psnr:.1f} dB" if trial.measured else "-",
            str(trial.pictures or "-"),
            f"{trial.speed_up:.2f}" if trial.measured else "-",
            "kept" if trial.kept else trial.reason,
        )
        for trial in (() if speed is None else speed.trials)
    ]


def worst_weights(manifest: Manifest, count: int = 10) -> list[tuple[str, WeightRecord, float]]:
    """The weights with the largest relative errors that were measured: graph's folder, weight, error."""
    measured = [
        (graph.folder, weight, weight.error)
        for graph in manifest.graphs
        for weight in graph.weights
        if weight.error is not None
    ]
    return sorted(measured, key=lambda row: -row[2])[:count]


def notes(manifest: Manifest) -> dict[str, list[str]]:
    """Why weights are not quantized as asked -> their keys, with the graph's folder in front."""
    reasons: dict[str, list[str]] = {}
    for graph in manifest.graphs:
        for weight in graph.weights:
            if weight.note:
                reasons.setdefault(weight.note, []).append(f"{graph.folder}: {weight.key}")
    return reasons
