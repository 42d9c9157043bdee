"""The bill of materials says what the manifest says, in CycloneDX's words."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from artifacts.evidence_records import Evidence, PictureEvidence
from artifacts.manifest import FileRecord, Source
from latentc.bill_of_materials import bill_of_materials
from tests.latentc.artifacts_made import made


@pytest.fixture
def source() -> Source:
    weights = (FileRecord(path="unet/model.safetensors", sha256="b" * 64, size=7),)
    return Source(id="someone/a-model", revision="a" * 40, license="apache-2.0", weights=weights)


def test_a_bill(latentc: Any, tmp_path: Path, source: Source) -> None:
    drawn = PictureEvidence(compute="bf16", prompts=4, steps=20, psnr=41.25, ssim=0.99)
    manifest = made(tmp_path / "out", source=source, digest="", pictures=(drawn,), parent="c" * 64)
    ended = latentc("bom", tmp_path / "out", "-o", tmp_path / "bom.json")
    assert ended.code == 0, ended.err
    text = (tmp_path / "bom.json").read_text(encoding="utf-8")
    assert latentc("bom", tmp_path / "out").out == text == bill_of_materials(manifest)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bom = json.loads(text)
    artifact = bom["metadata"]["component"]
    hashes = {file["name"]: file["hashes"][0]["content"] for file in artifact["components"]}
    assert hashes == {file.path: file.sha256 for file in manifest.files}
    properties = {each["name"]: each["value"] for each in artifact["properties"]}
    assert properties["latentc:parent"] == "c" * 64
    metrics = artifact["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert metrics[0]["value"] == "0.0012" and metrics[0]["slice"] == "unet, fp32 on cpu"
    assert [m["value"] for m in metrics[1:]] == ["41.25", "0.99"]
    parts = {part["bom-ref"]: part for part in bom["components"]}
    model = parts["model"]
    assert model["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert model["purl"] == f"pkg:huggingface/someone/a-model@{'a' * 40}"
    assert model["components"][0]["hashes"] == [{"alg": "SHA-256", "content": "b" * 64}]
    assert parts["tool/click"]["version"] == "0.0.1"
    (depends,) = (entry for entry in bom["dependencies"] if entry["ref"] == "artifact")
    assert set(depends["dependsOn"]) == set(parts)


def test_where_it_is_written(latentc: Any, tmp_path: Path, source: Source, monkeypatch) -> None:
    made(tmp_path / "out", source=source)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    for place in ("", ".", tmp_path / "file" / "x", tmp_path / "none" / "x"):
        ended = latentc("bom", tmp_path / "out", "-o", place)
        assert ended.code == 1 and "cannot be written" in ended.err
    longest = tmp_path / ("n" * 250 + ".json")
    assert latentc("bom", tmp_path / "out", "-o", longest).code == 0
    assert json.loads(longest.read_text("utf-8"))["bomFormat"] == "CycloneDX"


def test_what_was_not_measured_has_no_figure(tmp_path: Path, source: Source) -> None:
    manifest = made(tmp_path / "out", source=source.model_copy(update={"license": "flux-1-dev"}))
    graph = manifest.graphs[0].model_copy(update={"evidence": (Evidence(check="not measured", reason="x"),)})
    nothing = manifest.model_copy(update={"graphs": (graph,), "pictures": (PictureEvidence(reason="x"),)})
    bom = json.loads(bill_of_materials(nothing))
    assert bom["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"] == []
    (model,) = (part for part in bom["components"] if part["bom-ref"] == "model")
    assert model["licenses"] == [{"license": {"name": "flux-1-dev"}}]  # no SPDX identifier
    unknown = manifest.model_copy(update={"source": Source(id="shapes", weights=()), "created": ""})
    (model,) = (p for p in json.loads(bill_of_materials(unknown))["components"] if p["bom-ref"] == "model")
    assert "licenses" not in model and "purl" not in model


def test_without_the_library_it_is_said_what_to_install(latentc: Any, tmp_path: Path, monkeypatch) -> None:
    made(tmp_path / "out")
    monkeypatch.setitem(sys.modules, "cyclonedx.validation.json", None)
    ended = latentc("bom", tmp_path / "out")
    assert ended.code == 1 and 'pip install "latentc[bom]"' in ended.err
