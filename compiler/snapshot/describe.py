"""Operators, constants and weights in words: what a person compares, and what digests are made of."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from targets.graph.constants import is_small
from targets.graph.weights import Cast, Joined, Merge, Reshape, Slice, Transform, Transpose, WeightRef

# Constants of up to this many elements are written out.
_WRITTEN = 8


def operator(node: ir.Node) -> str:
    """Its type, attributes and small constant inputs: "LayerNormalization axis=-1 epsilon=1e-05"."""
    name = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
    if node.op_type == "Cast":
        return f"Cast {type_name(node.inputs[0])}->{type_name(node.outputs[0])}"
    parts = [name, *(f"{key}={_attribute(node.attributes[key])}" for key in sorted(node.attributes))]
    # Trailing outputs that nothing names are no outputs.
    if len(node.outputs) > 1:
        parts.append(f"outputs={len(node.outputs)}")
    for position, value in enumerate(node.inputs):
        text = None if value is None or is_weight(value) else constant(value.const_value)
        if text is not None and value is not None and value.producer() is None:
            parts.append(f"{position}:{text}")
    return " ".join(parts)


def type_name(value: ir.Value | None) -> str:
    """ "float32"; "?" where nobody knows."""
    return "?" if value is None or value.dtype is None else dtype_name(value.dtype)


def dtype_name(dtype: ir.DataType) -> str:
    """ONNX's element type as NumPy says it."""
    return {"FLOAT": "float32", "DOUBLE": "float64"}.get(dtype.name, dtype.name.lower())


def is_weight(value: ir.Value | None) -> bool:
    """Whether a value is a weight: an initializer whose data is not in memory."""
    return value is not None and value.const_value is not None and not is_small(value.const_value)


def weight_key(value: ir.Value) -> str:
    """The weight's name in the model, whatever the graph calls it."""
    tensor = value.const_value
    return tensor.key if isinstance(tensor, WeightRef) else str(value.name)


def weight(value: ir.Value) -> str:
    """Type, shape and what happens to it on the way: "int8 [320, 320] transposed 1,0"."""
    tensor = value.const_value
    assert tensor is not None
    words = [dtype_name(tensor.dtype), shape(tensor.shape)]
    if isinstance(tensor, WeightRef):
        if isinstance(tensor.source, Joined):
            words.append(f"joined along {tensor.source.axis}")
            words.extend(_steps(tensor.source.parts[0].transforms))
        words.extend(_steps(tensor.transforms))
    return " ".join(words)


def _steps(steps: Sequence[Transform]) -> list[str]:
    return [text for text in map(_step, steps) if text]


def _step(step: Transform) -> str:
    if isinstance(step, Cast):
        return ""  # its type says it
    if isinstance(step, Transpose):
        return "transposed " + ",".join(map(str, step.perm))
    if isinstance(step, Reshape):
        return "reshaped"  # to the shape that stands before
    if isinstance(step, Slice):
        return f"sliced {step.axis}:{step.start}:{step.stop}"
    if isinstance(step, Merge):
        return "merged " + " ".join(f"{axis}:{','.join(map(str, sizes))}" for axis, sizes in step.axes)
    names = getattr(step, "__dataclass_fields__", {})
    plain = [f"{name}={value}" for name in names if _is_plain(value := getattr(step, name))]
    return " ".join([type(step).__name__.lower(), *plain])


def _is_plain(value: object) -> bool:
    return isinstance(value, (int, float, str, bool))


def shape(of: ir.Shape | ir.ShapeProtocol | None) -> str:
    """ "[batch, 4, 64, 64]"; "?" for what is not known."""
    if of is None:
        return "?"
    return "[" + ", ".join(str(d) if isinstance(d, int) else str(d.value or "?") for d in of) + "]"


def constant(tensor: ir.TensorProtocol | None) -> str | None:
    """A small constant in full, a larger one by what is stable of it on every machine; None for none."""
    if tensor is None or not is_small(tensor):
        return None
    if tensor.dtype == ir.DataType.STRING:
        return f"string{shape(tensor.shape)}"
    array = tensor.numpy()
    if array.size <= _WRITTEN:
        written = str(array.tolist()) if array.dtype.kind in "iub" else _floats(array)
        return written.replace(" ", "")
    words = f"{dtype_name(tensor.dtype)}{shape(tensor.shape)}".replace(" ", "")
    if array.dtype.kind in "iub":
        return f"{words}#{hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:8]}"
    return words + _summary(array)


def _floats(array: np.ndarray) -> str:
    flat = [f"{float(v):.6g}" for v in array.reshape(-1)]
    return flat[0] if array.ndim == 0 else "[" + ",".join(flat) + "]"


def _summary(array: np.ndarray) -> str:
    """Mean, spread and a weighted sum of a table of floats, to the digits that every CPU computes alike."""
    wide = array.astype(np.float64).reshape(-1)
    finite = wide[np.isfinite(wide)]
    if not finite.size:
        return "#none-finite"
    ramp = np.cos(np.arange(wide.size, dtype=np.float64))[np.isfinite(wide)]
    size = float(np.sqrt(np.mean(finite**2))) or 1.0
    lost = wide.size - finite.size
    mean, place = (round(float(v), 3) + 0.0 for v in (np.mean(finite) / size, np.mean(finite * ramp) / size))
    return f"~{size:.3g}~{mean:.3f}~{place:.3f}" + (f"~{lost}" if lost else "")


def _attribute(attribute: ir.Attr) -> str:
    kind = attribute.type
    if attribute.is_ref():
        return f"@{attribute.ref_attr_name}"
    if kind == ir.AttributeType.FLOAT:
        return f"{attribute.as_float():.6g}"
    if kind == ir.AttributeType.FLOATS:
        return "[" + ",".join(f"{v:.6g}" for v in attribute.as_floats()) + "]"
    if kind == ir.AttributeType.INTS:
        return "[" + ",".join(map(str, attribute.as_ints())) + "]"
    if kind == ir.AttributeType.STRING:
        return repr(attribute.as_string()).replace(" ", "_")
    if kind == ir.AttributeType.TENSOR:
        return constant(attribute.as_tensor()) or "tensor"
    if kind == ir.AttributeType.GRAPH:
        return "{" + ";".join(operator(node) for node in attribute.as_graph()).replace(" ", "_") + "}"
    return str(attribute.value).replace(" ", "")
