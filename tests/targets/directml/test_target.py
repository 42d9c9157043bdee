from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import DimRange
from compiler.build import compile
from compiler.capture.declared_sizes import SizeRange
from compiler.compile_request import CompileRequest
from compiler.passes.lower_precision import lower_precision
from compiler.passes.pass_table import simplify
from runtimes.pipeline import load
from runtimes.sessions.directml import ON_CPU, SESSION
from targets.directml.target import TARGET, sizes
from targets.target_contract import Context
from tests.compiler.passes.graphs import error, evaluate
from tests.compiler.quantize.made import KINDS, case, quantized
from tests.contract.graphs import Denoiser, model, named, value
from tests.contract.target_contract import TargetContract

DIMS = {"batch": DimRange(min=1, max=2), "tokens": DimRange(min=3, max=3)}


class TestDirectMl(TargetContract):
    name = "directml"
    vendor = "onnxruntime"


def test_sizes_share_one_weight_file(tmp_path: Path) -> None:
    written = TARGET.lower(Denoiser("fp16").model(), TARGET.options(), tmp_path, Context(dims=DIMS))
    assert written.files == (
        "model.onnx", "model.onnx_data", "directml-batch1-tokens3.onnx", "directml-batch2-tokens3.onnx",
    )  # fmt: skip
    assert written.built["coverage"].startswith("14 of 14 nodes have a kernel")
    places = []
    for name in ("model.onnx", "directml-batch1-tokens3.onnx", "directml-batch2-tokens3.onnx"):
        stored = onnx.load(str(tmp_path / name), load_external_data=False)
        onnx.checker.check_model(str(tmp_path / name), full_check=True)
        outside = [t for t in stored.graph.initializer if t.external_data]
        places.append({t.name: {e.key: e.value for e in t.external_data} for t in outside})
        if name != "model.onnx":
            assert [o.version for o in stored.opset_import if o.domain == ""] == [20]
            shapes = [
                d.HasField("dim_value") for v in stored.graph.input for d in v.type.tensor_type.shape.dim
            ]
            assert all(shapes)
    assert places[0] == places[1] == places[2]
    assert sorted(places[0]) == ["conv", "w0", "w1"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("scheme", "options"), [("int8", {}), ("int4", {}), ("int4", {"asymmetric": True})])
def test_quantized_weights_stay_compressed_and_on_the_gpu(
    kind: str, scheme: str, options: dict[str, Any], tmp_path: Path
) -> None:
    made = case(kind, tmp_path)
    (record,) = quantized(made, tmp_path, scheme, **options).records
    graph, _ = lower_precision(made.model, "fp16", "strong")
    out = tmp_path / "out"
    out.mkdir()
    written = TARGET.lower(
        graph, TARGET.options(), out, Context(dims={"batch": DIMS["batch"]}, simplify=simplify)
    )
    total = written.built["coverage"].split()[2]
    assert written.built["coverage"].startswith(f"{total} of {total} nodes")
    stored = ir.load(out / "directml-batch2.onnx").graph.initializers["w"]
    assert stored.dtype is not None
    assert stored.dtype.name == {"int8": "INT8", "int4": "UINT4" if options else "INT4"}[record.scheme[:4]]
    session = SESSION.open(out / written.model_file, "cpu", "fp16", None)
    exact = case(kind, tmp_path)
    found = session.run(made.feeds)["y"]
    assert error([found], evaluate(exact.model, [made.x])) < (
        0.02 if record.scheme.startswith("int8") else 0.15
    )


