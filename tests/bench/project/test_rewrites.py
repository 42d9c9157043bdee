"""The bench of rewrites: what a graph could compute ahead, pairs, and rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from bench.project import rewrites
from bench.project.paired_times import Pairs
from bench.project.rewrites import Row, ahead
from tests.compiler.passes.graphs import error, evaluate, ops, parse


def test_what_depends_on_the_prompt_alone_is_a_graph_of_its_own() -> None:
    model = parse(
        """(float[N,4] sample, float[N,3] prompt, float[3,4] w) => (float[N,4] y) {
        k = MatMul(prompt, w)
        size = Shape(sample)
        wide = Expand(k, size)
        turned = Relu(wide)
        unused = Abs(turned)
        y = Add(turned, sample)
    }"""
    )
    part = ahead(model, frozenset({"prompt", "w"}))
    assert part is not None
    assert [v.name for v in part.graph.outputs] == ["turned"]
    assert ops(part) == {"MatMul": 1, "Shape": 1, "Expand": 1, "Relu": 1}
    assert len(model.graph) == 6
    feeds = {"sample": np.ones((2, 4), np.float32), "prompt": np.ones((2, 3), np.float32)}
    feeds["w"] = np.full((3, 4), -0.5, np.float32)
    got = evaluate(part, [feeds[str(v.name)] for v in part.graph.inputs])
    assert error(got, [np.zeros((2, 4), np.float32)]) == 0.0
    assert ahead(model, frozenset({"prompt"})) is None


def test_the_ratio_is_of_each_pair_and_turns_are_taken() -> None:
    now, log = [0.0], []

    def call(name: str, seconds: float):
        def run() -> dict[str, np.ndarray]:
            log.append(name)
            now[0] += seconds
            return {}

        return run

    assert Pairs(lambda: now[0], 3).ratios(call("a", 2.0), call("b", 1.0)) == [0.5, 0.5, 0.5]
    assert "".join(log) == "ab" + "ab" + "ba" + "ab"


def test_the_page_has_a_row_for_each() -> None:
    row = Row("openvino", "split-linear", "on", 0.97, 0.96, 0.98, 1e-7, "why")
    page = rewrites.page([row], "a model")
    assert page.startswith("a model, ")
    assert page.endswith("| openvino | split-linear | 0.970 | 0.960 to 0.980 | 1.0e-07 | on | why |")
    assert rewrites.BEGIN in rewrites.PAGE.read_text(encoding="utf-8")
    assert rewrites.END in rewrites.PAGE.read_text(encoding="utf-8")


def test_only_the_rows_that_are_asked_for_are_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def rows(bench: rewrites.Bench) -> Iterator[Row]:
        for name in ("split-linear", "pad-heads"):
            if bench._wants(name):
                yield Row(bench.target, name, "on", 0.97, 0.96, 0.98, 1e-7, "")

    monkeypatch.setattr(rewrites, "exported", lambda *options: (None, None))
    monkeypatch.setattr(rewrites, "inputs_of", lambda method: {})
    monkeypatch.setattr(rewrites.Bench, "rows", rows)
    command = ["--target", "openvino", "--precision", "fp32"]
    assert rewrites.main(command) == 0
    assert {"split-linear", "pad-heads"} <= set(capsys.readouterr().out.split())
    assert rewrites.main([*command, "--row", "pad-heads"]) == 0
    assert "split-linear" not in capsys.readouterr().out
    assert rewrites.main([*command, "--row", "pad-heads", "--row", "no-such"]) == 1
    assert "no row no-such; leave --row out" in capsys.readouterr().err
