"""How far two results are apart, what is let through, and what is said when the check itself ends."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts.errors import LatentcError
from artifacts.manifest import TensorLeaf
from artifacts.worker import serving
from compiler import check
from compiler.check import TOLERANCE, Checker, Job, judge, memory_needed, relative_error
from tests.compiler.made import spec

NAN, INF = float("nan"), float("inf")


def job(**changes) -> Job:
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
    return Job(**(fields | changes))


# --- relative_error ------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(st.floats(1e-6, 10), st.integers(0, 99))
def test_it_is_the_size_of_the_difference(scale, seed):
    reference = np.random.default_rng(seed).standard_normal((3, 5)).astype(np.float64)
    assert relative_error(reference * (1 + scale), reference) == pytest.approx(scale)
    assert relative_error(reference, reference) == 0.0


def test_it_is_computed_in_float64():
    reference = np.full(10_000, 300, np.float16)  # its square is beyond float16
    assert relative_error(reference * np.float16(1.5), reference) == pytest.approx(0.5)
    assert relative_error(np.array([5]), np.array([4])) == 0.25
    assert relative_error(np.array([True, False]), np.array([True, True])) == pytest.approx(2**-0.5)


def test_of_a_reference_of_zeros_it_is_the_difference_itself():
    assert relative_error(np.array([3.0, 4.0]), np.zeros(2)) == 5.0
    assert relative_error(np.zeros(2), np.zeros(2)) == 0.0


@pytest.mark.parametrize(
    ("out", "reference"),
    [
        ([1.0, NAN], [1.0, 2.0]),
        ([1.0, INF], [1.0, 2.0]),
        ([1.0, 2.0, 3.0], [1.0, 2.0]),
        ([[1.0, 2.0]], [1.0, 2.0]),
        (1.0, [1.0]),
    ],
)
def test_it_is_nan_for_what_is_not_finite_or_of_another_shape(out, reference):
    assert np.isnan(relative_error(np.array(out), np.array(reference)))


def test_what_pytorch_itself_gives_as_infinite_is_left_out():
    assert relative_error(np.array([1.0, 7.0]), np.array([1.0, -INF])) == 0.0
    assert relative_error(np.array([2.0, -INF]), np.array([1.0, -INF])) == 1.0


# --- judge ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["quick", "full"])
def test_what_is_within_the_tolerance_is_evidence(asked):
    errors = {"sample": TOLERANCE["fp16"], "other": 0.0}
    found = judge(job(), errors, asked)
    assert (found.check, found.error, found.tolerance, found.reason) == (asked, errors, 1e-2, "")


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
        judge(job(precision=precision), errors, "quick")
    message = caught.value.message
    assert message.startswith("'unet.forward' is not PyTorch's: ")
    assert said in message and not_said not in message
    assert f"is allowed in {precision}" in message
    assert "--precision fp32" in caught.value.hint


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

        def run(self, inputs):
            assert set(inputs) == {"x"} and not self.closed
            return {"sample": inputs["x"], "other": np.ones(2)}

        def close(self):
            self.closed = True

    session = Session()
    monkeypatch.setattr(check, "_reference", lambda _, points: [[np.array([1.0, 0]), np.ones(2)]] * 3)
    monkeypatch.setattr(
        "runtimes.table.get",
        lambda _: SimpleNamespace(lacks=lambda built: "", open=lambda *_, **__: session),
    )
    found = check._answer(job(points=tuple(files)))["errors"]
    assert found["sample"] == pytest.approx(worst, nan_ok=True)
    assert found["other"] == 0.0
    assert session.closed


def test_what_a_machine_lacks_is_told_before_any_model_is_loaded(monkeypatch):
    factory = SimpleNamespace(lacks=lambda built: f"a GPU of {built['for']}")
    monkeypatch.setattr("runtimes.table.get", lambda _: factory)
    assert check._answer(job(built={"for": "sm89"})) == {"lacks": "a GPU of sm89"}


# --- the process ---------------------------------------------------------------------------------


@pytest.fixture
def answering(monkeypatch):
    """Has other work answer: a function of `tests.artifacts.works`."""
    return lambda work: monkeypatch.setattr(
        check, "serving", lambda entry: serving(f"tests.artifacts.works:{work}")
    )


def test_one_process_answers_all_jobs_and_ends_with_them(answering):
    answering("number")
    with Checker() as checker:
        assert checker.run(job(), "quick").error == {"sample": 0.0}
        assert checker.run(job(), "full").error == {"sample": 0.001}
        process = checker._worker._process
    assert process.returncode is not None


def test_errors_over_the_tolerance_and_nan_cross_the_pipe(answering):
    answering("beyond")
    with Checker() as checker, pytest.raises(LatentcError, match="sample not finite, other 0.5"):
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
