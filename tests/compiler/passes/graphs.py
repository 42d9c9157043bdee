"""Small graphs written as text, weights on disk, and the reference that passes are held to."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from targets.graph.weights import Stored, WeightRef


def parse(body: str) -> ir.Model:
    """A model from ONNX text: ``(float[N,4] x) => (float[N,4] y) { y = Relu(x) }``."""
    return ir.from_proto(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> g {body}'))


def weight(folder: Path, key: str, array: np.ndarray) -> WeightRef:
    """An array as a weight in its own file."""
    file = folder / f"{key}.bin"
    file.write_bytes(array.tobytes())
    return WeightRef(
        Stored(file, key, ir.DataType.from_numpy(array.dtype), array.shape, 0, array.nbytes), (), key
    )


def bind(model: ir.Model, folder: Path, **arrays: np.ndarray) -> ir.Model:
    """Turns the graph inputs of these names into weights on disk."""
    for name, array in arrays.items():
        (value,) = [v for v in model.graph.inputs if v.name == name]
        model.graph.inputs.remove(value)
        value.const_value = weight(folder, name, array)
        model.graph.register_initializer(value)
    return model


def ghost(model: ir.Model, **shapes: tuple[int, ...]) -> ir.Model:
    """Turns the graph inputs of these names into weights of a file that does not exist."""
    for name, shape in shapes.items():
        (value,) = [v for v in model.graph.inputs if v.name == name]
        model.graph.inputs.remove(value)
        stored = Stored(
            Path("nowhere.safetensors"), name, ir.DataType.FLOAT, shape, 0, 4 * int(np.prod(shape))
        )
        value.const_value = WeightRef(stored, (), name)
        model.graph.register_initializer(value)
    return model


def ops(model: ir.Model) -> Counter[str]:
    """How many nodes of each op."""
    return Counter(node.op_type for node in model.graph)


def evaluate(model: ir.Model, feeds: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs in ONNX Runtime with its own optimizer off; inputs by position."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        ir.save(model, file, external_data="model.data", size_threshold_bytes=1024)
        session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        named = {value.name: array for value, array in zip(model.graph.inputs, feeds, strict=False)}
        return list(session.run(None, {i.name: named[i.name] for i in session.get_inputs()}))


def error(got: Sequence[np.ndarray], want: Sequence[np.ndarray]) -> float:
    """The worst relative error, ||got - want|| / ||want||; shapes must agree."""
    assert [a.shape for a in got] == [b.shape for b in want]
    return max(
        float(np.linalg.norm(a.astype(np.float64) - b) / max(np.linalg.norm(b.astype(np.float64)), 1e-30))
        for a, b in zip(got, want, strict=False)
    )
