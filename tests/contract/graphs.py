"""Small graphs with lazy weights, and what they compute, in NumPy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

WIDTH = 64

DTYPES = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}


@dataclass
class Reads:
    """Which weights were read, in order, and the most that were alive at once."""

    names: list[str] = field(default_factory=list)
    alive: int = 0
    most: int = 0


class _Counted(np.ndarray):
    """An array that says when it is gone."""

    reads: Reads | None = None

    def __del__(self) -> None:
        if self.reads is not None:
            self.reads.alive -= 1


def lazy(name: str, array: np.ndarray, dtype: ir.DataType, reads: Reads) -> ir.LazyTensor:
    """A tensor that is read each time it is asked for, and notes it in `reads`."""

    def read() -> ir.Tensor:
        reads.names.append(name)
        counted = array.astype(dtype.numpy()).view(_Counted)
        counted.reads = reads
        reads.alive += 1
        reads.most = max(reads.most, reads.alive)
        return ir.Tensor(counted, dtype=dtype, name=name)

    return ir.LazyTensor(read, dtype=dtype, shape=ir.Shape(array.shape), name=name, cache=False)


def value(name: str, dtype: ir.DataType, shape: list[int | str], const: Any = None) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape), const_value=const)


def model(inputs: Any, outputs: Any, nodes: Any, initializers: Any = (), opset: int = 21) -> ir.Model:
    graph = ir.Graph(
        inputs, outputs, nodes=nodes, initializers=initializers, opset_imports={"": opset}, name="main"
    )
    return ir.Model(graph, ir_version=10)


def named(node: ir.Node, name: str, dtype: ir.DataType, shape: list[int | str]) -> ir.Value:
    out = node.outputs[0]
    out.name, out.type, out.shape = name, ir.TensorType(dtype), ir.Shape(shape)
    return out


@dataclass
class Denoiser:
    """Two matrix products and a convolution over `sample`, plus `timestep`; and the negation of `flag`.

    Inputs: sample float32[batch, tokens, 64], timestep int64[], flag bool[batch]. Weights are in `precision`,
    behind a Cast to fp32 where that is not their type already.
    """

    precision: str = "fp32"
    reads: Reads = field(default_factory=Reads)

    def weights(self) -> dict[str, np.ndarray]:
        """As the graph uses them: rounded to the precision, in fp32."""
        rng = np.random.default_rng(0)
        shapes = {"w0": (WIDTH, WIDTH), "w1": (WIDTH, WIDTH), "conv": (WIDTH, WIDTH, 1), "bias": (WIDTH,)}
        kind = DTYPES[self.precision].numpy()
        return {
            n: (rng.standard_normal(s) / 8).astype(np.float32).astype(kind).astype(np.float32)
            for n, s in shapes.items()
        }

    def model(self, opset: int = 21) -> ir.Model:
        kind, fp32 = DTYPES[self.precision], ir.DataType.FLOAT
        nodes: list[ir.Node] = []
        stored: list[ir.Value] = []

        def add(op: str, inputs: list[ir.Value], attributes: dict[str, Any] | None = None) -> ir.Value:
            nodes.append(ir.node(op, inputs, attributes or {}))
            return nodes[-1].outputs[0]

        def weight(name: str) -> ir.Value:
            array = self.weights()[name]
            stored.append(value(name, kind, list(array.shape), lazy(name, array, kind, self.reads)))
            return stored[-1] if kind == fp32 else add("Cast", [stored[-1]], {"to": fp32})

        sample = value("sample", fp32, ["batch", "tokens", WIDTH])
        timestep = value("timestep", ir.DataType.INT64, [])
        flag = value("flag", ir.DataType.BOOL, ["batch"])
        x = add("Relu", [add("MatMul", [sample, weight("w0")])])
        x = add("Add", [add("MatMul", [x, weight("w1")]), weight("bias")])
        x = add("Conv", [add("Transpose", [x], {"perm": [0, 2, 1]}), weight("conv")])
        x = add("Transpose", [x], {"perm": [0, 2, 1]})
        x = add("Add", [x, add("Cast", [timestep], {"to": fp32})])
        out = named(nodes[-1], "out_sample", fp32, ["batch", "tokens", WIDTH])
        add("Not", [flag])
        flipped = named(nodes[-1], "flipped", ir.DataType.BOOL, ["batch"])
        return model([sample, timestep, flag], [out, flipped], nodes, stored, opset)

    def inputs(self, batch: int = 2, tokens: int = 3, seed: int = 1) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        return {
            "sample": rng.standard_normal((batch, tokens, WIDTH), dtype=np.float32),
            "timestep": np.array(7, np.int64),
            "flag": np.arange(batch) % 2 == 0,
        }

    def expected(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        w = self.weights()
        x = np.maximum(inputs["sample"] @ w["w0"], 0) @ w["w1"] + w["bias"]
        return {
            "out_sample": x @ w["conv"][:, :, 0].T + np.float32(inputs["timestep"]),
            "flipped": ~inputs["flag"],
        }


def identity(dtype: ir.DataType, shape: list[int | str]) -> ir.Model:
    """``out = in``, of any element type."""
    x = value("in", dtype, shape)
    node = ir.node("Identity", [x])
    return model([x], [named(node, "out", dtype, shape)], [node])
