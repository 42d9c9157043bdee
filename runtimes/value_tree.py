"""Trees of arguments and results: a Python value taken apart into tensors, and built from arrays again.

Pure functions on the records of `artifacts.manifest`; torch is imported only where it is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from artifacts.call_trees import (
    AnyLeaf,
    ComplexLeaf,
    ConstLeaf,
    MappingNode,
    ObjectNode,
    SequenceNode,
    SizeLeaf,
    TensorLeaf,
    Tree,
)
from artifacts.errors import LatentcError
from artifacts.manifest import DimRange, TensorSpec
from runtimes.torch_arrays import from_tensor, to_tensor
from runtimes.trusted_classes import class_path, new_output

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Misfit:
    """One axis of a graph's input that has another size than the graph takes.

    Attributes:
        axis, rank: which of how many.
        low, high, step: what it takes, from `low` on.
        dim: the manifest's name of the dimension; empty for a fixed number.
        apart: whether only the other inputs of the call, which have another size of this dimension, are against it.
    """

    input: str
    axis: int
    rank: int
    low: int
    high: int
    found: int
    dim: str = ""
    apart: bool = False
    step: int = 1

    @property
    def between(self) -> bool:
        """Whether it is a size between those that the graph takes."""
        return self.low < self.found < self.high


@dataclass(frozen=True)
class Mismatch:
    """Why a value does not fit: where (``added_cond_kwargs['text_embeds']``), what fits, what was there.

    Attributes:
        of_shape: whether it is a tensor's shape.
        misfits: the axes whose sizes do not fit, where only these are the reason.
    """

    path: str
    expected: str
    actual: str
    of_shape: bool = False
    misfits: tuple[Misfit, ...] = ()

    def __str__(self) -> str:
        return f"{self.path}: expected {self.expected}, found {self.actual}"


def match(tree: Tree, value: Any, path: str = "value") -> dict[str, Any] | Mismatch:
    """Tensor name -> tensor or number in `value`, when `value` has the form of `tree`.

    Lists and tuples stand for each other, ints equal floats of the same value, and a key of a dict that is
    absent is one that is None.
    """
    if isinstance(tree, AnyLeaf):
        return {}
    if isinstance(tree, TensorLeaf):
        if _is_tensor(value) or _is_number(value):
            return {tree.name: value}
        return Mismatch(path, "a tensor", describe(value))
    if isinstance(tree, ComplexLeaf):
        if not _is_tensor(value) or "complex" not in str(value.dtype):
            return Mismatch(path, "a complex tensor", describe(value))
        return {tree.name: _as_real(value)}
    if isinstance(
        tree, SizeLeaf
    ):  # Which number it must be is known with the tensors alone: see `wrong_size`.
        whole = _is_number(value) and not isinstance(value, (bool, float))
        return (
            {} if whole else Mismatch(path, f"the size of axis {tree.axis} of {tree.name}", describe(value))
        )
    if isinstance(tree, ConstLeaf):
        return {} if _same(tree.value, value) else Mismatch(path, repr(tree.value), describe(value))
    if isinstance(tree, SequenceNode):
        if not isinstance(value, (list, tuple)):
            return Mismatch(path, f"a {tree.kind} of {len(tree.items)}", describe(value))
        if len(value) != len(tree.items):
            return Mismatch(
                path, f"a {tree.kind} of {len(tree.items)}", f"a {type(value).__name__} of {len(value)}"
            )
        return _all((t, v, f"{path}[{i}]") for i, (t, v) in enumerate(zip(tree.items, value, strict=True)))
    if isinstance(tree, MappingNode):
        if not isinstance(value, Mapping):
            return Mismatch(path, f"a dict of {list(tree.items)}", describe(value))
        for key, item in value.items():
            if key not in tree.items and item is not None:
                return Mismatch(f"{path}[{key!r}]", "nothing", describe(item))
        return _all((t, value.get(key), f"{path}[{key!r}]") for key, t in tree.items.items())
    if tree.class_path not in {class_path(c) for c in type(value).__mro__}:
        return Mismatch(path, f"a {tree.class_path.rpartition(':')[2]}", describe(value))
    return _all((t, getattr(value, key, None), f"{path}.{key}") for key, t in tree.items.items())


def match_arguments(
    arguments: Mapping[str, Tree], bound: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any] | Mismatch:
    """`match` for the arguments of one call, all by name.

    A parameter that the record does not know (a library newer than the artifact) must be at its default; one
    that the method does not have any more must have been None.
    """
    for name, value in bound.items():
        if name not in arguments and not (name in defaults and _same_default(defaults[name], value)):
            return Mismatch(name, "nothing: the compiled graph has no such argument", describe(value))
    parts = []
    for name, tree in arguments.items():
        value = bound.get(name)
        # Most arguments are None, as they were when the call was recorded.
        if not isinstance(tree, ConstLeaf) or tree.value is not value:
            parts.append((tree, value, name))
    return _all(parts)


def wrong_size(
    tree: Tree | None, value: Any, shapes: Mapping[str, Sequence[int]], path: str
) -> Mismatch | None:
    """Where a number in `value`, which fits `tree`, is not the size that it stands for.

    Args:
        shapes: the graph's inputs, by name.
    """
    if isinstance(tree, SizeLeaf):
        shape = shapes.get(tree.name, ())
        if tree.axis < len(shape) and shape[tree.axis] == value:
            return None
        size = f"{shape[tree.axis]}, " if tree.axis < len(shape) else ""
        return Mismatch(path, f"{size}the size of axis {tree.axis} of {tree.name}", describe(value))
    items: list[tuple[Tree, Any, str]] = []
    if isinstance(tree, SequenceNode):
        items = [(t, v, f"{path}[{i}]") for i, (t, v) in enumerate(zip(tree.items, value, strict=True))]
    elif isinstance(tree, MappingNode):
        items = [(t, value.get(key), f"{path}[{key!r}]") for key, t in tree.items.items()]
    elif isinstance(tree, ObjectNode):
        items = [(t, getattr(value, key, None), f"{path}.{key}") for key, t in tree.items.items()]
    wrong = (wrong_size(t, v, shapes, where) for t, v, where in items)
    return next((mismatch for mismatch in wrong if mismatch is not None), None)


def _all(parts: Any) -> dict[str, Any] | Mismatch:
    tensors: dict[str, Any] = {}
    for tree, value, path in parts:
        inside = match(tree, value, path)
        if isinstance(inside, Mismatch):
            return inside
        tensors.update(inside)
    return tensors


def rebuild(tree: Tree, arrays: Mapping[str, np.ndarray]) -> Any:
    """The Python object of form `tree` with the tensors in `arrays`, on their memory.

    Raises:
        LatentcError: the graph gave no such array, or a class is not one that is built from data; see
            `runtimes.trusted_classes.new_output`.
    """
    if isinstance(tree, TensorLeaf):
        array = arrays.get(tree.name)
        if array is None or (tree.number and array.size != 1):
            missing = "output" if array is None else "one number as"
            raise LatentcError(
                f"the graph gives no {missing} '{tree.name}', which the manifest names.",
                "Compile the model again.",
            )
        return array.item() if tree.number else to_tensor(array)
    if isinstance(tree, ComplexLeaf):
        return _as_complex(arrays[tree.name])
    if isinstance(tree, ConstLeaf):
        return tree.value
    if isinstance(tree, (AnyLeaf, SizeLeaf)):  # A result has no size of its own.
        return None
    if isinstance(tree, SequenceNode):
        items = [rebuild(t, arrays) for t in tree.items]
        return tuple(items) if tree.kind == "tuple" else items
    built = {key: rebuild(t, arrays) for key, t in tree.items.items()}
    return built if isinstance(tree, MappingNode) else new_output(tree.class_path, built, _has_text(tree))


def _as_real(value: Any) -> Any:
    """A complex tensor or array with its parts as a last axis of 2."""
    import numpy as np

    if hasattr(value, "detach"):
        import torch

        return torch.view_as_real(value.detach().resolve_conj())
    return np.stack([value.real, value.imag], axis=-1)


def _as_complex(array: np.ndarray) -> Any:
    import torch

    return torch.view_as_complex(to_tensor(array))


def _has_text(tree: Tree) -> bool:
    if isinstance(tree, ConstLeaf):
        return isinstance(tree.value, str)
    if isinstance(tree, SequenceNode):
        return any(map(_has_text, tree.items))
    if isinstance(tree, (MappingNode, ObjectNode)):
        return any(map(_has_text, tree.items.values()))
    return False


def to_array(value: Any, spec: TensorSpec, path: str) -> np.ndarray | Mismatch:
    """`value` (a tensor, an array or a number) as the array that `spec` asks for, without a copy if possible.

    A single element is given the rank of a spec that has room for one only. Fractions are never rounded to
    integers: that is a mismatch.
    """
    import numpy as np

    if hasattr(value, "detach"):
        import torch

        if value.is_meta:
            return Mismatch(path, "a tensor with data", "a tensor on the meta device")
        wanted = getattr(torch, spec.dtype)
        tensor = value.detach().cpu()
        cast = tensor if tensor.dtype is wanted else tensor.to(wanted)
        lossy = tensor.is_floating_point() and not wanted.is_floating_point and bool((cast != tensor).any())
        text = f"{str(value.dtype).removeprefix('torch.')} {tensor.reshape(-1)[:4].tolist()}" if lossy else ""
        array = from_tensor(cast.contiguous())
    else:
        source = np.asarray(value)
        with np.errstate(invalid="ignore"):  # NaN as an integer is found to be lossy below.
            array = source.astype(_numpy_type(spec.dtype), copy=False)
        array = np.ascontiguousarray(array).reshape(source.shape)
        lossy = source.dtype.kind == "f" and array.dtype.kind in "iub" and bool((array != source).any())
        text = f"{source.dtype.name} {source.reshape(-1)[:4].tolist()}" if lossy else ""
    if lossy:
        return Mismatch(path, f"{spec.dtype}: whole numbers", text)
    if array.size == 1 and array.ndim != len(spec.shape) and all(d == 1 for d in spec.shape):
        array = array.reshape((1,) * len(spec.shape))
    if len(spec.shape) != array.ndim:
        wanted_shape, found_shape = (f"shape {shape_text(shape)}" for shape in (spec.shape, array.shape))
        return Mismatch(path, wanted_shape, found_shape, of_shape=True)
    return array


def fit_dims(
    specs: Sequence[TensorSpec], arrays: Mapping[str, np.ndarray], dims: Mapping[str, DimRange]
) -> dict[str, int] | Mismatch:
    """The size of every symbolic dimension, if the arrays agree and are in the declared ranges."""
    sizes: dict[str, int] = {}
    first: Mismatch | None = None
    misfits: list[Misfit] = []
    for spec in specs:
        shape = arrays[spec.name].shape
        for axis, (want, have) in enumerate(zip(spec.shape, shape, strict=True)):
            limits = dims.get(want) if isinstance(want, str) else None
            expected = want if isinstance(want, int) else sizes.get(want)
            fits = have == expected if expected is not None else limits is None or have in limits
            if not fits:
                low, high, step = (expected, expected, 1) if expected is not None else _ends(limits)
                name = want if isinstance(want, str) else ""
                misfits.append(
                    Misfit(spec.name, axis, len(shape), low, high, have, name, want in sizes, step)
                )
                wanted = shape_text([_dim_text(d, dims) for d in spec.shape])
                if want in sizes:
                    wanted += f" with {want} = {expected} as in the other inputs"
                first = first or Mismatch(
                    spec.name, f"shape {wanted}", f"shape {shape_text(shape)} (axis {axis})", of_shape=True
                )
            if isinstance(want, str):
                sizes.setdefault(want, have)
    return sizes if first is None else replace(first, misfits=tuple(misfits))


def _ends(limits: DimRange | None) -> tuple[int, int, int]:
    return (0, 0, 1) if limits is None else (limits.min, limits.max, limits.step)


def _dim_text(dim: int | str, dims: Mapping[str, DimRange]) -> str:
    limits = dims.get(dim) if isinstance(dim, str) else None
    return f"{dim} {limits.text}" if limits else str(dim)


def shape_text(shape: Sequence[Any]) -> str:
    """``[2, 4, 64, 64]``."""
    return f"[{', '.join(map(str, shape))}]"


def describe(value: Any) -> str:
    """A value in a few words."""
    if _is_tensor(value):
        return f"a tensor {str(value.dtype).removeprefix('torch.')}{shape_text(value.shape)}"
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} of {list(value)}"
    return f"a {type(value).__name__}"


def holds_tensor(value: Any) -> bool:
    """Whether there is a tensor in lists, tuples and dicts of any depth."""
    if isinstance(value, Mapping):
        return any(map(holds_tensor, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(holds_tensor, value))
    return _is_tensor(value)


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "shape") and hasattr(value, "ndim")


def _is_number(value: Any) -> bool:
    return isinstance(value, (bool, int, float))


def _same(const: None | bool | int | float | str, value: Any) -> bool:
    if _is_tensor(value) and not hasattr(value, "detach") and value.ndim == 0:
        value = value.item()  # A NumPy scalar is a number.
    if const is None or isinstance(const, (bool, str)) or isinstance(value, bool):
        return type(const) is type(value) and const == value
    return isinstance(value, (int, float)) and const == value


def _same_default(default: Any, value: Any) -> bool:
    if default is value:
        return True
    plain = (bool, int, float, str, list, tuple, dict)
    return (
        isinstance(default, plain)
        and isinstance(value, plain)
        and type(default) is type(value)
        and default == value
    )


def _numpy_type(name: str) -> Any:
    import numpy as np

    if name == "bfloat16":
        import ml_dtypes

        return ml_dtypes.bfloat16
    try:
        return np.dtype(name)
    except TypeError as error:
        raise LatentcError(f"no array can hold elements of type '{name}'.") from error