@pytest.mark.slow
def test_shapes_draws_on_the_cpu(tmp_path: Path) -> None:
    """What a machine without DirectML makes of an artifact for it: the twin's picture, and that it says so."""
    side = DimRange(min=64, max=64)
    request = CompileRequest("shapes", tmp_path / "out", "directml", size=SizeRange(side, side), check="none")
    compile(request)
    with load(tmp_path / "out", device="cpu", cache=False) as pipeline:
        assert pipeline.note.startswith(ON_CPU)
        assert "which was not measured" in pipeline.note, "it was compiled without a check"
        found = pipeline.generate("a large red circle at the left on a blue background", seed=0, steps=8)
    (image,) = found.images
    assert image.size == (64, 64)
    red, _, blue = np.asarray(image, np.float32).transpose(2, 0, 1)
    assert (red - blue)[24:40, 8:24].mean() > 30
    assert (blue - red)[:8, 48:].mean() > 30


def test_nf4_is_refused_and_int4_offered() -> None:
    from compiler.quantize.recipe import read, resolve

    with pytest.raises(UsageError, match=r"'directml' does not take nf4 weights.*\n.*--quantize int4"):
        resolve(read("nf4"), {"unet": ("unet",)}, TARGET)


def test_a_dimension_without_a_declared_size_is_refused(tmp_path: Path) -> None:
    expected = r"'tokens' of sample has no declared size.\n.*fix=tokens=SIZE"
    with pytest.raises(LatentcError, match=expected):
        TARGET.lower(Denoiser().model(), TARGET.options(), tmp_path, Context(dims={"batch": DIMS["batch"]}))


def test_which_sizes_a_range_means() -> None:
    graph = Denoiser().model()

    def found(batch: int, tokens: int) -> list[tuple[int, ...]]:
        dims = {"batch": DimRange(min=1, max=batch), "tokens": DimRange(min=1, max=tokens)}
        return [tuple(point.values()) for point in sizes(graph, dims)]

    assert found(1, 1) == [(1, 1)]
    assert found(4, 1) == [(1, 1), (2, 1), (3, 1), (4, 1)]
    assert found(1, 64) == [(1, 1), (1, 64)]
    assert len(found(4, 4)) == 16


def test_too_many_sizes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("targets.directml.target.MOST_GRAPHS", 3)
    with pytest.raises(LatentcError, match="4 of batch, tokens; at most 3"):
        sizes(Denoiser().model(), {name: DimRange(min=1, max=2) for name in DIMS})


def test_a_node_without_a_kernel_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    x = value("x", ir.DataType.FLOAT, [1, 4])
    node = ir.node("HardSwish", [x], name="act")
    node.metadata_props["latentc.module"] = "blocks.3.act"
    graph = model([x], [named(node, "y", ir.DataType.FLOAT, [1, 4])], [node], opset=20)
    with pytest.raises(
        LatentcError, match=r"HardSwish 'act' of blocks\.3\.act: the provider has no such operator"
    ):
        TARGET.lower(graph, TARGET.options(), tmp_path, Context())
    assert not list(tmp_path.iterdir())


def test_what_is_constant_at_one_size_alone_is_stored_behind_the_weights(tmp_path: Path) -> None:
    """A table that folds for a size is in the data file, once, at its own place."""
    table = np.arange(4096, dtype=np.float32).reshape(64, 64)

    def simplify(graph: ir.Model) -> ir.Model:
        if "table" not in graph.graph.initializers:
            lazy = ir.LazyTensor(
                lambda: ir.Tensor(table), dtype=ir.DataType.FLOAT, shape=ir.Shape([64, 64]), name="table"
            )
            made = value("table", ir.DataType.FLOAT, [64, 64], lazy)
            graph.graph.register_initializer(made)
            next(n for n in graph.graph if n.op_type == "MatMul").replace_input_with(1, made)
        return graph

    written = TARGET.lower(
        Denoiser().model(), TARGET.options(), tmp_path, Context(dims=DIMS, simplify=simplify)
    )
    graphs: Any = written.built["graphs"]
    assert len(graphs) == 2
    for row in graphs:
        stored = ir.load(tmp_path / row["file"]).graph.initializers["table"].const_value
        assert isinstance(stored, ir.ExternalTensor)
        assert stored.offset is not None and stored.offset % 4096 == 0
        assert np.array_equal(stored.numpy(), table)
