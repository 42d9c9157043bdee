"""Weights that stay on disk: where a tensor is stored, what happens to it on the way, and nothing in memory.

A `WeightRef` is an `onnx_ir` tensor. A graph carries it like any initializer; its data is read from its
safetensors file, transformed and forgotten each time somebody asks, which is once, while it is written out.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import onnx_ir as ir

from targets.graph.finite import require_finite


class Transform(Protocol):
    """One step from the stored tensor to the written one. Frozen dataclasses, so that a chain can be hashed."""

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape after the step."""

    def dtype(self, dtype: ir.DataType) -> ir.DataType:
        """The element type after the step."""

    def apply(self, array: np.ndarray) -> np.ndarray:
        """The step itself; may return a view."""


@dataclass(frozen=True)
class Cast:
    """To another floating-point or integer element type, rounding to nearest even."""

    to: ir.DataType

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def dtype(self, dtype: ir.DataType) -> ir.DataType:
        return self.to

    def apply(self, array: np.ndarray) -> np.ndarray:
        # PyTorch warns of memory that nobody may write to, and knows no negative strides.
        halved = array.dtype == np.float32 and self.to in _HALVES
        if halved and array.size >= _LARGE and array.flags.writeable and min(array.strides) >= 0:
            return _halved(array, self.to)
        return array.astype(self.to.numpy(), copy=False)


_HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_LARGE = 1 << 16
"""Elements of an array that PyTorch is asked to cast."""


def _halved(array: np.ndarray, to: ir.DataType) -> np.ndarray:
    """As NumPy casts it, which takes several times as long: it computes with such floats element by element."""
    import torch

    # Its strides stay: a transposed array is put in order when it is half as large.
    half = torch.from_numpy(array).to(torch.float16 if to == ir.DataType.FLOAT16 else torch.bfloat16)
    return half.view(torch.int16).numpy().view(to.numpy())


@dataclass(frozen=True)
class Transpose:
    """Axes reordered as `numpy.transpose` does."""

    perm: tuple[int, ...]

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(shape[i] for i in self.perm)

    def dtype(self, dtype: ir.DataType) -> ir.DataType:
        return dtype

    def apply(self, array: np.ndarray) -> np.ndarray:
        return array.transpose(self.perm)


@dataclass(frozen=True)
class Reshape:
    """Another shape with as many elements, in C order."""

    to: tuple[int, ...]

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if math.prod(shape) != math.prod(self.to):
            raise ValueError(f"cannot reshape {shape} to {self.to}")
        return self.to

    def dtype(self, dtype: ir.DataType) -> ir.DataType:
        return dtype

    def apply(self, array: np.ndarray) -> np.ndarray:
        return array.reshape(self.to)


@dataclass(frozen=True)
class Slice:
    """`start:stop` along one axis."""

    axis: int
    start: int
    stop: int

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[: self.axis], self.stop - self.start, *shape[self.axis + 1 :])

    def dtype(self, dtype: ir.DataType) -> ir.DataType:
        return dtype

    def apply(self, array: np.ndarray) -> np.ndarray:
        return array[(slice(None),) * self.axis + (slice(self.start, self.stop),)]


@dataclass(frozen=True)
class Pad:
    """`after` zeros at the end of one axis."""

    axis: int
    after: int

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[: self.axis], shape[self.axis] + self.after, *shape[self.axis + 1 :])

    def dtype(self, dtype: ir.DataType) -> ir.DataType:
        return dtype

    def apply(self, array: np.ndarray) -> np.ndarray:
        padded = np.zeros(self.shape(array.shape), array.dtype)
        padded[(slice(None),) * self.axis + (slice(array.shape[self.axis]),)] = array
        return padded


@dataclass(frozen=True)
class Merge:
    """Neighbours added up, in float32. `axes`: each axis, and how many neighbours become one, in order."""

    axes: tuple[tuple[int, tuple[int, ...]], ...]

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        merged = list(shape)
        for axis, sizes in self.axes:
            if sum(sizes) != shape[axis]:
                raise ValueError(f"cannot merge {sizes} along axis {axis} of {shape}")
            merged[axis] = len(sizes)
        return tuple(merged)

    def dtype(self, dtype: ir.DataType) -> ir.DataType:
        return ir.DataType.FLOAT

    def apply(self, array: np.ndarray) -> np.ndarray:
        array = array.astype(np.float32, copy=False)
        for axis, sizes in self.axes:
            array = np.add.reduceat(array, np.cumsum((0, *sizes[:-1])), axis=axis)
        return array


