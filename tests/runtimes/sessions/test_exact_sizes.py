"""Graphs that are opened for the very sizes of their calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artifacts.errors import LatentcError
from artifacts.manifest import DimRange, TensorSpec
from runtimes.sessions import session_table
from runtimes.sessions.exact_sizes import MOST, Shapes, SizedSession, calls_of, sized

INPUTS = (
    TensorSpec(name="sample", dtype="float32", shape=("batch", 4, 8)),
    TensorSpec(name="timestep", dtype="float32", shape=()),
)
OUTPUTS = {"sample": TensorSpec(name="sample", dtype="float32", shape=("batch", 4, 8))}


def call(batch: int) -> dict[str, np.ndarray]:
    return {"sample": np.ones((batch, 4, 8), np.float32), "timestep": np.array(7, np.float32)}


class Doubling:
    """A session that doubles its sample, for one size."""

    device = "cpu"

    def __init__(self, shapes: Shapes) -> None:
        self.inputs = {spec.name: spec for spec in INPUTS}
        self.outputs = OUTPUTS
        self.shapes = shapes
        self.log: list[str] = []

    def run(self, inputs: Any) -> dict[str, np.ndarray]:
        assert inputs["sample"].shape == self.shapes["sample"]
        self.log.append("run")
        return {"sample": 2 * inputs["sample"]}

    def release(self) -> bool:
        self.log.append("release")
        return True

    def close(self) -> None:
        self.log.append("close")


def session() -> tuple[SizedSession, list[Doubling]]:
    opened: list[Doubling] = []

    def open_for(shapes: Shapes) -> Doubling:
        opened.append(Doubling(shapes))
        return opened[-1]

    calls = calls_of(INPUTS, {"batch": DimRange(min=1, max=2)})
    made = SizedSession(
        calls, open_for(calls[0]), open_for, {spec.name: spec for spec in INPUTS}, OUTPUTS, "unet"
    )
    return made, opened


def test_calls_are_all_sizes_of_the_ranges_the_largest_first() -> None:
    calls = calls_of(INPUTS, {"batch": DimRange(min=1, max=2)})
    assert calls == ({"sample": (2, 4, 8), "timestep": ()}, {"sample": (1, 4, 8), "timestep": ()})


@pytest.mark.parametrize("most", [MOST + 1, 10**30])
def test_many_calls_are_a_range(most: int) -> None:
    assert len(calls_of(INPUTS, {"batch": DimRange(min=1, max=MOST)})) == MOST
    assert calls_of(INPUTS, {"batch": DimRange(min=1, max=most)}) == ()


def test_what_nothing_bounds_is_no_call() -> None:
    assert calls_of(INPUTS, {}) == ()


def test_each_size_is_opened_once_when_it_is_called() -> None:
    made, opened = session()
    assert [s.shapes["sample"][0] for s in opened] == [2]
    for batch in (2, 1, 2, 1):
        np.testing.assert_array_equal(made.run(call(batch))["sample"], 2 * call(batch)["sample"])
    assert [s.shapes["sample"][0] for s in opened] == [2, 1]


def test_memory_is_given_back_and_all_are_closed() -> None:
    made, opened = session()
    made.run(call(1))
    made.release()
    made.close()
    made.close()
    assert [s.log for s in opened] == [["release", "close"], ["run", "release", "close"]]
    with pytest.raises(LatentcError, match="session of unet is closed"):
        made.run(call(1))


def test_calls_that_are_not_the_graphs_are_named() -> None:
    made, opened = session()
    with pytest.raises(LatentcError, match=r"unet is not compiled for inputs of the shapes .*3, 4, 8"):
        made.run(call(3))
    with pytest.raises(LatentcError, match="missing: .'timestep'"):
        made.run({"sample": call(1)["sample"]})
    with pytest.raises(LatentcError, match="takes 'sample' as float32"):
        made.run(call(1) | {"sample": np.ones((1, 4, 8), np.float64)})
    assert len(opened) == 1


def test_a_factory_that_does_not_care_stays_as_it_is() -> None:
    factory = session_table.get("onnxruntime")
    assert sized(factory, INPUTS, {"batch": DimRange(min=1, max=2)}) is factory
    openvino = session_table.get("openvino")
    assert sized(openvino, INPUTS, {"batch": DimRange(min=1, max=99)}) is openvino


def test_openvino_computes_the_same_for_known_sizes(tmp_path: Path) -> None:
    """And keeps what it compiled for each size apart."""
    pytest.importorskip("openvino")
    from tests.contract.graphs import Denoiser
    from tests.contract.session_contract import SessionContract
    from tests.runtimes.sessions.test_openvino import TestOpenVino

    contract: SessionContract = TestOpenVino()
    file = contract.write(Denoiser("fp32").model(), tmp_path / "unet")
    plain = session_table.get("openvino")
    whole = plain.open(file, "cpu", "fp32", None)
    dims = {"batch": DimRange(min=1, max=2)}
    inputs = tuple(
        TensorSpec(
            name=spec.name,
            dtype=spec.dtype,
            shape=tuple("batch" if isinstance(dim, str) else dim for dim in spec.shape),
        )
        for spec in whole.inputs.values()
    )
    known = sized(plain, inputs, dims)
    assert known is not plain
    generator = np.random.default_rng(0)
    for _ in range(2):  # The second is read from what the first kept.
        exact = known.open(file, "cpu", "fp32", tmp_path / "cache")
        assert isinstance(exact, SizedSession)
        assert exact.outputs == whole.outputs
        for shapes in calls_of(inputs, dims):
            arrays = {
                name: generator.standard_normal(shape).astype(whole.inputs[name].dtype)
                for name, shape in shapes.items()
            }
            expected, outputs = whole.run(arrays), exact.run(arrays)
            for name, array in expected.items():
                np.testing.assert_allclose(outputs[name], array, rtol=1e-4, atol=1e-5)
        exact.close()
    whole.close()
