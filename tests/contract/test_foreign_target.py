"""A target that nothing of ours names does all that ours do: it is listed, compiled for, checked, run and watched."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from PIL import Image

from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import DimRange
from artifacts.verification import Artifact, open_artifact
from compiler.build import compile
from compiler.capture.declared_sizes import SizeRange
from compiler.compile_request import CompileRequest
from compiler.evidence.recheck import recheck
from compiler.road import chosen
from compiler.snapshot.golden_snapshot import read
from latentc.cli import main
from targets import target_table as targets

HERE = Path(__file__).resolve()
PACKAGES = ("latentc", "bench", "compiler", "runtimes", "targets", "artifacts")
FILE, NAME, REWRITE = "foreign_target", "abacus", "log-softmax"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as pip leaves it: one module, and beside it what registers it."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(HERE.with_name(f"{FILE}.py"), folder)
    about = folder / f"{FILE}-1.0.dist-info"
    about.mkdir()
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: {FILE}\nVersion: 1.0\n",
        "entry_points.txt": f"[latentc.targets]\n{NAME} = {FILE}:TARGET\n"
        f"[latentc.sessions]\n{NAME} = {FILE}:SESSION\n",
    }
    for name, text in files.items():
        (about / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is on this process's path; what it starts takes the path over."""
    monkeypatch.syspath_prepend(str(site))


@pytest.fixture(scope="module")
def artifact(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """`shapes`, compiled by the command in a process of its own."""
    folder = tmp_path_factory.mktemp("compiled")
    path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", "latentc", "compile", "shapes", "out", "--target", NAME, "--label", "beads"],
        cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return open_artifact(folder / "out")


@pytest.fixture
def latentc(capsys: pytest.CaptureFixture[str]) -> Any:
    """What a command prints."""

    def run(*args: object) -> str:
        with pytest.raises(SystemExit) as stop:
            main([str(arg) for arg in args])
        printed = capsys.readouterr()
        assert stop.value.code == 0, printed.err
        return printed.out

    return run


def test_nothing_of_ours_names_it() -> None:
    files = [file for package in PACKAGES for file in (HERE.parents[2] / package).rglob("*.py")]
    assert len(files) > 100
    for text in (NAME, REWRITE, FILE):
        assert not [file for file in files if text in file.read_text(encoding="utf-8")]


def test_it_is_listed_with_its_option(latentc: Any) -> None:
    listed = {target["name"]: target for target in json.loads(latentc("targets", "--json"))}
    assert list(listed) == [*targets.TARGETS, NAME]
    assert listed[NAME]["available"] and listed[NAME]["computes"] == {"cpu": ["fp32"]}
    (option,) = listed[NAME]["options"]
    assert option == {"name": "label", "default": "", "help": "text that the artifact keeps with each graph."}


def test_its_opset_is_what_it_gets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    target = targets.get(NAME)
    monkeypatch.setattr(
        type(target), "requirements", dataclasses.replace(target.requirements, opset=(17, 20))
    )
    side = DimRange(min=32, max=32)
    request = CompileRequest("shapes", tmp_path / "out", NAME, size=SizeRange(side, side), check="none")
    with pytest.raises(
        LatentcError, match=r"'abacus' takes graphs of opset 17 to 20; '\w+' is of opset 21\."
    ):
        compile(request)
    assert not (tmp_path / "out").exists()


def test_its_rewrites_are_its_own() -> None:
    target = targets.get(NAME)
    assert [rewrite.name for rewrite in chosen(target, "fp16")] == [REWRITE]
    assert chosen(target, "fp16", "none") == ()
    with pytest.raises(UsageError, match=f"no rewrite 'pad-heads' .it has: {REWRITE}, or none alone"):
        chosen(target, "fp16", "pad-heads")


def test_a_snapshot_is_of_what_is_compiled(latentc: Any, artifact: Artifact, tmp_path: Path) -> None:
    file = tmp_path / "shapes.graph"
    assert NAME in latentc("graph", "snapshot", "shapes", "--target", NAME, "-o", file)
    prints = {graph.name: graph for graph in read(file).graphs if NAME in graph.targets}
    for record in artifact.manifest.graphs:
        model = ir.load(artifact.root / record.model_file)
        operators = Counter(f"{node.domain}.{node.op_type}".removeprefix(".") for node in model.graph)
        assert prints[record.folder].op_types == operators
        assert prints[record.folder].rewrites == record.rewrites
        assert bool(record.rewrites) == bool(operators["LogSoftmax"]) and not operators["Softmax"]
    assert prints["unet"].rewrites == (REWRITE,)
    assert "unet (abacus)" in latentc("graph", "show", file, "--graph", "unet", "--form", NAME)


def test_inspect_shows_what_it_made(latentc: Any, artifact: Artifact) -> None:
    shown = latentc("inspect", artifact.root)
    assert f"{NAME}, device auto, weights in fp16" in shown
    for graph in artifact.manifest.graphs:
        assert not graph.rewrites or f"rewritten {graph.folder}: {REWRITE}" in shown
        assert f"built     {graph.folder}: label beads" in shown


def test_its_tolerance_is_what_a_graph_is_held_to(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {found.tolerance for graph in artifact.manifest.graphs for found in graph.evidence} == {8e-3}
    target = targets.get(NAME)
    strict = dataclasses.replace(target.requirements, tolerance={"fp16": 1e-9, "fp32": 1e-9})
    monkeypatch.setattr(type(target), "requirements", strict)
    with pytest.raises(LatentcError, match="at most 1e-09 is allowed in fp16"):
        recheck(artifact)


def test_it_draws(latentc: Any, artifact: Artifact, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    prompt = "a large red circle at the left on a blue background"
    latentc("generate", artifact.root, prompt, "--steps", 8, "--guidance", 3, "--seed", 7, "-o", picture)
    with Image.open(picture) as image:
        small = image.convert("RGB").resize((8, 8))
    circle, ground = small.getpixel((2, 4)), small.getpixel((7, 0))
    assert circle[0] > 150 > circle[2] and ground[2] > 150 > ground[0]
