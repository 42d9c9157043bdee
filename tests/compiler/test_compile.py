"""Whole compiles of a tiny model: one that goes on after an interrupted one, and one that is not PyTorch's."""

from __future__ import annotations

import pytest

from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import DimRange
from artifacts.progress import Event
from artifacts.verification import open_artifact, verify
from compiler import build
from compiler.capture.split import NotOneGraph, Submodule
from tests.compiler.made import request

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_checker")]


class Stopped(BaseException):
    """As a Ctrl-C: no error of ours."""


def test_a_run_takes_up_the_parts_of_an_interrupted_one(sd15, tmp_path):
    pytest.importorskip("onnxruntime")
    out = tmp_path / "out"
    first: list[Event] = []

    def stop(event: Event) -> None:
        first.append(event)
        if event == Event("unet: exporting the graph", 1, 1):
            raise Stopped

    wanted = request(out, model=str(sd15))
    with pytest.raises(Stopped):
        build.compile(wanted, stop)
    assert not out.exists()
    assert Event("text_encoder: exporting the graph", 1, 1) in first

    second: list[Event] = []
    plans = []
    artifact = build.compile(wanted, second.append, plans.append)
    tasks = [event.task for event in second]
    assert Event("text_encoder: reused from an earlier run", 1, 1) in second
    assert "text_encoder: exporting the graph" not in tasks
    assert "unet: exporting the graph" in tasks and "vae_decoder: exporting the graph" in tasks
    assert artifact.root == out and verify(out) == ()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]

    manifest = open_artifact(out).manifest
    assert [g.folder for g in manifest.graphs] == ["text_encoder", "unet", "vae_decoder"]
    assert {each.reason for g in manifest.graphs for each in g.evidence} == {"--check none"}
    assert {name: r.model_dump() for name, r in manifest.sizes.items()} == {
        "height": {"min": 32, "max": 32, "step": 1},
        "width": {"min": 32, "max": 32, "step": 1},
        "batch": {"min": 1, "max": 1, "step": 1},
    }
    assert manifest.pipelines["text-to-image"].endswith(":StableDiffusionPipeline")
    assert {w.path.split("/")[0] for w in manifest.source.weights} == {"text_encoder", "unet", "vae"}
    planned = {row.folder: row for row in plans[0].components}
    for graph in manifest.graphs:
        row = planned[graph.folder]
        assert row.parameters == graph.parameters
        # Folded constants and shapes are more, never less.
        assert row.bytes <= sum(graph.schemes.values()) <= row.bytes * 1.1 + 100_000
    with pytest.raises(UsageError, match="exists"):
        build.compile(wanted)


def test_the_plan_is_told_once_and_what_is_split_later_in_a_note(sd15, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    errors = [NotOneGraph(Submodule("text_encoder"), "'text_encoder.forward' cannot be one graph.")]
    run = build._Jobs.run

    def split_first(jobs, *args):
        if errors:
            raise build.NotGraphs([errors.pop()])
        return run(jobs, *args)

    monkeypatch.setattr(build._Jobs, "run", split_first)
    plans, events = [], []
    artifact = build.compile(request(tmp_path / "out", model=str(sd15)), events.append, plans.append)
    assert len(plans) == 1 and not plans[0].notes
    (note,) = [event.task for event in events if "Python between them" in event.task]
    graphs = [graph.folder for graph in artifact.manifest.graphs if graph.folder.startswith("text_encoder")]
    assert note == (
        f"text_encoder: {len(graphs)} graphs with CLIPTextModel's own Python between them. 'text_encoder.forward' "
        "cannot be one graph."
    )


def test_a_graph_with_other_weights_fails_and_nothing_appears(sd15, tmp_path, monkeypatch):
    """The files that were written are checked, with the weights in them, against the model's own."""
    pytest.importorskip("onnxruntime")
    from targets.onnxruntime.target import OnnxRuntime

    lower = OnnxRuntime.lower

    def tampered(self, graph, options, out_dir, *rest):
        done = lower(self, graph, options, out_dir, *rest)
        data = out_dir / "model.onnx_data"
        half = bytearray(data.read_bytes())
        half[len(half) // 2 :] = bytes(len(half) - len(half) // 2)
        data.write_bytes(half)
        return done

    monkeypatch.setattr(OnnxRuntime, "lower", tampered)
    out = tmp_path / "out"
    with pytest.raises(LatentcError, match=r"'text_encoder\.forward' is not PyTorch's: relative error of"):
        build.compile(request(out, model=str(sd15), check="quick"))
    assert not out.exists()


def test_compiles_that_share_what_they_find_make_the_same_artifact(sd15, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    from compiler.export import graph_export
    from compiler.lowering.compile_cache import CompileCache

    exported = []
    original = graph_export.export_graph

    def export_graph(component, method, weights):
        exported.append(method.folder)
        return original(component, method, weights)

    monkeypatch.setattr(graph_export, "export_graph", export_graph)
    compile_cache = CompileCache()
    for name in ("one", "other"):
        build.compile(request(tmp_path / name, model=str(sd15)), compile_cache=compile_cache)
    build.compile(
        request(tmp_path / "larger", model=str(sd15), batch=DimRange(min=1, max=2)),
        compile_cache=compile_cache,
    )
    assert exported == 2 * ["text_encoder", "unet", "vae_decoder"]
    one, other = (open_artifact(tmp_path / name).manifest for name in ("one", "other"))
    assert one.graphs == other.graphs
    assert {(f.path, f.sha256) for f in one.files} == {(f.path, f.sha256) for f in other.files}
