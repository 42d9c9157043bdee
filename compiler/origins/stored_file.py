"""The tensors of safetensors files, of which only the headers are read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx_ir as ir

from artifacts.errors import LatentcError
from artifacts.safetensors_header import Entry, read_header
from targets.graph.weights import Stored

_DTYPES: dict[str, ir.DataType] = {
    "F64": ir.DataType.DOUBLE,
    "F32": ir.DataType.FLOAT,
    "F16": ir.DataType.FLOAT16,
    "BF16": ir.DataType.BFLOAT16,
    "I64": ir.DataType.INT64,
    "I32": ir.DataType.INT32,
    "I16": ir.DataType.INT16,
    "I8": ir.DataType.INT8,
    "U8": ir.DataType.UINT8,
    "BOOL": ir.DataType.BOOL,
    "F8_E4M3": ir.DataType.FLOAT8E4M3FN,
    "F8_E5M2": ir.DataType.FLOAT8E5M2,
}


def stored_tensors(files: Iterable[Path]) -> dict[str, Stored]:
    """Every tensor of the files by its key there.

    Raises:
        LatentcError: a file is damaged, a key stands in two files, or a dtype is not supported.
    """
    tensors: dict[str, Stored] = {}
    for file in files:
        for entry in read_header(file):
            if entry.key in tensors:
                raise LatentcError(f"'{entry.key}' stands in both {tensors[entry.key].file} and {file}.")
            tensors[entry.key] = _stored(file, entry)
    return tensors


def _stored(file: Path, entry: Entry) -> Stored:
    dtype = _DTYPES.get(entry.dtype)
    if dtype is None:
        raise LatentcError(f"'{entry.key}' in {file} is of type {entry.dtype}, which cannot be compiled.")
    return Stored(file, entry.key, dtype, entry.shape, entry.offset, entry.nbytes)
