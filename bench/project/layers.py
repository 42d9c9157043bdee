"""`python -m bench.project.layers`: rewrites on single layers of Stable Diffusion's sizes, also those that did not pay.

A layer takes a second where a step takes minutes, so this can be measured on a busy machine too: in processor seconds
of one thread, in turn, as `bench.project.rewrites` does.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from artifacts.progress import silent
from bench import markdown_tables
from bench.project.paired_times import Call, Pairs
from bench.project.rewrites import TARGETS
from runtimes.sessions.common import THREADS
from targets.onnxruntime.target import MULTI_HEAD_ATTENTION
from targets.rewrites import INSTANCE_NORM, PAD_HEADS, SPLIT_LINEAR, SUB_PIXEL_CONV
from targets.target_contract import Rewrite

if TYPE_CHECKING:
    import onnx_ir as ir

    from runtimes.sessions.session_contract import Session

HEADS = 8

Build = Callable[[int, int], "ir.Model"]


@dataclass(frozen=True)
class Try:
    """One rewrite of one layer: `base` and `other` make the graph of so many tokens and channels.

    In bf16 it is computed so where the processor can, and else in fp32.
    """

    name: str
    base: Build
    other: Build
    sizes: Sequence[tuple[int, int]]
    targets: Sequence[str] = TARGETS
    precision: str = "fp32"


def _model(
    body: str,
    port: tuple[int, ...],
    weights: Mapping[str, tuple[int, ...]],
    opset: int = 21,
    out: tuple[int, ...] = (),
) -> ir.Model:
    """A graph from `x` to `y`, float32 of shape `port`, or `out`; `weights` are noise that is stored nowhere."""
    import onnx
    import onnx_ir as ir

    from compiler.passes import pass_table
    from targets.graph.graph_validity import complete
    from targets.graph.weights import Seeded, WeightRef

    parameters = ", ".join(f"float[{','.join(map(str, shape))}] {name}" for name, shape in weights.items())
    x, y = (f"float[{','.join(map(str, shape))}]" for shape in (port, out or port))
    head = f'<ir_version: 10, opset_import: ["" : {opset}]> layer'
    text = f"{head} ({x} x, {parameters}) => ({y} y) {{ {body} }}"
    model = ir.from_proto(onnx.parser.parse_model(text))
    for value in list(model.graph.inputs)[1:]:
        shape = weights[str(value.name)]
        value.const_value = WeightRef(Seeded.of(str(value.name), shape, ir.DataType.FLOAT), (), value.name)
        model.graph.inputs.remove(value)
        model.graph.register_initializer(value)
    complete(model)
    return pass_table.run(model, ("fold", "dead"))


def geglu(tokens: int, channels: int) -> ir.Model:
    """A feed-forward layer with GEGLU, as diffusers has it."""
    body = """
        h = MatMul(x, wide)
        both = Add(h, bias)
        u, v = Split<axis=-1, num_outputs=2>(both)
        g = Gelu(v)
        m = Mul(u, g)
        y = MatMul(m, back)
    """
    wide = 8 * channels
    weights = {"wide": (channels, wide), "bias": (wide,), "back": (wide // 2, channels)}
    return _model(body, (2, tokens, channels), weights)


def group_norm(tokens: int, channels: int) -> ir.Model:
    """A group norm and its SiLU, as residual blocks have them, of pictures of `tokens` pixels."""
    body = """
        n = GroupNormalization<num_groups=32, epsilon=0.00001>(x, scale, bias)
        s = Sigmoid(n)
        y = Mul(n, s)
    """
    weights = {"scale": (channels,), "bias": (channels,)}
    side = math.isqrt(tokens)
    return _model(body, (2, channels, side, side), weights)


def enlarged(tokens: int, channels: int) -> ir.Model:
    """A picture of `tokens` pixels, enlarged twice, and its convolution, as between the levels of a UNet."""
    body = """
        s = Constant<value = float[4] {1, 1, 2, 2}>()
        u = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(x, , s)
        y = Conv<pads=[1, 1, 1, 1]>(u, w, b)
    """
    side = math.isqrt(tokens)
    weights = {"w": (channels, channels, 3, 3), "b": (channels,)}
    return _model(body, (2, channels, side, side), weights, out=(2, channels, 2 * side, 2 * side))


_APART = "q = MatMul(x, wq)\n k = MatMul(x, wk)\n v = MatMul(x, wv)"
_TOGETHER = "all = MatMul(x, wqkv)\n q, k, v = Split<axis=-1, num_outputs=3>(all)"


def _attention(projections: str, tokens: int, channels: int) -> ir.Model:
    size = channels // HEADS
    body = f"""
        {projections}
        split = Constant<value_ints=[0, 0, {HEADS}, {size}]>()
        flat = Constant<value_ints=[0, 0, {channels}]>()
        scale = Constant<value_float={size**-0.5:.9f}>()
        qs = Reshape(q, split)
        ks = Reshape(k, split)
        vs = Reshape(v, split)
        qt = Transpose<perm=[0,2,1,3]>(qs)
        kt = Transpose<perm=[0,2,3,1]>(ks)
        vt = Transpose<perm=[0,2,1,3]>(vs)
        scaled = Mul(qt, scale)
        scores = MatMul(scaled, kt)
        p = Softmax<axis=-1>(scores)
        o = MatMul(p, vt)
        ot = Transpose<perm=[0,2,1,3]>(o)
        rows = Reshape(ot, flat)
        y = MatMul(rows, wo)
    """
    return _model(body, (2, tokens, channels), _square(projections, channels))


def _square(projections: str, channels: int) -> dict[str, tuple[int, ...]]:
    square = (channels, channels)
    if projections == _APART:
        return dict.fromkeys(("wq", "wk", "wv", "wo"), square)
    return {"wqkv": (channels, 3 * channels), "wo": square}


def attention(tokens: int, channels: int) -> ir.Model:
    """Self attention, as the compiler leaves it."""
    return _attention(_APART, tokens, channels)


def fused_projections(tokens: int, channels: int) -> ir.Model:
    """The same with one product for queries, keys and values."""
    return _attention(_TOGETHER, tokens, channels)


def operator(tokens: int, channels: int) -> ir.Model:
    """The same with ONNX's own Attention, of opset 23."""
    size = channels // HEADS
    body = f"""
        {_APART}
        rows = Attention<q_num_heads={HEADS}, kv_num_heads={HEADS}, scale={size**-0.5:.9f}>(q, k, v)
        y = MatMul(rows, wo)
    """
    return _model(body, (2, tokens, channels), _square(_APART, channels), 23)


