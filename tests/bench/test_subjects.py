from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import DimRange, FileRecord, Source
from bench import subjects
from bench.reference import SHAPES_DIR
from compiler.source import open_model
from tests.latentc.artifacts_made import made


def weights(path: str = "unet/w.safetensors", content: bytes = b"w") -> FileRecord:
    return FileRecord(path=path, sha256=hashlib.sha256(content).hexdigest(), size=len(content))


def source(*files: FileRecord) -> Source:
    return Source(id="a-model", weights=files)


def test_names_are_short_and_unique() -> None:
    assert subjects.names(["x/a", "x/b"]) == ("a", "b")
    assert subjects.names(["x/a", "y/a"]) == ("x/a", "y/a")
    assert subjects.names(["x/a", "x/a", "x/b"]) == ("x/a (1)", "x/a (2)", "b")


def test_artifacts_of_one_model(tmp_path: Path) -> None:
    one = made(tmp_path / "1", source=source(weights(), weights("vae/w", b"v")))
    same = made(tmp_path / "2", source=source(weights()))
    changed = made(tmp_path / "3", source=source(weights(content=b"x")))
    strange = made(tmp_path / "4", source=source(weights("other")))
    subjects.same_model(one, "1", same, "2")
    with pytest.raises(LatentcError, match=r"3 of 'a-model': unet/w.safetensors differs"):
        subjects.same_model(one, "1", changed, "3")
    with pytest.raises(LatentcError, match="no weight file is in both"):
        subjects.same_model(one, "1", strange, "4")


def test_the_reference_must_be_what_was_compiled(tmp_path: Path) -> None:
    model = open_model("shapes")
    name = "unet/diffusion_pytorch_model.safetensors"
    content = (SHAPES_DIR / name).read_bytes()
    manifest = made(tmp_path / "1", source=source(weights(name, content)))
    subjects.compiled_from(manifest, "1", model)
    other = bytes([content[0] ^ 1]) + content[1:]
    for wrong in (weights(name, other), weights(name, b"w"), weights("none/w", b"w")):
        manifest = made(tmp_path / "1", source=source(wrong))
        with pytest.raises(LatentcError, match="the reference must be the model that 1 was compiled from"):
            subjects.compiled_from(manifest, "1", model)


def test_the_task_that_all_have(tmp_path: Path) -> None:
    both = made(tmp_path / "1", pipelines={"inpaint": "diffusers:A", "text-to-image": "diffusers:B"})
    one = made(tmp_path / "2", pipelines={"inpaint": "diffusers:A"})
    assert subjects.task_of([both], None) == "text-to-image"
    assert subjects.task_of([one], None) == "inpaint"
    with pytest.raises(UsageError, match="every artifact must have the task 'text-to-image'"):
        subjects.task_of([both, one], None)


def test_an_artifact_of_one_size_sets_it(tmp_path: Path) -> None:
    fixed = made(tmp_path / "1")
    free = made(
        tmp_path / "2", sizes={"width": DimRange(min=64, max=512), "height": DimRange(min=512, max=512)}
    )
    assert subjects.size_of([free, fixed], None) == (512, 512)
    assert subjects.size_of([free], None) is None
    assert subjects.size_of([free, fixed], (64, 512)) == (64, 512)


def test_an_artifacts_bytes_are_its_manifests(tmp_path: Path) -> None:
    manifest = made(tmp_path / "1")
    found = subjects.artifact(str(tmp_path / "1"), "one", "cpu", "text-to-image")
    assert found.bytes == sum(file.size for file in manifest.files)
    assert [file.name for file in found.files] == ["model.onnx", "model.onnx_data", "config.json"]
    assert json.loads(found.command[-1])["device"] == "cpu"


def test_pytorch_gets_the_pipeline_the_parts_and_the_methods_of_the_artifact(tmp_path: Path) -> None:
    stable = {"text-to-image": "diffusers:StableDiffusionPipeline"}
    manifest = made(tmp_path / "1", pipelines=stable)
    found = subjects.pytorch(open_model("shapes"), manifest, "text-to-image")
    given = json.loads(found.command[-1])
    assert given["methods"] == ["unet.forward"]
    assert given["pipeline"] == stable["text-to-image"]
    assert given["variant"] is None
    assert [file.parent.name for file in found.files] == ["unet"]
    assert found.bytes == (SHAPES_DIR / "unet/diffusion_pytorch_model.safetensors").stat().st_size
