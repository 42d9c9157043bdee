"""How far two results are apart, what is let through, and what is said when the check itself ends."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from artifacts.call_trees import TensorLeaf
from artifacts.errors import LatentcError
from artifacts.worker import serving
from compiler.evidence import graph_evidence, graph_measurement
from compiler.evidence.graph_evidence import (
    LARGEST,
    OWN_NOISE,
    TOLERANCE,
    Checker,
    Errors,
    GraphCheckJob,
    judge,
    limit,
    memory_needed,
)
from runtimes.sessions.session_contract import Device
from tests.compiler.made import spec

NAN, INF = float("nan"), float("inf")


def job(**changes) -> GraphCheckJob:
    fields = {
        "target": "onnxruntime",
        "device": "cpu",
        "precision": "fp16",
        "model_file": "model.onnx",
        "component": "unet",
        "library": "diffusers",
        "class_name": "UNet2DConditionModel",
        "folder": "unet",
        "method": "forward",
        "arguments": {"x": TensorLeaf(name="x")},
        "inputs": (spec("x", 2),),
        "outputs": (spec("sample", 2), spec("other", 2)),
        "points": (),
    }
    return GraphCheckJob(**(fields | changes))


# --- judge ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["quick", "full"])
def test_what_is_within_the_tolerance_is_evidence(asked):
    errors = {"sample": TOLERANCE["fp16"], "other": 0.0}
    evidence = judge(job(), "fp32", Errors(errors=errors), asked)
    assert (evidence.compute, evidence.device, evidence.broken) == ("fp32", "cpu", "")
    assert (evidence.check, evidence.error, evidence.tolerance, evidence.reason) == (asked, errors, 1e-2, "")


@pytest.mark.parametrize(
    ("precision", "errors", "said", "not_said"),
    [
        ("fp16", {"sample": 0.0101, "other": 0.001}, "relative error of sample 0.01;", "other"),
        ("fp32", {"sample": 0.0101, "other": 0.002}, "sample 0.01, other 0.002; at most 0.001", "fp16"),
        ("bf16", {"sample": 0.05, "other": NAN}, "relative error of other not finite; at most 0.06", "nan"),
        ("fp16", {"sample": INF}, "sample inf", "not finite"),
    ],
)
def test_what_is_beyond_it_is_named_with_its_error_and_the_limit(precision, errors, said, not_said):
    with pytest.raises(LatentcError) as caught:
        judge(job(precision=precision), "fp32", Errors(errors=errors), "quick")
    message = caught.value.message
    assert message.startswith("'unet.forward' is not PyTorch's: ")
    assert said in message and not_said not in message
    assert f"is allowed in {precision}" in message
    wider = "report" if precision == "fp32" else "--quantize unet=fp32"  # not the whole model
    assert wider in caught.value.hint


def test_a_schemes_own_tolerance_counts_where_it_is_the_larger():
    quantized = job(schemes={"some": 0.15, "other": 0.4})
    assert judge(quantized, "fp32", Errors(errors={"sample": 0.35}), "quick").tolerance == 0.4
    assert (
        judge(job(schemes={"exact": 1e-6}), "fp32", Errors(errors={"sample": 0.009}), "quick").tolerance
        == 1e-2
    )
    with pytest.raises(LatentcError, match=r"at most 0\.4 is allowed in other\..*\n.*more bits than other's"):
        judge(quantized, "fp32", Errors(errors={"sample": 0.5}), "quick")


def test_a_targets_own_tolerance_takes_the_place_of_the_types():
    own = {"fp32": 1e-5, "fp16": 0.02}
    assert limit(job(precision="fp32", tolerance=own), "fp32", 0.0) == 1e-5
    assert limit(job(tolerance=own), "fp32", 0.0) == 0.02
    assert limit(job(tolerance=own), "bf16", 0.0) == TOLERANCE["bf16"], "what it does not name"
    assert limit(job(tolerance=own, schemes={"some": 0.15}), "fp32", 0.0) == 0.15
    assert limit(job(tolerance=own), "fp16", 0.05) == pytest.approx(OWN_NOISE * 0.05)


def test_a_type_that_fails_a_graph_is_told_where_fp32_can_take_its_place():
    errors = Errors(errors={"sample": 0.2, "other": NAN})
    evidence = judge(job(), "bf16", errors, "quick", "gpu.1", spare=True)
    assert evidence.broken == "relative error of sample 0.2, other not finite; at most 0.06 is allowed"
    assert (evidence.compute, evidence.device, evidence.tolerance) == ("bf16", "gpu.1", 0.06)
    assert evidence.error == {"sample": 0.2}, "JSON has no NaN"
    with pytest.raises(LatentcError, match=r"sample 0\.2, other not finite; at most 0\.06 is allowed"):
        judge(job(), "bf16", errors, "quick")


def test_the_limit_follows_pytorchs_own_error_in_the_type():
    assert limit(job(), "fp32", 0.0) == TOLERANCE["fp16"]
    assert limit(job(), "bf16", 0.001) == TOLERANCE["bf16"], "never below what rounding gives anywhere"
    assert limit(job(), "bf16", 0.05) == pytest.approx(OWN_NOISE * 0.05)
    assert limit(job(), "bf16", 0.9) == LARGEST < 1, "a wrong graph is found in spite of any noise"
    noisy = Errors(errors={"sample": 0.13}, noise=0.05)
    assert not judge(job(), "bf16", noisy, "quick", spare=True).broken
    assert judge(job(), "bf16", Errors(errors={"sample": 0.13}), "quick", spare=True).broken


# --- one job -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("errors", "worst"), [((0.1, 0.3, 0.2), 0.3), ((NAN, 0.1, 0.1), NAN), ((0.1, 0.1, NAN), NAN)]
)
def test_the_worst_of_all_points_counts_and_nan_is_the_worst(tmp_path, monkeypatch, errors, worst):
    files = []
    for index, error in enumerate(errors):
        files.append(str(tmp_path / f"{index}.npz"))
        np.savez(files[-1], x=np.array([1 + error, 0]), unread=np.zeros(1))

    class Session:
        inputs = ("x",)
        closed = False

        device = "cpu"

        def run(self, inputs):
            assert set(inputs) == {"x"} and not self.closed
            return {"sample": inputs["x"], "other": np.ones(2)}

        def close(self):
            self.closed = True

    session = Session()
    references = [[np.array([1.0, 0]), np.ones(2)]] * 3
    monkeypatch.setattr(graph_measurement, "_reference", lambda _, points, types: (references, {}))
    monkeypatch.setattr("runtimes.sessions.session_table.get", lambda _: factory(lambda *_: session))
    answer = graph_measurement.measure(job(points=tuple(files)))
    assert answer["device"] == "cpu" and list(answer["types"]) == ["fp32"]
    assert answer["types"]["fp32"]["errors"]["sample"] == pytest.approx(worst, nan_ok=True)
    assert answer["types"]["fp32"]["errors"]["other"] == 0.0
    assert session.closed


def factory(open, computes=("fp32",)) -> SimpleNamespace:
    return SimpleNamespace(
        lacks=lambda built: "", devices=lambda: (Device("cpu", "", computes=computes),), open=open
    )


@pytest.mark.parametrize(
    ("stored", "asked", "opened"),
    [
        ("fp16", "auto", ["fp32", "bf16"]),
        ("fp32", "auto", ["fp32"]),
        ("fp16", "bf16", ["bf16"]),
        ("fp16", "fp16", ["fp16"]),
    ],
)
def test_a_graph_is_measured_in_fp32_and_in_what_it_runs_in(tmp_path, monkeypatch, stored, asked, opened):
    np.savez(tmp_path / "0.npz", x=np.ones(2))
    types = []

    class Session:
        inputs, device = ("x",), "cpu"

        def run(self, inputs):
            return {"sample": inputs["x"], "other": inputs["x"]}

        def close(self):
            pass

    def open(file, device, compute, *_):
        types.append(compute)
        return Session()

    noise = dict.fromkeys(opened, 0.25)
    monkeypatch.setattr(graph_measurement, "_reference", lambda _, points, types: ([[np.ones(2)] * 2], noise))
    monkeypatch.setattr(
        "runtimes.sessions.session_table.get", lambda _: factory(open, ("bf16", "fp32", "fp16"))
    )
    answer = graph_measurement.measure(
        job(precision=stored, compute=asked, points=(str(tmp_path / "0.npz"),))
    )
    assert types == list(answer["types"]) == opened
    assert {measurement["noise"] for measurement in answer["types"].values()} == {0.25}


def test_pytorchs_own_error_is_taken_of_the_same_module(tmp_path, monkeypatch):
    """Of a linear layer, whose weights and inputs bf16 rounds by up to 0.4 %; what is in fp32 stays as it was."""
    torch.manual_seed(0)
    module = torch.nn.Linear(64, 64)
    loader = SimpleNamespace(from_pretrained=lambda *_, **__: module)
    source = SimpleNamespace(variant=None, cls=loader)
    monkeypatch.setattr("compiler.model_source.ComponentSource", lambda *_: source)
    point = {"input": torch.randn(8, 64).numpy()}
    linear = job(arguments={"input": TensorLeaf(name="input")}, inputs=(spec("input", 8, 64),))
    references, noise = graph_measurement._reference(linear, [point], ["bf16"])
    with torch.no_grad():
        assert np.array_equal(references[0][0], module(torch.from_numpy(point["input"])).numpy())
    assert 1e-3 < noise["bf16"] < 1e-2 and references[0][0].dtype == np.float32


@pytest.mark.parametrize("last", [False, True])
def test_a_type_that_pytorch_is_not_finite_in_has_no_noise(monkeypatch, last):
    """Of two outputs one overflows fp16: in whichever place it stands."""

    class Module(torch.nn.Module):
        def forward(self, input):
            large = input.half().float() if torch.is_autocast_enabled("cpu") else input
            return (input, large) if last else (large, input)

    loader = SimpleNamespace(from_pretrained=lambda *_, **__: Module())
    monkeypatch.setattr(
        "compiler.model_source.ComponentSource", lambda *_: SimpleNamespace(variant=None, cls=loader)
    )
    overflowing = job(arguments={"input": TensorLeaf(name="input")}, inputs=(spec("input", 2),))
    _, noise = graph_measurement._reference(
        overflowing, [{"input": np.array([1.0, 1e6], np.float32)}], ["fp16"]
    )
    assert noise == {}


@pytest.mark.parametrize(
    ("last", "why"),
    [
        ([1.0, NAN], "PyTorch's own 'sample' holds NaN: the model's own weights or outputs are not finite"),
        ([INF, -INF], "PyTorch's own 'sample' holds no finite number"),
        ([], "PyTorch's own 'sample' holds no element"),
    ],
)
def test_without_a_reference_at_any_point_nothing_is_measured(tmp_path, monkeypatch, last, why):
    files = [str(tmp_path / f"{index}.npz") for index in range(2)]
    for file in files:
        np.savez(file, x=np.ones(2))
    references = [[np.array(sample), np.ones(2)] for sample in ([1.0, 2.0], last)]
    monkeypatch.setattr(graph_measurement, "_reference", lambda *_: (references, {}))
    monkeypatch.setattr("runtimes.sessions.session_table.get", lambda _: factory(None))
    answer = graph_measurement.measure(job(points=tuple(files)))
    assert answer["undefined"].startswith(why)
    checker = Checker()
    monkeypatch.setattr(checker._worker, "ask", lambda job: answer)
    (evidence,) = checker.run(job(), "full")
    assert (evidence.check, evidence.error, evidence.reason) == ("not measured", {}, answer["undefined"])


def test_a_graph_without_outputs_is_not_measured(monkeypatch):
    monkeypatch.setattr(graph_measurement, "_reference", lambda *_: ([[]], {}))
    monkeypatch.setattr("runtimes.sessions.session_table.get", lambda _: factory(None))
    assert (
        graph_measurement.measure(job(outputs=(), points=()))["undefined"] == "there is no output to compare"
    )


def test_what_a_machine_lacks_is_told_before_any_model_is_loaded(monkeypatch):
    factory = SimpleNamespace(lacks=lambda built: f"a GPU of {built['for']}")
    monkeypatch.setattr("runtimes.sessions.session_table.get", lambda _: factory)
    assert graph_measurement.measure(job(built={"for": "sm89"})) == {"lacks": "a GPU of sm89"}


# --- the process ---------------------------------------------------------------------------------


@pytest.fixture
def answering(monkeypatch):
    """Has other work answer: a function of `tests.artifacts.works`."""
    return lambda work: monkeypatch.setattr(
        graph_evidence, "serving", lambda entry: serving(f"tests.artifacts.works:{work}")
    )


def test_one_process_answers_all_jobs_and_ends_with_them(answering):
    answering("number")
    with Checker() as checker:
        assert [evidence.error for evidence in checker.run(job(), "quick")] == [{"sample": 0.0}]
        assert [evidence.error for evidence in checker.run(job(), "full")] == [{"sample": 0.001}]
        process = checker._worker._process
    assert process.returncode is not None


def test_errors_over_the_tolerance_and_nan_cross_the_pipe(answering):
    answering("beyond")
    with Checker() as checker, pytest.raises(LatentcError, match="sample not finite, other 0.5"):
        checker.run(job(), "quick")


def test_what_fails_in_bf16_alone_is_no_error_and_what_fails_in_fp32_is(answering):
    answering("narrow")
    with Checker() as checker:
        wide, narrow = checker.run(job(), "quick")
        assert (wide.compute, wide.broken, narrow.compute) == ("fp32", "", "bf16")
        assert narrow.broken == "relative error of sample inf; at most 0.09 is allowed" and not narrow.error
        with pytest.raises(LatentcError, match=r"relative error of sample 0\.5; at most 0\.01"):
            checker.run(job(), "quick")


def test_a_check_that_fails_says_why(answering):
    answering("fail")
    with (
        Checker() as checker,
        pytest.raises(LatentcError, match=r"check of 'unet\.forward' failed: ValueError: no"),
    ):
        checker.run(job(), "quick")


def test_a_check_that_ends_says_with_what(answering):
    answering("end")
    with Checker() as checker, pytest.raises(LatentcError, match="ended with status 3 before") as caught:
        checker.run(job(), "quick")
    assert caught.value.hint == "Compile without it: --check none"


# --- memory --------------------------------------------------------------------------------------


def test_memory_grows_with_the_parameters():
    assert memory_needed(10**9) - memory_needed(0) >= 4 * 10**9
