"""Random weights written straight into safetensors files: a header, then one block of numbers after another.

The format: https://huggingface.co/docs/safetensors#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

SHARD_BYTES = 10_000_000_000
"""Where diffusers' save_pretrained starts the next file."""
BLOCK = 4 << 20
"""Numbers made at a time."""

DTYPES: Mapping[str, tuple[str, np.dtype[Any]]] = {
    "bf16": ("BF16", np.dtype(ml_dtypes.bfloat16)),
    "fp16": ("F16", np.dtype(np.float16)),
    "fp32": ("F32", np.dtype(np.float32)),
}


def write(
    folder: Path,
    stem: str,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: str,
    seed: int,
    sparse: bool,
    blocks: int | None = None,
) -> int:
    """Write `stem`.safetensors into `folder`, or shards of it and their index, as diffusers does.

    Matrices and kernels are normal with a deviation of 1/sqrt(fan in), so that activations keep their size;
    vectors are 0 when they are biases and else 1 (the scales of normalization layers).

    Args:
        shapes: key -> shape, in the order they are stored.
        dtype: of `DTYPES`.
        seed: with the key's position, decides every number.
        sparse: write the headers only and leave the numbers a hole: zeros, which take no disk on file systems
            with sparse files.
        blocks: of numbers that are written of each tensor, the rest being such a hole; None for all.

    Returns:
        The bytes of all tensors.
    """
    size = DTYPES[dtype][1].itemsize
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for key, shape in shapes.items():
        nbytes = math.prod(shape) * size
        if filled and filled + nbytes > SHARD_BYTES:
            shards.append({})
            filled = 0
        shards[-1][key] = shape
        filled += nbytes
    names = [f"{stem}.safetensors"]
    if len(shards) > 1:
        names = [f"{stem}-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    order = {key: index for index, key in enumerate(shapes)}
    total = 0
    for name, shard in zip(names, shards, strict=True):
        with (folder / name).open("wb") as file:
            total += _header(file, shard, dtype)
            for key, shape in shard.items():
                if sparse:
                    file.seek(math.prod(shape) * size, 1)
                else:
                    _tensor(file, key, shape, dtype, np.random.default_rng([seed, order[key]]), blocks)
            file.truncate()
    if len(shards) > 1:
        where = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
    return total


def _header(file: BinaryIO, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> int:
    """Writes the header; returns the bytes of data that follow."""
    name, numpy_type = DTYPES[dtype]
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for key, shape in shapes.items():
        end = at + math.prod(shape) * numpy_type.itemsize
        entries[key] = {"dtype": name, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    return at


def _tensor(
    file: BinaryIO,
    key: str,
    shape: tuple[int, ...],
    dtype: str,
    random: np.random.Generator,
    blocks: int | None,
) -> None:
    numpy_type = DTYPES[dtype][1]
    count = math.prod(shape)
    written = count if blocks is None else min(count, blocks * BLOCK)
    scale = np.float32(1 / math.sqrt(math.prod(shape[1:])))
    if len(shape) > 1:
        first = random.standard_normal(min(BLOCK, count), dtype=np.float32) * scale
    else:
        first = np.full(min(BLOCK, count), 0.0 if key.endswith("bias") else 1.0, dtype=np.float32)
    stored = first.astype(numpy_type)
    for start in range(0, written, BLOCK):
        # Of a large tensor, later blocks are the first one turned: making numbers is slower than writing them.
        turned = np.roll(stored, int(random.integers(len(stored)))) if start else stored
        file.write(turned[: count - start].tobytes())
    file.seek((count - written) * numpy_type.itemsize, 1)