@dataclass(frozen=True)
class Multiply:
    """By one float32 factor for each index along an axis. `factors` are their bytes, so that equal steps are equal."""

    factors: bytes
    axis: int

    @classmethod
    def of(cls, factors: np.ndarray, axis: int) -> Multiply:
        """By `factors`, [length of the axis]."""
        return cls(factors.astype(np.float32).tobytes(), axis)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def dtype(self, dtype: ir.DataType) -> ir.DataType:
        return dtype

    def apply(self, array: np.ndarray) -> np.ndarray:
        factors = np.frombuffer(self.factors, np.float32)
        sides = [1] * array.ndim
        sides[self.axis] = len(factors)
        return (array * factors.reshape(sides)).astype(array.dtype, copy=False)


@runtime_checkable
class Origin(Protocol):
    """Where a weight comes from, before a graph's own steps. Frozen and hashable: equal origins are one weight.

    `key` is its name, for people and recipes; `dtype` and `shape` are those of what `read` returns.
    """

    @property
    def key(self) -> str: ...

    @property
    def dtype(self) -> ir.DataType: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def read(self) -> np.ndarray:
        """The array, read afresh.

        Raises:
            OSError: a file cannot be read, or ends too early.
            LatentcError: an element is NaN or infinite.
        """


@runtime_checkable
class Bounded(Protocol):
    """An origin that can tell how large its elements are at most, for less than it takes to compute them."""

    def bound(self) -> float | None:
        """What no element is larger than in size; None where it takes the weight itself to tell.

        Raises:
            OSError, LatentcError: as `Origin.read`.
        """


@dataclass(frozen=True)
class Stored:
    """A tensor in a safetensors file: `nbytes` bytes from `offset`, C order, little endian.

    `key` is the name in the file; errors and recipes speak of it.
    """

    file: Path
    key: str
    dtype: ir.DataType
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    def read(self) -> np.ndarray:
        """The array, read with one plain read: mapped pages would count against the caller's memory limit.

        Four-bit elements, two to a byte with the first in the low bits, come back one to a byte.

        Raises:
            OSError: the file cannot be read, or ends too early.
            LatentcError: an element is NaN or infinite.
        """
        if self.dtype.bitwidth == 4:
            return ir.PackedTensor(self.read_bytes(), self.dtype, shape=self.shape).numpy()
        array = self.read_bytes().view(self.dtype.numpy()).reshape(self.shape)
        require_finite(array, str(self.file), self.key)
        return array

    def read_bytes(self) -> np.ndarray:
        """The bytes as they are stored, uint8[nbytes]."""
        array = np.fromfile(self.file, dtype=np.uint8, count=self.nbytes, offset=self.offset)
        if array.nbytes != self.nbytes:
            raise OSError(f"{self.file}: ends inside '{self.key}'")
        return array


@dataclass(frozen=True)
class Seeded(Stored):
    """A tensor that is stored nowhere: of a model known by its configs alone. Reads as noise that `key` seeds.

    Matrices and kernels have unit gain (variance one over their fan-in), vectors called "weight" or "scale" lie
    around 1, and all other vectors are small, so that a network of them neither dies out nor overflows.
    """

    @classmethod
    def of(cls, key: str, shape: tuple[int, ...], dtype: ir.DataType) -> Seeded:
        """A tensor of that name, shape and type."""
        return cls(Path(), key, dtype, shape, 0, int(math.prod(shape) * dtype.itemsize))

    def read(self) -> np.ndarray:
        """The noise; the same on every machine and in every version."""
        noise = np.random.Generator(np.random.PCG64(zlib.crc32(self.key.encode())))
        array = noise.standard_normal(self.shape, dtype=np.float32)
        if len(self.shape) >= 2:
            array /= np.float32(max(math.prod(self.shape[1:]), 1) ** 0.5)
        else:
            array *= np.float32(0.1)
            if self.key.endswith(("weight", "scale")):
                array += np.float32(1)
        return array.astype(self.dtype.numpy(), copy=False)


