"""A snapshot holds what a compile hands to its targets, the exact rewrites among it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from compiler.build import compile
from compiler.compile_request import CompileRequest
from compiler.lowering.compile_cache import CompileCache
from compiler.snapshot import diff, report
from compiler.snapshot.prints import Snapshot
from compiler.snapshot.take import SnapshotOptions, forms, take
from targets import target_table as targets
from targets.target_contract import Lowered, Target

NAMES = ("onnxruntime", "openvino", "directml")

PART = SnapshotOptions(components=("vae",))


def operators(model: ir.Model) -> Counter[str]:
    return Counter(f"{node.domain}.{node.op_type}".removeprefix(".") for node in model.graph)


def compiled(
    name: str, model: Path, out: Path, compile_cache: CompileCache, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Counter[str]]:
    """Graph -> operators that a compile with nothing but the target asked for hands to it."""
    target = targets.get(name)
    handed: dict[str, Counter[str]] = {}
    lower = type(target).lower

    def spy(self: Target, graph: ir.Model, options: Any, out_dir: Path, context: Any) -> Lowered:
        handed[str(graph.graph.name)] = operators(graph)
        return lower(self, graph, options, out_dir, context)

    monkeypatch.setattr(type(target), "lower", spy)
    request = CompileRequest(str(model), out / name, name, check="none")
    compile(request, compile_cache=compile_cache)
    return handed


@pytest.fixture(scope="module")
def taken(sd15: Path) -> Snapshot:
    """Of the model, for all of `NAMES`."""
    return take(str(sd15), SnapshotOptions(targets=NAMES))


@pytest.fixture(scope="module")
def compile_cache() -> CompileCache:
    return CompileCache()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_snapshot_is_of_what_is_compiled(
    name: str,
    taken: Snapshot,
    compile_cache: CompileCache,
    sd15: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prints = {graph.name: graph for graph in taken.graphs if name in graph.targets}
    handed = compiled(name, sd15, tmp_path, compile_cache, monkeypatch)
    assert {graph: prints[graph].op_types for graph in handed} == handed
    assert any(graph.rewrites for graph in prints.values()) or not any(
        rewrite.on for rewrite in targets.get(name).requirements.rewrites
    )


@pytest.mark.slow
def test_a_rewrite_that_matches_no_more_is_named(sd15: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = take(str(sd15), PART)
    rewrites = {graph.form: graph.rewrites for graph in before.graphs}
    assert "sub-pixel-conv" in rewrites["openvino"]

    def nothing(self: Any, model: ir.Model) -> ir.passes.PassResult:
        return ir.passes.PassResult(model, False)

    monkeypatch.setattr("targets.rewrites.sub_pixel_conv.SubPixelConvPass.call", nothing)
    changes = diff.diff(before, take(str(sd15), PART))
    first = next(change for change in changes if change.kind == "rewrites")
    assert first.text == "the rewrite sub-pixel-conv finds nothing any more"
    assert set(first.forms) == {"onnxruntime", "openvino"}
    assert "the rewrite sub-pixel-conv finds nothing any more" in "\n".join(report.lines(changes))


def test_targets_share_a_form_only_where_their_roads_are_equal() -> None:
    every = forms(targets.names())
    assert len({form.road for form in every}) == len(every)
    assert {name for form in every for name in form.targets} == set(targets.names())
    for form in every:
        for name in form.targets:
            requirements = targets.get(name).requirements
            assert form.road.passes == requirements.passes
            assert [r.name for r in form.road.rewrites] == [
                r.name for r in requirements.rewrites if form.road.precision in r.on
            ]
    assert dataclasses.replace(every[0].road, precision="bf16") != every[0].road
