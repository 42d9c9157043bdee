"""The form of a graph in the file, and the one that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset13 as ops
import pytest

from runtimes.sessions.openvino import SESSION
from runtimes.sessions.session_contract import Refused
from targets.openvino.names import number_unnamed
from targets.openvino.stored_form import as_run, is_stored, keep_angles, store_whole_numbers


def model() -> Any:
    """x [?, 4] and a timestep without axes -> x * (sin(t / 3) + cos(t / 3))."""
    x = ops.parameter([-1, 4], ov.Type.f32, name="x")
    timestep = ops.parameter([], ov.Type.f32, name="timestep")
    for parameter in (x, timestep):
        parameter.output(0).get_tensor().set_names({parameter.get_friendly_name()})
    angle = ops.divide(timestep, ops.constant(np.float32(3)))
    sum_ = ops.add(ops.sin(angle, name="sine"), ops.cos(angle, name="cosine"))
    result = ops.result(ops.multiply(x, sum_))
    result.input(0).get_source_output().get_tensor().set_names({"y"})
    return ov.Model([result], [x, timestep], "graph")


def stored(folder: Path) -> Path:
    graph = model()
    store_whole_numbers(graph)
    keep_angles(graph)
    ov.save_model(graph, folder / "openvino_model.xml", compress_to_fp16=False)
    return folder / "openvino_model.xml"


def test_the_file_has_a_whole_timestep_of_one_axis_and_one_output(tmp_path: Path) -> None:
    file = stored(tmp_path)
    read = ov.Core().read_model(file)
    timestep = next(port for port in read.inputs if "timestep" in port.get_names())
    assert (timestep.get_element_type(), list(timestep.get_shape())) == (ov.Type.i64, [1])
    assert len(read.outputs) == 1
    assert is_stored(file)


@pytest.mark.parametrize("cached", [False, True])
def test_a_session_takes_fractions(cached: bool, tmp_path: Path) -> None:
    file = stored(tmp_path)
    cache = tmp_path / "cache" if cached else None
    if cache is not None:
        cache.mkdir()
    x = np.ones((2, 4), np.float32)
    for _ in range(2):  # the second time from the cache, where there is one
        session = SESSION.open(file, "cpu", "fp32", cache)
        assert session.inputs["timestep"].shape == () and session.inputs["timestep"].dtype == "float32"
        assert list(session.outputs) == ["y"]
        result = session.run({"x": x, "timestep": np.array(1.5, np.float32)})["y"]
        np.testing.assert_allclose(result, np.sin(0.5) + np.cos(0.5), rtol=1e-6)
        session.close()
    if cache is not None:
        assert len(list(cache.glob("*.blob"))) == 1


def test_a_broken_cache_is_made_again(tmp_path: Path) -> None:
    file, cache = stored(tmp_path), tmp_path / "cache"
    cache.mkdir()
    SESSION.open(file, "cpu", "fp32", cache).close()
    blob = next(cache.glob("*.blob"))
    blob.write_bytes(b"no blob")
    SESSION.open(file, "cpu", "fp32", cache).close()
    assert blob.stat().st_size > len(b"no blob")


def test_the_angles_are_outputs_while_it_runs(tmp_path: Path) -> None:
    read = ov.Core().read_model(stored(tmp_path))
    as_run(read)
    assert [min(port.get_names()) for port in read.outputs[1:]] == ["latentc_fp32_0", "latentc_fp32_1"]


def test_information_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    file = stored(tmp_path)
    file.write_text(file.read_text().replace("&quot;timestep&quot;]", "&quot;step&quot;]"))
    with pytest.raises(Refused, match="'step' is not stored as a number"):
        SESSION.open(file, "cpu", "fp32", None)


def test_a_graph_without_numbers_and_angles_is_as_it_was(tmp_path: Path) -> None:
    x = ops.parameter([-1, 4], ov.Type.f32, name="x")
    graph = ov.Model([ops.result(ops.relu(x))], [x], "graph")
    store_whole_numbers(graph)
    assert keep_angles(graph) == frozenset()
    ov.save_model(graph, tmp_path / "openvino_model.xml")
    assert not is_stored(tmp_path / "openvino_model.xml")


def test_names_do_not_depend_on_what_was_made_before() -> None:
    def names() -> list[str]:
        graph = model()
        number_unnamed(graph)
        return sorted(op.get_friendly_name() for op in graph.get_ops())

    assert names() == names()
