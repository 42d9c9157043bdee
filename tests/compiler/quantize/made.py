"""Small graphs whose weights are on disk, quantized, and what they should compute."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from compiler.quantize import scheme_table
from compiler.quantize.apply import QuantizePass
from compiler.quantize.decide import decide
from compiler.quantize.stream import Scratch
from tests.compiler.passes.graphs import bind, parse

BODIES = {
    "matmul": "(float[B,5,K] x, float[K,N] w) => (float[B,5,N] y) { y = MatMul(x, w) }",
    "gemm": "(float[B,K] x, float[N,K] w, float[N] b) => (float[B,N] y) { y = Gemm<transB=1>(x, w, b) }",
    "conv": "(float[B,C,6,6] x, float[N,C,3,3] w) => (float[B,N,6,6] y) { y = Conv<pads=[1,1,1,1]>(x, w) }",
    "gather": "(int64[B,5] x, float[V,D] w) => (float[B,5,D] y) { y = Gather(w, x) }",
    "transposed": "(float[B,C,6,6] x, float[C,N,2,2] w) => (float[B,N,7,7] y) { y = ConvTranspose(x, w) }",
}
SHAPES = {
    "matmul": (128, 96),
    "gemm": (96, 128),
    "conv": (32, 64, 3, 3),
    "gather": (100, 128),
    "transposed": (64, 32, 2, 2),
}
SIZES = {
    "matmul": {"K": "128", "N": "96"},
    "gemm": {"K": "128", "N": "96"},
    "conv": {"C": "64", "N": "32"},
    "gather": {"V": "100", "D": "128"},
    "transposed": {"C": "64", "N": "32"},
}
KINDS = tuple(BODIES)


@dataclass
class Case:
    """A graph of one weight; `x` is an input for it."""

    kind: str
    weight: np.ndarray
    x: np.ndarray
    model: ir.Model

    @property
    def feeds(self) -> dict[str, np.ndarray]:
        return {"x": self.x}


def case(kind: str, folder: Path, weight: np.ndarray | None = None) -> Case:
    rng = np.random.default_rng(0)
    body = BODIES[kind]
    for name, size in SIZES[kind].items():
        body = (
            body.replace(f"{name},", f"{size},")
            .replace(f",{name}]", f",{size}]")
            .replace(f"[{name}]", f"[{size}]")
        )
    body = body.replace("[B,", "[batch,")
    model = parse(body)
    if weight is None:
        weight = np.random.default_rng(1).standard_normal(SHAPES[kind]).astype(np.float32) / 8
    arrays = {"w": weight}
    if kind == "gemm":
        arrays["b"] = rng.standard_normal(96).astype(np.float32)
    bind(model, folder, **arrays)
    if kind == "gather":
        x = np.arange(10).reshape(2, 5)
    else:
        shape = {"matmul": (2, 5, 128), "gemm": (2, 128)}.get(kind, (2, 64, 6, 6))
        x = rng.standard_normal(shape).astype(np.float32)
    model.graph.name = "unet"
    return Case(kind, weight, x, model)


def quantized(made: Case, folder: Path, scheme: str, **options: object) -> QuantizePass:
    """Quantizes the case's graph in place; the pass has the records."""
    given = scheme_table.options(scheme, options)
    run = QuantizePass(lambda key, layout: decide(scheme, given, layout), Scratch(folder / "scratch.bin"))
    run(made.model)
    return run
