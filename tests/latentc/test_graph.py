"""`latentc graph`, on snapshots that are made by hand; what takes them has its own tests."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from compiler.snapshot import take as taking
from compiler.snapshot.golden_snapshot import write
from tests.compiler.snapshot.test_module_tree import MODULES
from tests.compiler.snapshot.test_prints import graph, snapshot

CHANGED = snapshot(graph(inputs=("sample float32 [2, 4, 64, 64]", "timestep int64 []")), made_by="torch 3")


@pytest.fixture
def files(tmp_path):
    """Two snapshots, "a" and what it became."""
    write(tmp_path / "a.graph", snapshot())
    write(tmp_path / "b.graph", CHANGED)
    return tmp_path


@pytest.fixture
def taken(monkeypatch):
    """What a model is snapshot to, and with which options."""
    calls = []

    def take(model, options, progress=None):
        calls.append((model, options))
        return replace(CHANGED, options=options.lines())

    monkeypatch.setattr(taking, "take", take)
    return calls


def test_a_diff_says_what_changed_and_fails(latentc, files):
    ended = latentc("graph", "diff", files / "a.graph", files / "b.graph")
    assert ended.code == 1
    assert "2 changes: 1 signature, 1 metadata" in ended.out
    assert "unet: input sample: float32 [batch, 4, 64, 64] -> float32 [2, 4, 64, 64]" in ended.out


def test_equal_snapshots_are_no_failure(latentc, files):
    ended = latentc("graph", "diff", files / "a.graph", files / "a.graph")
    assert (ended.code, "no change" in ended.out) == (0, True)


def test_allowed_classes_are_no_failure(latentc, files):
    write(files / "c.graph", snapshot(made_by="torch 3"))
    ended = latentc("graph", "diff", files / "a.graph", files / "c.graph", "--allow", "metadata")
    assert ended.code == 0
    assert "no change (1 allowed)" in ended.out


def test_classes_that_do_harm_cannot_be_allowed(latentc, files):
    assert latentc("graph", "diff", files / "a.graph", files / "b.graph", "--allow", "casts").code == 2


def test_json_and_annotations(latentc, files):
    found = json.loads(latentc("graph", "diff", files / "a.graph", files / "b.graph", "--format", "json").out)
    assert [row["class"] for row in found["changes"]] == ["signature", "metadata"]
    ended = latentc("graph", "diff", files / "a.graph", files / "b.graph", "--format", "github")
    assert ended.code == 1
    assert ended.out.startswith("::error file=")


def test_a_check_takes_the_same_options_again(latentc, files, taken):
    ended = latentc("graph", "check", "some/where/a", "--golden", files, "--allow", "metadata")
    assert ended.code == 1
    assert taken == [("some/where/a", taking.SnapshotOptions.parse(snapshot().options))]
    assert (files / "a.graph").read_text(encoding="utf-8") == snapshot().text()


def test_update_accepts_what_changed(latentc, files, taken):
    golden = files / "a.graph"
    ended = latentc("graph", "check", "a", "--golden", golden, "--update")
    assert ended.code == 0
    assert "input sample" in ended.out
    assert latentc("graph", "check", "a", "--golden", golden).code == 0


def test_a_golden_file_that_is_not_there(latentc, files, taken):
    ended = latentc("graph", "check", "none", "--golden", files)
    assert ended.code == 1
    assert "latentc graph snapshot MODEL -o" in ended.err
    assert taken == []


def test_a_snapshot_is_written_with_its_options(latentc, tmp_path, taken):
    out = tmp_path / "x.graph"
    ended = latentc(
        "graph", "snapshot", "model", "-o", out, "--size", "256..512", "--batch", "2", "--arg", "a=1",
        "--target", "openvino", "--component", "unet", "--task", "inpaint",
    )  # fmt: skip
    assert ended.code == 0
    lines = out.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("option ")] == [
        "option target openvino",
        "option task inpaint",
        "option size 256..512 256..512",
        "option batch 2..2",
        "option arg a=1",
        "option component unet",
    ]
    assert "unet" in ended.out and "204" in ended.out


def test_show_lists_modules(latentc, tmp_path):
    write(tmp_path / "x.graph", snapshot(graph(modules=MODULES)))
    ended = latentc("graph", "show", tmp_path / "x.graph")
    assert ended.code == 0
    assert "down.0" in ended.out and "50.0 %" in ended.out
    rows = json.loads(latentc("graph", "show", tmp_path / "x.graph", "--json").out)["unet (fp32)"]
    assert rows[0]["flops"] == 100
    assert [row["level"] for row in rows] == [0, 1, 1, 1, 1]
    deeper = json.loads(latentc("graph", "show", tmp_path / "x.graph", "--json", "--depth", "2").out)
    assert "mid.norm" in [row["module"] for row in deeper["unet (fp32)"]]


def test_show_says_what_its_figures_leave_out(latentc, tmp_path):
    write(tmp_path / "known.graph", snapshot(graph(modules=MODULES)))
    write(tmp_path / "x.graph", snapshot())
    assert "at least that" not in latentc("graph", "show", tmp_path / "known.graph").out
    assert "the sizes of 6 operators' results" in latentc("graph", "show", tmp_path / "x.graph").out
    rows = json.loads(latentc("graph", "show", tmp_path / "x.graph", "--json").out)["unet (fp32)"]
    assert rows[0]["unknown"] == 6


def test_a_graph_that_is_not_there_cannot_be_shown(latentc, files):
    ended = latentc("graph", "show", files / "a.graph", "--graph", "vae")
    assert ended.code == 2
    assert "has no graph 'vae' in the form 'fp32' (there are: unet (fp32)" in ended.err
    ended = latentc("graph", "show", files / "a.graph", "--form", "nope")
    assert ended.code == 2
    assert "has no graph in the form 'nope' (there are: unet (fp32)" in ended.err
