"""A fault in one node is named, in the files of each target that runs here; and what kind of fault it is."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from artifacts.errors import LatentcError
from artifacts.progress import silent
from compiler.evidence import runners, where
from compiler.evidence.bisection import FEW, Measure, Measured, locate
from compiler.evidence.dataflow import Dataflow, Maker
from compiler.evidence.where import Locator, Request, answer
from targets import target_table as targets
from tests.compiler.evidence import planted
from tests.compiler.evidence.planted import Lowered, Model

pytestmark = pytest.mark.slow

pytest.importorskip("polygraphy")


@pytest.fixture(scope="module")
def model(sd15: Path) -> Model:
    return Model(sd15)


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def sound(request: pytest.FixtureRequest, model: Model, tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    if not targets.get(request.param).available().ok:
        pytest.skip(f"{request.param} is not here")
    return model.lowered(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def broken(sound: Lowered, tmp_path: Path) -> Lowered:
    """Files of its own, to plant faults in."""
    shutil.copytree(sound.model_file.parent, tmp_path / planted.COMPONENT)
    file = tmp_path / planted.COMPONENT / sound.model_file.name
    check = sound.request.check.model_copy(update={"model_file": str(file)})
    return Lowered(tmp_path, sound.request.model_copy(update={"check": check}))


def test_of_a_sound_graph_nothing_is_named(sound: Lowered) -> None:
    assert answer(sound.request) == []


@pytest.mark.parametrize("place", range(5))
def test_a_scaled_weight_is_named(broken: Lowered, place: int) -> None:
    names = planted.weights(broken.model_file)
    weight = names[(2 * place + 1) * len(names) // 10]
    planted.scale(broken.model_file, weight, 1.5)
    (finding,) = answer(broken.request)
    assert (finding.kind, finding.error) == ("constant", pytest.approx(0.5, rel=1e-2))
    assert f"'{weight}.fp32'" in finding.reason
    assert finding.module and finding.module in weight
    assert f"'{finding.module}': node '{finding.node}' ({finding.op_type}, " in str(finding)


@pytest.mark.parametrize("node", ["node_sigmoid", "node_mul_7"])
def test_a_changed_node_is_named(broken: Lowered, node: str) -> None:
    planted.change_node(broken.model_file, node)
    (finding,) = answer(broken.request)
    assert (finding.node, finding.kind) == (node, "kernel")
    assert finding.module.endswith("mlp.activation_fn")
    assert finding.before is not None and finding.before < 1e-3


def test_a_quantized_layer_is_called_one(broken: Lowered) -> None:
    weight = planted.weights(broken.model_file)[-1]
    planted.scale(broken.model_file, weight, 1.5)
    module = weight.removeprefix("module.").removesuffix(".weight")
    (finding,) = answer(broken.request.model_copy(update={"schemes": {module: "int4:group=64"}}))
    assert (finding.kind, finding.module) == ("quantized layer", module)
    assert "int4:group=64" in finding.reason


def test_what_a_type_cannot_hold_is_called_an_overflow(broken: Lowered) -> None:
    planted.scale(broken.model_file, planted.weights(broken.model_file)[-1], float("inf"))
    if broken.model_file.suffix == ".xml":
        import openvino as ov

        if "FP16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            pytest.skip("OpenVINO computes in another type on this processor where fp16 is asked for")
    (finding,) = answer(broken.request.model_copy(update={"compute": "fp16"}))
    assert finding.kind == "overflow" and finding.error is None
    assert "fp16 holds none above 6.55e+04" in finding.reason


def test_files_that_nobody_can_look_into_are_measured_at_their_outputs(
    broken: Lowered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, "format_of", lambda factory, file: None)
    planted.change_node(broken.model_file, "node_sigmoid")
    finding = answer(broken.request)[0]
    assert finding.value == finding.output and finding.others[-1].endswith(" more")


def copied(request: Request, folder: Path, *names: str) -> Request:
    """The graph's earlier forms as files of their own."""
    for name in names:
        shutil.copytree(Path(getattr(request, name)).parent, folder / name)
    return request.model_copy(update={name: str(folder / name / "model.onnx") for name in names})


