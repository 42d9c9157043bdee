"""What is measured during a compile and after it, run whole: calibration, checks, pictures, the search for a mix."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import LatentcError
from artifacts.hashing import file_record
from artifacts.manifest import GraphRecord, WeightRecord
from artifacts.verification import Artifact, open_artifact, verify
from compiler import auto, build
from compiler.compile_request import CompileRequest
from compiler.evidence.recheck import recheck
from tests.artifacts.manifest_files import edit_manifest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_checker")]

TARGET = "onnxruntime"


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The denoiser with int8 activations, measured with one prompt."""
    pytest.importorskip("onnxruntime")
    out = tmp_path_factory.mktemp("whole") / "out"
    return build.compile(
        CompileRequest(
            "shapes",
            out,
            TARGET,
            quantize="unet=int8-activations",
            pictures=1,
            calibration=("a large red circle at the left on a blue background",),
        )
    )


def graph(artifact: Artifact, folder: str) -> GraphRecord:
    return next(graph for graph in artifact.manifest.graphs if graph.folder == folder)


def test_activations_are_calibrated_and_judged_by_pictures(calibrated: Artifact) -> None:
    import onnx

    unet = graph(calibrated, "unet")
    schemes = {weight.scheme.partition(":")[0] for weight in unet.weights}
    assert "int8-activations" in schemes
    assert max(unet.evidence[0].error.values()) > 1e-3  # rounding is seen
    (pictures,) = calibrated.manifest.pictures
    assert pictures.prompts == 1 and pictures.psnr is not None
    assert 35 < pictures.psnr < 70
    model = onnx.load(calibrated.root / unet.model_file, load_external_data=False)
    quantized = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantized) > 20
    # The ranges were measured, not assumed: no two layers in three share one.
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer
                 if tensor.name in {node.input[1] for node in quantized}}  # fmt: skip
    assert len({float(scale) for scale in constants.values()}) > len(constants) / 3


def test_numbers_are_measured_again(calibrated: Artifact) -> None:
    again = recheck(calibrated)
    assert set(again) == {graph.folder for graph in calibrated.manifest.graphs}
    for folder, (evidence,) in again.items():
        (first,) = graph(calibrated, folder).evidence
        assert evidence.check == "quick" and evidence.tolerance == first.tolerance
        for name, error in evidence.error.items():
            assert error == pytest.approx(first.error[name], rel=0.5, abs=1e-6)


def test_other_weights_are_not_pytorchs(calibrated: Artifact, tmp_path: Path) -> None:
    """An artifact whose hashes are right and whose weights are not."""
    import shutil

    root = tmp_path / "out"
    shutil.copytree(calibrated.root, root)
    data = root / "vae_decoder" / "model.onnx_data"
    content = bytearray(data.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    data.write_bytes(content)
    record = file_record(root, data).model_dump()

    def listed_as_it_is(manifest: dict[str, Any]) -> None:
        manifest["files"] = [record if file["path"] == record["path"] else file for file in manifest["files"]]

    edit_manifest(root, listed_as_it_is)
    assert verify(root) == ()
    pytest.importorskip("polygraphy")
    with pytest.raises(LatentcError, match=r"'vae\.decode' is not PyTorch's") as caught:
        recheck(open_artifact(root), on_findings=lambda findings: None)
    assert "of vae_decoder in fp32 leaves its tolerance first in '" in caught.value.message


def test_a_scheme_that_the_files_are_not_in_gives_no_tolerance(calibrated: Artifact) -> None:
    """A manifest that says so of weights in fp16 would have 0.6 in place of 0.01."""
    graphs = tuple(
        graph.model_copy(
            update={"weights": (WeightRecord(key="w", scheme="int4", parameters=9, bytes=9, error=0.1),)}
        )
        if graph.folder == "vae_decoder"
        else graph
        for graph in calibrated.manifest.graphs
    )
    changed = replace(calibrated, manifest=calibrated.manifest.model_copy(update={"graphs": graphs}))
    with pytest.raises(LatentcError, match="'vae_decoder' is not what its manifest says: .* in int4"):
        recheck(changed)


def test_a_mix_is_found_for_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(auto, "CALLS", 1)
    limit = 8_000_000
    artifact = auto.compile(
        CompileRequest("shapes", tmp_path / "out", TARGET, quantize="auto", pictures=1),
        auto.Budget(max_bytes=limit),
    )
    assert verify(artifact.root) == ()
    size = sum(file.size for file in artifact.manifest.files)
    assert limit * 0.9 < size <= limit
    schemes = {
        weight.scheme.partition(":")[0] for graph in artifact.manifest.graphs for weight in graph.weights
    }
    assert {"int4", "int8"} <= schemes
    (pictures,) = artifact.manifest.pictures
    assert pictures.psnr is not None and pictures.psnr > 30
    # What was measured is kept: the second search measures no weight again.
    assert list((tmp_path / "cache" / "sensitivity").glob("*.json"))
