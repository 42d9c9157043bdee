"""A variant's pictures against the reference's: everything of `bench.record.Quality`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from bench import network_metrics as learned
from bench import picture_metrics, prompts
from bench.picture_metrics import Shot
from bench.record import Measured, Quality
from bench.stats import measured
from compiler.evidence.metrics import decibels

NO_REFERENCE = "there is no --reference"

Pair = tuple[Shot, Shot]


def quality(ours: Sequence[Shot], theirs: Sequence[Shot] | None, texts: Sequence[str]) -> Quality:
    """Compares pictures.

    Args:
        ours: all pictures of a variant.
        theirs: the reference's of the same prompts and seeds, in the same order; None without a reference.
        texts: the prompts.
    """
    unlike = NO_REFERENCE
    pairs: list[Pair] = []
    if theirs is not None:
        pairs = list(zip(ours, theirs, strict=True))
        shapes = {(a.image.shape, b.image.shape) for a, b in pairs}
        if any(shape != wanted for shape, wanted in shapes):
            unlike = "its pictures are not of the reference's size"
            pairs = []
        nothing = [b.prompt for _, b in pairs if picture_metrics.broken(b)]
        if nothing:
            unlike = (
                f"the reference's own picture of '{texts[nothing[0]]}' is black, of one colour or not finite"
            )
            pairs = []
    curve, final = _latents(pairs, unlike)
    return Quality(
        psnr=_psnr(pairs, unlike),
        ssim=_mean(pairs, lambda a, b: picture_metrics.ssim(a.image, b.image), np.min, unlike),
        ms_ssim=_ms_ssim(pairs, unlike),
        latent_error=final,
        latent_curve=curve,
        broken=measured(_grouped(ours, lambda shot: float(picture_metrics.broken(shot)))),
        equal=_mean(pairs, lambda a, b: float(np.array_equal(a.image, b.image)), np.min, unlike),
        prompt_accuracy=_accuracy(ours, texts),
        lpips=learned.lpips(_by_prompt(pairs)) if pairs else Measured(reason=unlike),
        clip_score=learned.clip_score(_images(ours), texts),
        fid=learned.fid([a.image for a, _ in pairs], [b.image for _, b in pairs])
        if pairs
        else Measured(reason=unlike),
    )


def _psnr(pairs: Sequence[Pair], unlike: str) -> Measured:
    if not pairs:
        return Measured(reason=unlike)
    errors = [
        [picture_metrics.squared_error(a.image, b.image) for a, b in group] for group in _grouped_pairs(pairs)
    ]
    worst = max(max(group) for group in errors)
    return measured(errors, scale=decibels, worst=float(decibels(np.array(worst))))


def _ms_ssim(pairs: Sequence[Pair], unlike: str) -> Measured:
    similarity = _mean(pairs, lambda a, b: picture_metrics.ms_ssim(a.image, b.image), np.min, unlike)
    if not pairs:
        return similarity
    count = picture_metrics.scales(pairs[0][0].image.shape)
    if count < len(picture_metrics.MS_SSIM_BETAS):
        reason = f"over {count} scales: the pictures are too small for {len(picture_metrics.MS_SSIM_BETAS)}"
        return similarity.model_copy(update={"reason": reason})
    return similarity


def _mean(
    pairs: Sequence[Pair],
    measure: Callable[[Shot, Shot], float],
    worst: Callable[[Sequence[float]], np.floating],
    unlike: str,
) -> Measured:
    if not pairs:
        return Measured(reason=unlike)
    values = [[measure(a, b) for a, b in group] for group in _grouped_pairs(pairs)]
    return measured(values, worst=float(worst([value for group in values for value in group])))


def _latents(pairs: Sequence[Pair], unlike: str) -> tuple[tuple[float | None, ...], Measured]:
    """The median error after each step, and the last one's with its interval."""
    if not pairs:
        return (), Measured(reason=unlike)
    curves = [
        [picture_metrics.latent_errors(a.latents, b.latents) for a, b in group]
        for group in _grouped_pairs(pairs)
    ]
    groups = [[curve for curve in group if curve is not None] for group in curves]
    flat = [curve for group in groups for curve in group]
    if len(flat) < len(pairs) or len({len(curve) for curve in flat}) != 1:
        return (), Measured(reason="its latents are not shown, or not of the reference's shape")
    middle = np.median(np.stack(flat), axis=0)
    final = [[float(curve[-1]) for curve in group] for group in groups]
    worst = float(np.max([value for group in final for value in group]))  # which keeps NaN
    shown = measured(
        final,
        statistic=lambda values: np.median(values, axis=-1),
        worst=worst if math.isfinite(worst) else None,
    )
    return tuple(float(v) if math.isfinite(v) else None for v in middle), shown


def _accuracy(ours: Sequence[Shot], texts: Sequence[str]) -> Measured:
    """Read back by the judge of the built-in model."""
    captions = prompts.captions(texts)
    if captions is None or any(shot.image.ndim != 3 for shot in ours):
        return Measured(reason="only pictures of prompts in the words of `shapes` can be read back")
    from PIL import Image

    from bench.reference.judge import prompt_accuracy

    groups = _grouped(
        ours, lambda shot: prompt_accuracy([Image.fromarray(shot.image)], [captions[shot.prompt]])
    )
    return measured(groups, worst=min(value for group in groups for value in group))


def _grouped(shots: Sequence[Shot], measure: Callable[[Shot], float]) -> list[list[float]]:
    groups: dict[int, list[float]] = {}
    for shot in shots:
        groups.setdefault(shot.prompt, []).append(measure(shot))
    return list(groups.values())


def _grouped_pairs(pairs: Sequence[Pair]) -> list[list[Pair]]:
    groups: dict[int, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair[0].prompt, []).append(pair)
    return list(groups.values())


def _by_prompt(pairs: Sequence[Pair]) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    return [[(a.image, b.image) for a, b in group] for group in _grouped_pairs(pairs)]


def _images(shots: Sequence[Shot]) -> list[list[np.ndarray]]:
    groups: Mapping[int, list[np.ndarray]] = {shot.prompt: [] for shot in shots}
    for shot in shots:
        groups[shot.prompt].append(shot.image)
    return list(groups.values())
