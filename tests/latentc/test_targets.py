"""`latentc targets`: every target is listed, also one that cannot be used here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from latentc.cli import main
from targets import target_table
from targets.target_contract import Availability, Requirements


@dataclass(frozen=True)
class Options:
    """Options of the target "missing".

    Attributes:
        depth: how deep it goes,
            in steps.
        width: how wide.
    """

    depth: int = 3
    width: int = 1


@pytest.fixture
def missing(monkeypatch):
    """A target whose package is not here."""
    target = SimpleNamespace(
        name="missing",
        summary="a vendor that is not here",
        options=Options,
        requirements=Requirements((17, 21), frozenset({"bf16", "fp32"}), "strong", frozenset(), (), False),
        available=lambda: Availability(False, "the package 'vendor' is not installed", "pip install vendor"),
    )
    monkeypatch.setitem(target_table.TARGETS, "missing", "missing:TARGET")
    real = target_table.get
    monkeypatch.setattr(target_table, "get", lambda name: target if name == "missing" else real(name))


def test_our_targets_are_listed(latentc):
    ended = latentc("targets")
    assert ended.code == 0
    for name in target_table.TARGETS:
        assert name in ended.out
    assert max(map(len, ended.out.splitlines())) <= 100


def test_a_missing_one_stays_with_reason_and_command(latentc, missing):
    out = " ".join(latentc("targets").out.split())
    assert "missing" in out
    assert "no: the package" in out
    assert "pip install vendor" in out


def test_json_tells_scripts_the_options(latentc, missing):
    found = {row["name"]: row for row in json.loads(latentc("targets", "--json").out)}
    assert set(found) == set(target_table.TARGETS)
    assert found["missing"]["available"] is False
    assert found["missing"]["precisions"] == ["fp32", "bf16"]
    assert found["missing"]["options"] == [
        {"name": "depth", "default": 3, "help": "how deep it goes, in steps."},
        {"name": "width", "default": 1, "help": "how wide."},
    ]
    assert found["onnxruntime"]["available"] is True
    assert "cpu" in found["onnxruntime"]["devices"]
    assert found["onnxruntime"]["toolchain"]["onnxruntime"]


def test_a_targets_options_are_the_commands_own(latentc):
    out = latentc("compile", "--target", "tensorrt", "--help").out
    assert "--gpu" in out
    assert "--builder" in out
    assert "--builder" not in latentc("compile", "--target", "onnxruntime", "--help").out


@pytest.mark.parametrize("given", [("--fix", "batch"), ("--fix=batch",), ("-o", "fix=batch")])
def test_an_option_reaches_the_target(latentc, monkeypatch, tmp_path, given):
    seen = []
    monkeypatch.setattr(
        "compiler.build.compile", lambda request, *_: seen.append(dict(request.options)) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        main(["compile", "shapes", str(tmp_path / "out"), "--target", "onnxruntime", *given])
    assert seen == [{"fix": "batch"}]


def test_an_option_of_another_target(latentc, tmp_path):
    ended = latentc("compile", "shapes", tmp_path / "out", "-t", "onnxruntime", "--gpu", "sm89")
    assert ended.code == 2
    assert "--gpu" in ended.err
