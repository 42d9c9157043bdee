"""What a manifest says of a measurement that did not happen: that, and never a figure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from artifacts.errors import LatentcError
from artifacts.evidence_records import Evidence, PictureEvidence
from artifacts.manifest import WeightRecord
from artifacts.manifest_reading import parse_manifest
from latentc import evidence as words
from tests.latentc.artifacts_made import made

DRAWN = {"prompts": 8, "steps": 20, "psnr": 40.0, "worst_psnr": 38.0, "ssim": 0.99, "worst_ssim": 0.98}


@pytest.mark.parametrize(
    "changes",
    [
        {"check": "quick", "error": {}},
        {"check": "full", "error": {}, "tolerance": 0.01},
        {"check": "not measured", "error": {"out": 0.0}},
        {"check": "not measured", "broken": "out not finite", "error": {}},
        {"check": "quick", "error": {"out": -0.1}},
    ],
)
def test_evidence_is_a_figure_or_says_that_there_is_none(tmp_path: Path, changes: dict[str, object]) -> None:
    manifest = json.loads(made(tmp_path).model_dump_json())
    manifest["graphs"][0]["evidence"] = [changes]
    with pytest.raises(LatentcError, match=r"is damaged, at 'graphs\.0\.evidence\.0"):
        parse_manifest(json.dumps(manifest).encode(), "latentc.json")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_no_figure_is_a_number_that_is_none(tmp_path: Path, number: str) -> None:
    text = made(tmp_path).model_dump_json().replace("0.0012", number)
    with pytest.raises(LatentcError):
        parse_manifest(text.encode(), "latentc.json")


def test_without_figures_evidence_prints_none() -> None:
    assert words.line(Evidence(check="not measured", reason="it takes 9 GB")) == "not measured: it takes 9 GB"
    assert words.lines(()) == "not measured" and not words.is_measured(())


def test_pictures_that_were_not_drawn_have_no_numbers(tmp_path: Path) -> None:
    nothing = PictureEvidence(reason="--pictures 0")
    assert {name for name, value in nothing if value is not None} == {"compute", "reason"}
    assert words.pictures_line(nothing) == "Pictures beside PyTorch's: not measured (--pictures 0)."
    for name in DRAWN:
        assert "not measured" in words.pictures_line(PictureEvidence(**{**DRAWN, name: None}))
    assert "PSNR 40.0 dB" in words.pictures_line(PictureEvidence(**DRAWN))
    old = made(tmp_path).model_dump(mode="json")
    old["pictures"] = [{"prompts": 0, "steps": 0, "width": 0, "height": 0, "reason": "it takes too long"}]
    (read,) = parse_manifest(json.dumps(old).encode(), "latentc.json").pictures
    assert read == PictureEvidence(reason="it takes too long"), "as earlier manifests have it"


def test_a_recipe_that_quantizes_nothing_has_no_bits(tmp_path: Path) -> None:
    manifest = made(tmp_path)
    assert words.quantized_line(manifest) == "Quantized: 0 weights with 0 parameters."
    weight = WeightRecord(key="w", scheme="int8", parameters=8, bytes=8, error=0.01)
    graph = manifest.graphs[0].model_copy(update={"weights": (weight,)})
    line = words.quantized_line(manifest.model_copy(update={"graphs": (graph,)}))
    assert line == "Quantized: 1 weights with 8 parameters, 8.00 bits each."
