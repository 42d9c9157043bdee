from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from artifacts.errors import LatentcError
from artifacts.safetensors_header import DTYPE_BITS, Entry, read_header

NAMES = {
    "bool": "BOOL", "int8": "I8", "uint8": "U8", "int16": "I16", "uint16": "U16", "int32": "I32",
    "uint32": "U32", "int64": "I64", "uint64": "U64",
    "float16": "F16", "float32": "F32", "float64": "F64", "complex64": "C64",
}  # fmt: skip
in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
tensors = st.dictionaries(
    st.text(max_size=8).filter(lambda key: key != "__metadata__"),
    st.sampled_from(sorted(NAMES)).flatmap(
        lambda dtype: arrays.arrays(
            dtype, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
        )
    ),
    max_size=6,
)


@in_one_folder
@given(tensors, st.none() | st.dictionaries(st.text(), st.text(), max_size=2))
def test_reads_what_the_library_writes(tmp_path: Path, values: dict[str, np.ndarray], metadata) -> None:
    if not values:
        metadata = None  # safetensors 0.8 writes no valid JSON for metadata without tensors
    path = tmp_path / "x.safetensors"
    path.write_bytes(save(values, metadata))
    data, entries = path.read_bytes(), read_header(path)
    assert {entry.key for entry in entries} == set(values)
    assert [entry.offset for entry in entries] == sorted(entry.offset for entry in entries)
    for entry in entries:
        value = values[entry.key]
        assert entry.dtype == NAMES[value.dtype.name]
        assert entry.shape == value.shape
        assert data[entry.offset : entry.offset + entry.nbytes] == value.tobytes()


def file(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def tensor(begin: int, end: int, dtype: str = "U8", shape: list[int] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


@in_one_folder
@given(st.data())
def test_whatever_the_library_refuses_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    """Random damage to a small file: refused here, or read by the library, and then as the same tensors."""
    raw = bytearray(save({"a": np.arange(3, dtype=np.int16), "b": np.ones((2, 2), np.float32)}))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(
            st.sampled_from(b'0123456789{}[]:,"abIF\x00\xff')
        )
    del raw[data.draw(st.integers(len(raw) - 4, len(raw))) :]
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw)
    try:
        entries = read_header(path)
    except LatentcError as error:
        assert str(path) in error.message
        return
    assert {entry.key: entry.shape for entry in entries} == {k: v.shape for k, v in load(bytes(raw)).items()}


HALF = {"a": tensor(0, 4), "b": tensor(4, 8)}
ONE = json.dumps(tensor(0, 1)).encode()
DEEP = b'{"a":' * 100_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is truncated"),
        (b"\x02\x00\x00", "is truncated"),
        (file(HALF, b"x" * 8, length=1000), "is truncated: its header ends at byte 1008"),
        (file(HALF, b"x" * 8, length=(1 << 64) - 1), "is truncated"),
        (file(HALF, b"x" * 7), r"is truncated: its tensors end at byte \d+"),
        (file(HALF, b"x" * 9), "1 bytes after its last tensor"),
        (file(b""), "has no header"),
        (file(b" {}"), "has no header"),
        (file(b"[1]"), "has no header"),
        (file(b"{"), "not valid JSON"),
        (file(b'{"\xff": 1}'), "not valid JSON"),
        (file(DEEP), "too deep"),
        (file(b'{"a":%s,"a":%s}' % (ONE, ONE), b"x"), "the key 'a' is there twice"),
        (file(b'{"a":%s}' % ONE.replace(b"{", b'{"dtype":"I8",'), b"x"), "the key 'dtype' is there twice"),
        (file({"a": 1}), "tensor 'a' is not described"),
        (file({"a": {"dtype": "U8", "shape": [1]}}, b"x"), "tensor 'a' is not described"),
        (file({"a": tensor(0, 1) | {"code": "x"}}, b"x"), "tensor 'a' is not described"),
        (file({"a": tensor(0, 1, "U9")}, b"x"), "unknown dtype 'U9'"),
        (file({"a": tensor(0, 1, ["U8"])}, b"x"), "unknown dtype"),
        (file({"a": tensor(0, 4, "F32", [2])}, b"x" * 4), r"has 4 bytes, .* F32 and shape \[2\] need 8"),
        (file({"a": tensor(0, 1, "F4", [1])}, b"x"), "need 0.5"),
        (file({"a": tensor(0, 4, "U8", [-4])}, b"x" * 4), "natural numbers"),
        (file({"a": tensor(0, 1, "U8", [True])}, b"x"), "natural numbers"),
        (file({"a": tensor(0, 1, "U8", [1.0])}, b"x"), "natural numbers"),
        (file({"a": tensor(0, 4, "U8", [1 << 62, 1 << 62, 4])}, b"x" * 4), "has 4 bytes"),
        # A product of as many figures takes minutes, and its message megabytes.
        (file({"a": tensor(0, 4, "U8", [1 << 62] * 500_000)}, b"x" * 4), "a shape of 500000 dimensions"),
        (file({"a": tensor(0, 4) | {"data_offsets": [4, 0]}}, b"x" * 4), "a begin and an end"),
        (file({"a": tensor(0, 4) | {"data_offsets": [0, 4, 4]}}, b"x" * 4), "a begin and an end"),
        (file({"a": tensor(0, 4), "b": tensor(2, 6)}, b"x" * 6), "tensor 'b' overlaps tensor 'a'"),
        (file({"a": tensor(0, 4), "b": tensor(0, 4)}, b"x" * 4), "tensor 'b' overlaps tensor 'a'"),
        (file({"a": tensor(0, 4), "b": tensor(5, 6)}, b"x" * 6), "1 bytes between tensor 'a' and tensor 'b'"),
        (file({"a": tensor(2, 4)}, b"x" * 4), "2 bytes between the header and tensor 'a'"),
        (file({"__metadata__": {"a": 1}}), "__metadata__"),
        (file({"__metadata__": []}), "__metadata__"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(LatentcError, match=message) as caught:
        read_header(path)
    assert str(path) in caught.value.message


def test_a_header_over_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as stream:
        stream.write((100_000_001).to_bytes(8, "little") + b"{")
        stream.truncate(200_000_000)  # sparse
    with pytest.raises(LatentcError, match="header of 100000001 bytes"):
        read_header(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(LatentcError, match="cannot be read"):
        read_header(tmp_path / "x.safetensors")


def test_padding_empty_tensors_and_small_dtypes(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    header = {
        "e": tensor(3, 3, "F32", [0, 7]),
        "f": tensor(0, 3, "F6_E2M3", [4]),
        "z": tensor(3, 3, "U8", [0]),
    }
    text = json.dumps(header).encode() + b"   "
    path.write_bytes(file(text, b"xyz"))
    start = 8 + len(text)
    assert sorted(read_header(path), key=lambda entry: entry.key) == [
        Entry("e", "F32", (0, 7), start + 3, 0),
        Entry("f", "F6_E2M3", (4,), start, 3),
        Entry("z", "U8", (0,), start + 3, 0),
    ]


def test_every_dtype_is_one_of_the_library_and_has_its_size(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for dtype, bits in DTYPE_BITS.items():
        path.write_bytes(file({"a": tensor(0, bits, dtype, [8])}, b"\x00" * bits))
        assert read_header(path)[0].nbytes == bits
        with safe_open(path, "np") as library:
            assert library.get_slice("a").get_dtype() == dtype
        path.write_bytes(file({"a": tensor(0, bits + 1, dtype, [8])}, b"\x00" * (bits + 1)))
        with pytest.raises(SafetensorError):
            safe_open(path, "np")