def rewritten(build: Build, rewrite: Rewrite) -> Build:
    """What the rewrite makes of it."""

    def build_rewritten(tokens: int, channels: int) -> ir.Model:
        from compiler.road import apply

        model, done = apply(build(tokens, channels), (rewrite,))
        assert done, f"{rewrite.name} finds nothing"
        return model

    return build_rewritten


_TWO = ((4096, 320), (1024, 640))

TRIES: tuple[Try, ...] = (
    Try("split-linear", geglu, rewritten(geglu, SPLIT_LINEAR), _TWO),
    Try("sub-pixel-conv", enlarged, rewritten(enlarged, SUB_PIXEL_CONV), ((1024, 640), (256, 1280))),
    Try(
        "multi-head-attention",
        attention,
        rewritten(attention, MULTI_HEAD_ATTENTION),
        _TWO,
        ("onnxruntime",),
    ),
    Try("instance-norm", group_norm, rewritten(group_norm, INSTANCE_NORM), _TWO),
    Try("pad-heads", attention, rewritten(attention, PAD_HEADS), ((4096, 320),), ("openvino",), "bf16"),
    Try("one product for queries, keys and values", attention, fused_projections, ((1024, 640),)),
    Try("ONNX's Attention of opset 23", attention, operator, ((1024, 640),)),
)


def measure(tries: Sequence[Try], rounds: int, targets: Sequence[str]) -> Iterator[str]:
    """A row of the table for each rewrite, target and size."""
    import numpy as np

    pairs = Pairs(time.process_time, rounds)
    for rewrite in tries:
        for target in [t for t in rewrite.targets if t in targets]:
            for tokens, channels in rewrite.sizes:
                with tempfile.TemporaryDirectory(prefix="latentc-layers-") as folder, ExitStack() as stack:
                    calls: list[Call] = []
                    for name, build in (("base", rewrite.base), ("other", rewrite.other)):
                        session = _open(
                            build(tokens, channels), target, Path(folder) / name, rewrite.precision
                        )
                        shape = session.inputs["x"].shape
                        noise = np.random.default_rng(0).standard_normal(shape, np.float32)  # type: ignore[arg-type]
                        stack.callback(session.close)
                        calls.append(partial(session.run, {"x": noise}))
                    ratios = pairs.ratios(*calls)
                spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
                size = f"{tokens} x {channels}"
                yield markdown_tables.row((target, rewrite.name, size, f"{median(ratios):.3f}", spread))


def _open(model: ir.Model, target: str, folder: Path, precision: str) -> Session:
    from runtimes.compute import usual
    from runtimes.sessions import session_table as sessions
    from targets import target_table as targets
    from targets.target_contract import Context

    folder.mkdir()
    lowering_target = targets.get(target)
    written = lowering_target.lower(model, lowering_target.options(), folder, Context(silent))
    factory = sessions.get(target)
    return factory.open(folder / written.model_file, "cpu", usual(factory, "cpu", precision), None)


def main(args: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.project.layers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--target", action="append", choices=TARGETS, help="of these only; may be repeated")
    options = parser.parse_args(args)
    os.environ[THREADS] = "1"
    names = ("target", "rewrite", "tokens x channels", "ratio", "pairs")
    print(markdown_tables.head(names, right=("ratio",)), flush=True)
    for row in measure(TRIES, options.rounds, options.target or TARGETS):
        print(row, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
