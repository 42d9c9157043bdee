"""A low-rank correction beside few bits: W = quantized residual + L.R (the idea of SVDQuant, for weights only)."""

from __future__ import annotations

import numpy as np

from compiler.quantize.find import Layout

# Columns beyond the rank, and passes over the matrix: enough for the largest singular values of weights,
# which fall slowly (Halko, Martinsson and Tropp 2011, algorithm 4.4).
_MORE = 8
_PASSES = 2


def split(rows: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """The best L [rows, rank] and R [rank, inner] in fp16, of a truncated SVD with a fixed seed.

    Args:
        rows: finite float32 [rows, inner]; neither side is smaller than `rank`.
    """
    count, inner = rows.shape
    sketch = np.random.default_rng(0).standard_normal((inner, min(rank + _MORE, count, inner)), np.float32)
    basis = np.linalg.qr(rows @ sketch)[0]
    for _ in range(_PASSES):
        basis = np.linalg.qr(rows @ np.linalg.qr(rows.T @ basis)[0])[0]
    u, s, v = np.linalg.svd(basis.T @ rows, full_matrices=False)
    root = np.sqrt(s[:rank])
    left, right = (basis @ u[:, :rank]) * root, root[:, None] * v[:rank]
    top = np.float32(np.finfo(np.float16).max)
    return np.clip(left, -top, top).astype(np.float16), np.clip(right, -top, top).astype(np.float16)


def unfit(rank: int, layout: Layout) -> str:
    """Why a weight has no such correction; empty where it may."""
    if layout.kind == "embedding":
        return layout.article
    if layout.groups != 1:
        return "a grouped convolution"
    # Above that the correction in fp16 takes more than the four bits it corrects.
    if rank * (layout.rows + layout.inner) * 4 > layout.rows * layout.inner:
        return f"{layout.rows}x{layout.inner} is too small for rank {rank}"
    return ""
