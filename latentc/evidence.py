"""What a manifest's evidence says, in words: a figure, or that nothing was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from artifacts.manifest import Evidence, Manifest, PictureEvidence, WeightRecord


def worst(evidence: Evidence) -> float | None:
    """The largest relative error of a graph's outputs, or None when it was not measured."""
    return max(evidence.error.values()) if evidence.error else None


def line(evidence: Evidence) -> str:
    """One graph's evidence for a table's cell."""
    error = worst(evidence)
    if evidence.check == "not measured" or error is None:
        return "not measured" + (f": {evidence.reason}" if evidence.reason else "")
    limit = "" if evidence.tolerance is None else f" (limit {evidence.tolerance:.0e})"
    return f"{evidence.check}: {error:.1e}{limit}"


def summary(manifest: Manifest) -> str:
    """One sentence about all graphs; what was not measured is named."""
    measured = [
        (error, graph.folder) for graph in manifest.graphs if (error := worst(graph.evidence)) is not None
    ]
    missing = [graph for graph in manifest.graphs if worst(graph.evidence) is None]
    parts = []
    if measured:
        error, folder = max(measured)
        parts.append(f"Worst relative error to PyTorch: {error:.1e} ({folder}).")
    if missing:
        reasons = sorted({graph.evidence.reason for graph in missing if graph.evidence.reason})
        why = f" ({'; '.join(reasons)})" if reasons else ""
        parts.append(f"Not measured: {', '.join(graph.folder for graph in missing)}{why}.")
    return " ".join(parts)


def quantized_line(manifest: Manifest) -> str:
    """One sentence about the quantized weights: how many, in how many bits, and what is not as asked."""
    weights = [weight for graph in manifest.graphs for weight in graph.weights]
    count = sum(weight.parameters for weight in weights)
    bits = 8 * sum(weight.bytes for weight in weights) / max(count, 1)
    text = f"Quantized: {len(weights)} weights with {count:,} parameters, {bits:.2f} bits each."
    noted = sum(bool(weight.note) for weight in weights)
    if noted:
        text += f" {noted} of them not as asked; latentc inspect says why."
    return text


def pictures_line(pictures: PictureEvidence) -> str:
    """One sentence about a quantized model's pictures."""
    if pictures.psnr is None or pictures.ssim is None:
        return f"Pictures beside PyTorch's: not measured ({pictures.reason})."
    return (
        f"Pictures beside PyTorch's: PSNR {pictures.psnr:.1f} dB, worst {pictures.worst_psnr:.1f}; "
        f"SSIM {pictures.ssim:.3f}, worst {pictures.worst_ssim:.3f} "
        f"({pictures.prompts} prompts, {pictures.steps} steps)."
    )


def worst_weights(manifest: Manifest, count: int = 10) -> list[tuple[str, WeightRecord]]:
    """The quantized weights with the largest relative errors, with their graph's folder."""
    weights = [(graph.folder, weight) for graph in manifest.graphs for weight in graph.weights]
    return sorted(weights, key=lambda pair: -pair[1].error)[:count]


def notes(manifest: Manifest) -> dict[str, list[str]]:
    """Why weights are not quantized as asked -> their keys, with the graph's folder in front."""
    found: dict[str, list[str]] = {}
    for graph in manifest.graphs:
        for weight in graph.weights:
            if weight.note:
                found.setdefault(weight.note, []).append(f"{graph.folder}: {weight.key}")
    return found
