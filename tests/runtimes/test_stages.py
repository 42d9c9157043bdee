"""A decoder in stages and tiles, and a graph in parts: what is cut where, and that both runtimes give the whole graph's
numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from artifacts.errors import LatentcError
from artifacts.manifest import DimRange, GraphRecord, TensorSpec
from runtimes.file_array import FileArray
from runtimes.parts_session import KEPT, PartsSession, cut, kept, wide_values
from runtimes.sessions import session_table
from runtimes.sessions.onnx_format import format_of
from runtimes.sessions.session_contract import GraphNode, OpensParts, Session, Structure
from runtimes.staged_run import StagedGraph, _room
from runtimes.stages import staging
from targets.openvino.target import TARGET, OpenVinoOptions
from targets.target_contract import Context
from tests.runtimes import tiny

CELLS = (40, 36)

# Convolution, what is not local (the mean of the picture, attention), group norms of two forms, a pixel that is
# subtracted, two elements for each cell.
DECODER = """
<ir_version: 10, opset_import: ["" : 21]>
decoder (float[b, 4, h, w] z) => (float[b, 3, hh, ww] sample)
<float[8, 4, 3, 3] w0, float[8, 8, 3, 3] w1, float[32, 8, 3, 3] w2, float[3, 8, 5, 5] w3, float[8, 1, 1] scale,
 float[8, 1, 1] offset, float[2] ones, float[2] zeros, int64[3] grouped, int64[4] starts, int64[4] ends,
 int64[4] axes, int64[3] channels, float[8] eights, float[8] halves>
{
  x0 = Conv <pads = [1, 1, 1, 1]> (z, w0)
  mean = ReduceMean <keepdims = 1> (x0)
  x01 = Add (x0, mean)
  keys = Reshape (x01, channels)
  rows = Transpose <perm = [0, 2, 1]> (keys)
  queries = Sigmoid (rows)
  scores = MatMul (queries, keys)
  shares = Softmax <axis = -1> (scores)
  mixed = MatMul (shares, rows)
  columns = Transpose <perm = [0, 2, 1]> (mixed)
  sizes0 = Shape (x01)
  attended = Reshape (columns, sizes0)
  x1 = Add (x01, attended)
  pixel = Slice (x1, starts, ends, axes)
  centred = Sub (x1, pixel)
  flat = Reshape (centred, channels)
  flat_normed = InstanceNormalization <epsilon = 0.00001> (flat, eights, halves)
  sizes = Shape (x1)
  normed = Reshape (flat_normed, sizes)
  scaled = Mul (normed, scale)
  n1 = Add (scaled, offset)
  s1 = Sigmoid (n1)
  c1 = Conv <pads = [1, 1, 1, 1]> (s1, w1)
  x2 = Add (x1, c1)
  c2 = Conv <pads = [1, 1, 1, 1]> (x2, w2)
  x3 = DepthToSpace <blocksize = 2> (c2)
  flat2 = Reshape (x3, grouped)
  flat2_normed = InstanceNormalization <epsilon = 0.001> (flat2, ones, zeros)
  sizes2 = Shape (x3)
  n2 = Reshape (flat2_normed, sizes2)
  s2 = Relu (n2)
  sample = Conv <pads = [2, 2, 2, 2]> (s2, w3)
}
"""


# OpenVINO keeps a group norm as one operator.
WHOLE_NORMS = DECODER.replace(
    DECODER[DECODER.index("  flat = ") : DECODER.index("  s1 = ")],
    "  n1 = GroupNormalization <num_groups = 8, epsilon = 0.00001> (centred, eights, halves)\n",
)
WHOLE_NORMS = WHOLE_NORMS.replace(
    WHOLE_NORMS[WHOLE_NORMS.index("  flat2 = ") : WHOLE_NORMS.index("  s2 = ")],
    "  n2 = GroupNormalization <num_groups = 2, epsilon = 0.001> (x3, eights, halves)\n",
)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decoder") / "vae_decoder"
    folder.mkdir()
    onnx.save(filled(WHOLE_NORMS), folder / "model.onnx")
    TARGET.lower(ir.load(folder / "model.onnx"), OpenVinoOptions(), folder, Context())
    onnx.save(filled(DECODER), folder / "model.onnx")
    return folder


def filled(text: str) -> onnx.ModelProto:
    """The graph with its constants, and the shapes between."""
    model = onnx.parser.parse_model(text)
    random = np.random.default_rng(0)
    constants: dict[str, np.ndarray] = {
        "ones": np.ones(2, np.float32),
        "zeros": np.zeros(2, np.float32),
        "grouped": np.array([0, 2, -1]),
        "channels": np.array([0, 8, -1]),
        "starts": np.array([0, 0, 0, 0]),
        "ends": np.array([9, 99, 1, 1]),
        "axes": np.array([0, 1, 2, 3]),
    }
    for value in list(model.graph.value_info):
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        array = constants.get(value.name, random.standard_normal(dims).astype(np.float32) / 4)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
    model.graph.ClearField("value_info")
    return onnx.shape_inference.infer_shapes(model)


def cells() -> dict[str, np.ndarray]:
    """A picture whose parts are unlike each other, so that a tile's own mean and variance would be wrong."""
    z = np.random.default_rng(1).standard_normal((1, 4, *CELLS)).astype(np.float32)
    z[..., : CELLS[0] // 2, :] = z[..., : CELLS[0] // 2, :] * 0.1 + 2
    return {"z": z}


def record() -> GraphRecord:
    dims = {name: DimRange(min=1, max=64) for name in "bhw"}
    graph = tiny.graph("vae_decoder", [("z", "float32", ("b", 4, "h", "w"))], dims)
    return graph.model_copy(
        update={"outputs": (TensorSpec(name="sample", dtype="float32", shape=("b", 3, "hh", "ww")),)}
    )


Opened = tuple[Path, Any, Callable[..., Session], Structure]


@pytest.fixture(params=["onnxruntime", "openvino"])
def opened(request: pytest.FixtureRequest, decoder: Path) -> Iterator[Opened]:
    """The file, its format, what opens a file, and the structure."""
    factory = session_table.get(request.param)
    file = decoder / ("model.onnx" if request.param == "onnxruntime" else "openvino_model.xml")
    form = format_of(factory, file)
    assert form is not None

    def opens(graph: Path | bytes, wide: bool = True) -> Session:
        if isinstance(graph, Path):
            return factory.open(graph, "cpu", "fp32", None, {})
        assert isinstance(factory, OpensParts)
        return factory.open_part(graph, file, "cpu", "fp32")

    yield file, form, opens, form.structure(file)


def test_a_decoder_is_cut_at_its_norms_and_what_is_not_local_runs_whole(opened: Opened) -> None:
    plan = staging(opened[3])
    assert plan is not None
    assert [stage.local for stage in plan.stages] == [False, False, False, True, True]
    assert [bool(stage.rows) for stage in plan.stages] == [False, True, False, False, False]
    norms = [norm for norm in plan.norms if norm is not None]
    assert plan.norms[-2:] == (*norms,) and [norm.groups for norm in norms] == [8, 2]
    assert [round(norm.epsilon, 6) for norm in norms] == [1e-5, 1e-3]
    assert [stage.radius for stage in plan.stages[3:]] == [2, 2]


def test_operators_are_called_as_in_onnx_whatever_the_file_is(opened: Opened) -> None:
    kinds = {node.kind for node in opened[3].nodes}
    assert {kind for kind in kinds if not onnx.defs.has(kind)} == set()
    assert kinds >= {"Conv", "Sub", "Shape", "Softmax", "Relu"}


@pytest.mark.parametrize("in_files", [False, True])
@pytest.mark.parametrize("side", [(12, 12), (40, 9), (20, 20), (64, 64)])
def test_tiles_in_stages_are_the_whole_picture(
    opened: Opened, side: tuple[int, int], in_files: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if in_files:
        monkeypatch.setattr("runtimes.staged_run._room", FileArray)
    file, form, opens, structure = opened
    plan = staging(structure)
    assert plan is not None
    whole = opens(file).run(cells())["sample"]
    checks: list[int] = []
    staged = StagedGraph(file, form, plan, opens)
    (made,) = staged.run(cells(), CELLS, side, lambda: checks.append(1)).values()
    np.testing.assert_allclose(made, whole, atol=2e-5 * np.abs(whole).max())
    assert len(checks) >= len(plan.stages)


def test_rows_of_attention_run_in_turn(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    file, form, opens, structure = opened
    plan = staging(structure)
    assert plan is not None
    count = CELLS[0] * CELLS[1]
    monkeypatch.setattr("runtimes.staged_run.LARGE", 100 * count * 4)  # Scores of a hundred rows.
    rows: list[int] = []

    def watched(part: bytes, wide: bool) -> Session:
        session = opens(part)
        run = session.run

        def counted(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            rows.extend(array.shape[1] for array in arrays.values() if array.shape[2:] == (8,))
            return run(arrays)

        monkeypatch.setattr(session, "run", counted)
        return session

    (made,) = StagedGraph(file, form, plan, watched).run(cells(), CELLS, (12, 12)).values()
    whole = opens(file).run(cells())["sample"]
    np.testing.assert_allclose(made, whole, atol=2e-5 * np.abs(whole).max())
    assert rows.count(100) == count // 100 and count % 100 in rows


def test_a_picture_in_tiles_can_be_stopped_and_leaves_no_file(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, form, opens, structure = opened
    plan = staging(structure)
    assert plan is not None
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    count = iter(range(100))

    def check() -> None:
        if next(count) == 6:
            raise LatentcError("cancelled.")

    with pytest.raises(LatentcError, match="cancelled"):
        StagedGraph(file, form, plan, opens).run(cells(), CELLS, (12, 12), check)
    assert not list(tmp_path.iterdir())


def test_one_size_is_not_staged(decoder: Path, tmp_path: Path) -> None:
    model = onnx.load(decoder / "model.onnx")
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.dim_value = 8
    onnx.save(model, tmp_path / "model.onnx")
    form = format_of(session_table.get("onnxruntime"), tmp_path / "model.onnx")
    assert form is not None and staging(form.structure(tmp_path / "model.onnx")) is None


def test_large_values_lie_in_files() -> None:
    assert isinstance(_room((1, 8, 1 << 11, 1 << 10), np.dtype(np.float32)), FileArray)
    assert isinstance(_room((1, 8, 1 << 10, 1 << 10), np.dtype(np.float32)), np.ndarray)


@pytest.mark.parametrize(("most", "stay_open"), [(1, None), (1500, 0), (2500, 10**6), (9000, 10**6)])
def test_a_graph_in_parts_gives_the_same_bits(
    opened: Opened, most: int, stay_open: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, form, opens, structure = opened
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    parts = cut(structure, most)
    assert all(part.weights <= most or len(part.outputs) == 1 for part in parts)
    assert sum(part.weights for part in parts) >= sum(structure.weights.values()) * 0.9
    alive: list[bytes] = []

    def counted(part: bytes, narrow: Collection[str]) -> Session:
        session = opens(part)
        close = session.close
        alive.append(part)
        monkeypatch.setattr(session, "close", lambda: (alive.remove(part), close()))
        return session

    whole = opens(file)
    keeps = None if stay_open is None else kept(parts, stay_open)
    session = PartsSession(file, form, structure, parts, record(), counted, "cpu", keeps)
    for _ in range(2):
        made = session.run(cells())
        assert list(made) == ["sample"]
        expected = whole.run(cells())["sample"]
        # In parts of one node attention is cut, too, which runtimes compute at once.
        np.testing.assert_allclose(
            made["sample"], expected, rtol=0, atol=0 if most > 1 else 1e-6 * expected.max()
        )
        assert len(alive) == (min(KEPT, len(parts)) if keeps is None else len(keeps))
    session.close()
    session.close()
    assert not alive and not list(tmp_path.iterdir())
    with pytest.raises(LatentcError, match="is closed"):
        session.run(cells())


def test_a_part_that_cannot_give_memory_back_does_not_stay_open(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, form, opens, structure = opened
    counts = Counter[bytes]()

    def holding(part: bytes, narrow: Collection[str]) -> Session:
        counts[part] += 1
        session = opens(part)
        if part == first:
            monkeypatch.setattr(session, "release", lambda: False, raising=False)
        return session

    parts = cut(structure, 1500)
    first = form.extract(file, parts[0].inputs, parts[0].outputs)
    session = PartsSession(file, form, structure, parts, record(), holding, "cpu", range(len(parts)))
    results = [session.run(cells())["sample"] for _ in range(3)]
    session.close()
    assert counts.pop(first) == 3 and set(counts.values()) == {1}
    assert all(np.array_equal(result, results[0]) for result in results)


def test_parts_are_cut_where_few_values_cross(opened: Opened) -> None:
    parts = cut(opened[3], 3000)
    assert len(parts) > 1
    assert all(len(part.inputs) <= 2 for part in parts)


def test_what_angles_and_outputs_are_made_of_stays_wide() -> None:
    def node(kind: str, *names: str) -> GraphNode:
        return GraphNode(kind, names[:-1], names[-1:], {})

    nodes = (
        node("Mul", "t", "frequencies", "angle"),
        node("Sin", "angle", "sine"),
        node("MatMul", "sine", "w", "embedded"),
        node("Cos", "embedded", "cosine"),
        node("Add", "cosine", "x", "inner"),
        node("MatMul", "inner", "w", "product"),
        node("Add", "product", "bias", "out"),
    )
    structure = Structure(nodes, {}, {"w": 4, "bias": 1, "frequencies": 1}, ("t", "x"), ("out",))
    assert wide_values(structure) & {name for n in nodes for name in n.outputs} == {"angle", "product", "out"}


def test_what_constants_are_computed_of_counts_once() -> None:
    """A part would be several times as large as memory takes, where weights are widened, scaled and reshaped."""
    node = GraphNode("MatMul", ("x", "reshaped"), ("y",), {})
    weights = {"stored": 10, "scale": 1, "widened": 10, "scaled": 11, "reshaped": 11}
    assert Structure((node,), {}, weights, ("x",), ("y",)).weight_bytes == 11