@dataclass(frozen=True)
class Joined:
    """Several weights concatenated along `axis` (fused projections)."""

    parts: tuple[WeightRef, ...]
    axis: int

    @property
    def key(self) -> str:
        return "+".join(part.key for part in self.parts)

    @property
    def dtype(self) -> ir.DataType:
        return self.parts[0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        first = tuple(self.parts[0].shape.numpy())
        length = sum(part.shape.numpy()[self.axis] for part in self.parts)
        return (*first[: self.axis], length, *first[self.axis + 1 :])

    def read(self) -> np.ndarray:
        """The concatenated array."""
        return np.concatenate([part.numpy() for part in self.parts], axis=self.axis)


class WeightRef(ir.LazyTensor):
    """A lazy initializer: `source`, then `transforms` in order.

    Equal sources and transforms are the same weight, so `identity` may key a cache or a common-subexpression
    pass. Every access reads afresh and keeps nothing.
    """

    def __init__(
        self, source: Origin, transforms: tuple[Transform, ...] = (), name: str | None = None
    ) -> None:
        shape, dtype = source.shape, source.dtype
        for step in transforms:
            shape, dtype = step.shape(shape), step.dtype(dtype)
        super().__init__(self._load, dtype=dtype, shape=ir.Shape(shape), cache=False, name=name)
        self.source = source
        self.transforms = transforms

    @property
    def key(self) -> str:
        """The stored tensor's name, for people."""
        return self.source.key

    @property
    def identity(self) -> tuple[Any, ...]:
        """Hashable; equal for equal weights."""
        source = self.source
        if isinstance(source, Joined):
            return ("joined", source.axis, tuple(part.identity for part in source.parts), self.transforms)
        if isinstance(source, Stored):
            return ("stored", str(source.file), source.key, self.transforms)
        return ("origin", source, self.transforms)

    def then(self, *steps: Transform) -> WeightRef:
        """The same weight with more steps; a cast and its undoing cancel where nothing is lost."""
        chain = list(self.transforms)
        for step in steps:
            if isinstance(step, Cast):
                self._unwiden(chain)
            chain.append(step)
        return WeightRef(self.source, tuple(chain), self.name)

    def bound(self) -> float | None:
        """What no element is larger than in size, where that takes less than to compute the weight; else None.

        Raises:
            OSError, LatentcError: as `Origin.read`.
        """
        if not all(isinstance(step, (Cast, Transpose, Reshape, Slice, Pad)) for step in self.transforms):
            return None
        source = self.source
        if isinstance(source, Joined):
            bounds = [part.bound() for part in source.parts]
            return None if None in bounds else max(bound for bound in bounds if bound is not None)
        return source.bound() if isinstance(source, Bounded) else None

    def _unwiden(self, chain: list[Transform]) -> None:
        """Drops a chain's last cast where elements are only moved after it, and it lost nothing."""
        last = len(chain) - 1
        while last >= 0 and isinstance(chain[last], (Transpose, Reshape, Slice, Pad)):
            last -= 1
        if last < 0 or not isinstance(chain[last], Cast):
            return
        dtype = self.source.dtype
        for step in chain[:last]:
            dtype = step.dtype(dtype)
        narrow = dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
        if narrow and chain[last].dtype(dtype) == ir.DataType.FLOAT:
            del chain[last]

    def _load(self) -> ir.TensorProtocol:
        source = self.source
        if not self.transforms and isinstance(source, Stored) and source.dtype.bitwidth == 4:
            return ir.PackedTensor(source.read_bytes(), source.dtype, shape=source.shape, name=self.name)
        array = self.source.read()
        for step in self.transforms:
            array = step.apply(array)
        return ir.Tensor(np.ascontiguousarray(array).reshape(array.shape), dtype=self.dtype, name=self.name)

    def __repr__(self) -> str:
        return f"WeightRef({self.key!r}, {self.dtype.name}, {list(self.shape.numpy())}, {self.transforms})"
