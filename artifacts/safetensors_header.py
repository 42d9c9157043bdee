"""What a safetensors file holds and where, read without the library, which lets duplicate keys pass.

The format: https://huggingface.co/docs/safetensors#format
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from artifacts import artifact_paths, strict_json
from artifacts.contents import check_not_pointer
from artifacts.element_count import MAX_RANK, element_count
from artifacts.errors import LatentcError

MAX_HEADER = 25_000_000
"""Bytes of JSON: some 200,000 tensors, which take seconds and 400 MB to read. The reference implementation has four
times that, and the largest models a hundredth."""

# Every dtype that the reference implementation (safetensors 0.8) knows, with its bits per element.
DTYPE_BITS: dict[str, int] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}


@dataclass(frozen=True)
class Entry:
    """One tensor: C order, little endian, `nbytes` bytes from the byte `offset` of the file."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def read_header(path: Path) -> tuple[Entry, ...]:
    """The tensors of a safetensors file in the order of their data; reads the header only.

    The data must fill the rest of the file, tensor by tensor, with neither gap nor overlap.

    Raises:
        LatentcError: the file cannot be read, or is not strictly of the format; names the key and the fault.
    """
    try:
        with _open(path) as stream:
            file_size = os.fstat(stream.fileno()).st_size
            start = stream.read(8)
            if start == b"version ":
                check_not_pointer(start + stream.read(64), path)
            length = int.from_bytes(start, "little")
            if file_size < 8 or length > file_size - 8:
                raise _fault(
                    path, f"is truncated: its header ends at byte {8 + length}, the file at {file_size}"
                )
            if length > MAX_HEADER:
                raise _fault(path, f"has a header of {length} bytes; at most {MAX_HEADER} are allowed")
            data = stream.read(length)
    except OSError as error:
        raise LatentcError(f"{path} cannot be read: {error.strerror or error}.") from error
    if data[:1] != b"{" or len(data) != length:
        raise _fault(path, "has no header: the first byte of a header is '{'")
    header = strict_json.loads(data, f"the header of {path}")
    entries = [_entry(path, key, info, 8 + length) for key, info in header.items() if key != "__metadata__"]
    _check_metadata(path, header.get("__metadata__", {}))
    # Tensors without elements share an offset with the one after them.
    entries.sort(key=lambda entry: (entry.offset, entry.nbytes))
    _check_contiguous(path, entries, 8 + length, file_size)
    return tuple(entries)


def _open(path: Path) -> BinaryIO:
    # NONBLOCK: opening a FIFO must not wait for a writer.
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    stream = os.fdopen(os.open(path, flags), "rb")
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise LatentcError(f"{path} is not a regular file.")
    return stream


# The first bytes of files that are often named .safetensors, and what they are.
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"PK", "a pickle of PyTorch (a zip archive), which can run any code when it is read"),
    (b"\x80", "a pickle, which can run any code when it is read"),
    (b"GGUF", "a GGUF file"),
)


def require_safetensors(path: Path) -> None:
    """Refuses a file that is of another known format, by its first bytes.

    Raises:
        LatentcError: it is, or cannot be read.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(16)
    except OSError as error:
        raise LatentcError(f"{path} cannot be read: {error.strerror or error}.") from error
    for magic, kind in _OTHERS:
        # A safetensors file starts with the length of its header, whose first byte follows.
        if start.startswith(magic) and start[8:9] != b"{":
            raise LatentcError(
                f"{path} is {kind}; a safetensors file is needed.",
                "Get it as safetensors, or convert it where you trust it.",
            )


def _entry(path: Path, key: str, info: Any, start: int) -> Entry:
    at = f"tensor {artifact_paths.shown(key)}"
    if not isinstance(info, dict) or info.keys() != {"dtype", "shape", "data_offsets"}:
        raise _fault(path, f"{at} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]
    bits = DTYPE_BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        raise _fault(path, f"{at} has the unknown dtype {ascii(dtype)[:40]}")
    if not _naturals(shape):
        raise _fault(path, f"{at} has a shape that is not a list of natural numbers")
    if len(shape) > MAX_RANK:
        raise _fault(path, f"{at} has a shape of {len(shape)} dimensions")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _fault(path, f"{at} has data_offsets that are not a begin and an end")
    nbytes, stored_bits = element_count(shape) * bits, (offsets[1] - offsets[0]) * 8
    if nbytes != stored_bits:
        raise _fault(
            path,
            f"{at} has {stored_bits // 8} bytes, its dtype {dtype} and shape {shape} need {nbytes / 8:.16g}",
        )
    return Entry(key, dtype, tuple(shape), start + offsets[0], offsets[1] - offsets[0])


def _naturals(value: Any) -> bool:
    # 63 bits: beyond that no file reaches, and arithmetic in other readers overflows.
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)


def _check_metadata(path: Path, metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _fault(path, "has a __metadata__ that is not a dict of strings")


def _check_contiguous(path: Path, entries: list[Entry], start: int, file_size: int) -> None:
    end, previous = start, "the header"
    for entry in entries:
        at = f"tensor {artifact_paths.shown(entry.key)}"
        if entry.offset < end:
            raise _fault(path, f"{at} overlaps {previous}")
        if entry.offset > end:
            raise _fault(path, f"{entry.offset - end} bytes between {previous} and {at} belong to no tensor")
        end, previous = entry.offset + entry.nbytes, at
    if end > file_size:
        raise _fault(path, f"is truncated: its tensors end at byte {end}, the file at {file_size}")
    if end < file_size:
        raise _fault(path, f"has {file_size - end} bytes after its last tensor")


def _fault(path: Path, problem: str) -> LatentcError:
    return LatentcError(
        f"{path} is not a sound safetensors file: it {problem}."
        if problem.startswith(("is ", "has "))
        else f"{path} is not a sound safetensors file: {problem}.",
        "Download or save the file again.",
    )