@pytest.mark.parametrize("sound", ["onnxruntime"], indirect=True)
@pytest.mark.parametrize(
    ("names", "kind", "between"),
    [
        (("passed",), "pass", "the graph after its passes against the graph as it was exported"),
        (("exported", "passed"), "export", "ONNX Runtime against PyTorch"),
    ],
)
def test_what_went_wrong_before_the_target_is_named_as_that(
    broken: Lowered, names: tuple[str, ...], kind: str, between: str
) -> None:
    request = copied(broken.request, broken.folder, *names)
    for file in (request.check.model_file, *(getattr(request, name) for name in names)):
        planted.change_node(Path(file), "node_sigmoid")
    (finding,) = answer(request)
    assert (finding.kind, finding.module) == (kind, "encoder.layers.0.mlp.activation_fn")
    assert finding.between.startswith(between)


def test_without_polygraphy_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runners.util, "find_spec", lambda name: None)
    with pytest.raises(LatentcError) as caught:
        Locator(None, None, silent).locate(None, "fp32", 0.1, "unet", 1, {})  # type: ignore[arg-type]
    assert "polygraphy, which is not installed" in caught.value.message
    assert caught.value.hint == 'pip install "latentc[debug]"'


# --- the search itself ---------------------------------------------------------------------------


def chain(length: int) -> Dataflow:
    """v0 -> v1 -> ... -> the output."""
    names = [f"v{number}" for number in range(length)]
    makers = {name: Maker(node=f"node_{name}", op_type="Relu", module="m") for name in names}
    sources = {name: tuple(names[place - 1 : place]) for place, name in enumerate(names)}
    return Dataflow(makers, sources, (names[-1],))


def measuring(errors: Mapping[str, float], runs: list[int]) -> Measure:
    def measure(names: Sequence[str]) -> dict[str, Measured]:
        runs.append(len(names))
        return {name: Measured(errors[name], 1.0) for name in names if name in errors}

    return measure


@pytest.mark.parametrize("first", [0, 1, 5, 500, 998, 999])
def test_a_few_values_are_measured_at_a_time(first: int) -> None:
    runs: list[int] = []
    errors = {f"v{place}": 1e-7 if place < first else 0.3 for place in range(1000)}
    beginning = locate(chain(1000), "v999", frozenset(errors), measuring(errors, runs), 0.01)
    assert beginning.value == f"v{first}"
    assert max(runs) <= FEW and len(runs) <= 8


def test_an_error_that_grows_to_the_limit_begins_where_it_jumps() -> None:
    errors = {f"v{place}": 1e-7 if place < 300 else 2e-3 * 1.005**place for place in range(900)}
    assert max(errors.values()) > 0.01
    beginning = locate(chain(900), "v899", frozenset(errors), measuring(errors, []), 0.02)
    assert beginning.value == "v300"


def test_rounding_that_adds_up_has_no_beginning_before_the_limit() -> None:
    errors = {f"v{place}": 1e-5 * (place + 1) for place in range(900)}
    beginning = locate(chain(900), "v899", frozenset(errors), measuring(errors, []), 5e-3)
    assert errors[beginning.value] == pytest.approx(5e-3, rel=1e-2)


def test_values_that_cannot_be_compared_are_told() -> None:
    errors = {f"v{place}": 1e-7 if place < 50 else 0.3 for place in range(100) if not 45 <= place < 55}
    beginning = locate(
        chain(100), "v99", frozenset(f"v{place}" for place in range(100)), measuring(errors, []), 0.01
    )
    assert (beginning.value, beginning.between) == ("v55", tuple(f"v{place}" for place in range(45, 55)))


def test_not_finite_is_beyond_any_limit() -> None:
    errors = {f"v{place}": 1e-7 if place < 7 else float("nan") for place in range(20)}
    beginning = locate(chain(20), "v19", frozenset(errors), measuring(errors, []), 0.5)
    assert beginning.value == "v7"
