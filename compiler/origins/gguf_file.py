"""GGUF files: tensors in blocks of a few bits, decoded by the package `gguf`, one tensor at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from artifacts.error_text import one_line
from artifacts.errors import LatentcError
from targets.graph.finite import require_finite
from targets.graph.weights import Origin

MAGIC = b"GGUF"


def is_gguf(file: Path) -> bool:
    """Whether a file starts as GGUF files do."""
    try:
        with file.open("rb") as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


@dataclass(frozen=True)
class Blocks:
    """A tensor of a GGUF file: `nbytes` bytes from `offset` in blocks of the type `kind` ("Q4_K"); reads as float32."""

    file: Path
    key: str
    shape: tuple[int, ...]
    kind: str
    offset: int
    nbytes: int
    dtype: ir.DataType = ir.DataType.FLOAT

    def read(self) -> np.ndarray:
        """The decoded array.

        Raises:
            OSError: the file cannot be read, or ends too early.
            LatentcError: an element is NaN or infinite.
        """
        import gguf

        data = np.fromfile(self.file, dtype=np.uint8, count=self.nbytes, offset=self.offset)
        if data.nbytes != self.nbytes:
            raise OSError(f"{self.file}: ends inside '{self.key}'")
        # Blocks lie along the last axis; decoders want a row to be one.
        rows = data.reshape(math.prod(self.shape[:-1]), -1)
        decoded = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[self.kind])
        array: np.ndarray = np.ascontiguousarray(decoded, np.float32).reshape(self.shape)
        require_finite(array, str(self.file), self.key)
        return array


def tensors(file: Path) -> dict[str, Origin]:
    """The tensors of a GGUF file by their names; reads its header only.

    Raises:
        LatentcError: `gguf` is not installed, the file is damaged, or a type of blocks cannot be decoded.
    """
    try:
        import gguf
    except ImportError:
        raise LatentcError(
            f"{file.name} is a GGUF file, which the package gguf reads.",
            'Install it: pip install "latentc[gguf]"',
        ) from None
    size = file.stat().st_size
    try:
        entries = gguf.GGUFReader(str(file)).tensors
    except Exception as error:  # The reader indexes into the file as if it were whole.
        raise LatentcError(
            f"{file} is not a sound GGUF file: {one_line(error)}.", "Download it again."
        ) from error
    result: dict[str, Origin] = {}
    for entry in entries:
        kind, name = entry.tensor_type, str(entry.name)
        end = int(entry.data_offset) + int(entry.n_bytes)
        if end > size:
            raise LatentcError(
                f"{file} is truncated: its tensors end at byte {end}, the file at {size}.",
                "Download it again.",
            )
        decodable = kind in gguf.quants._type_traits or kind.name in ("F32", "F16", "BF16")
        if not decodable:
            raise LatentcError(f"'{name}' in {file} is in blocks of {kind.name}, which gguf does not decode.")
        shape = tuple(int(length) for length in reversed(entry.shape.tolist()))
        result[name] = Blocks(file, name, shape, kind.name, int(entry.data_offset), int(entry.n_bytes))
    return result
