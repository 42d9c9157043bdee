"""Manifests that are damaged, hostile, older or newer: what is read, and what is said of what is not."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import LatentcError
from artifacts.manifest import MANIFEST_NAME, SCHEMA_VERSION
from artifacts.manifest_reading import read_manifest, split_class_path
from artifacts.verification import open_artifact, verify
from tests.artifacts.manifest_files import edit_manifest

MODEL = "unet/model.onnx"


def edit(artifact: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Of a schema without a digest, which is read as before."""

    def older(value: dict[str, Any]) -> None:
        value |= {"schema_version": min(value["schema_version"], 2), "digest": ""}
        change(value)

    edit_manifest(artifact, older)


def damaged(artifact: Path, message: str) -> LatentcError:
    with pytest.raises(LatentcError, match=message) as caught:
        verify(artifact)
    with pytest.raises(LatentcError, match=message):
        open_artifact(artifact)
    assert MANIFEST_NAME in caught.value.message
    return caught.value


def test_no_manifest(artifact: Path, tmp_path: Path) -> None:
    (artifact / MANIFEST_NAME).unlink()
    assert "latentc compile" in damaged(artifact, "no latentc artifact").hint
    damaged(artifact / MODEL, "is not a folder")
    damaged(tmp_path / "nowhere", "does not exist")


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
def test_a_manifest_that_is_a_link(artifact: Path, tmp_path: Path) -> None:
    (artifact / MANIFEST_NAME).rename(tmp_path / "elsewhere")
    (artifact / MANIFEST_NAME).symlink_to(tmp_path / "elsewhere")
    damaged(artifact, "not a plain file")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not valid JSON"),
        (b"\xff{}", "not valid JSON"),
        (b"[]", "no JSON object"),
        (b'{"a": 1, "a": 1}', "the key 'a' is there twice"),
        (b'{"a": {"b": 1, "c": 2, "b": 3}}', "the key 'b' is there twice"),
        (b'{"a": NaN}', "NaN is not"),
        (b'{"a": [-1e999]}', "-1e999 is larger than any number"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b"[" * 200_000, "too deep"),
        (b'{"a": ' + b"9" * 10_000 + b"}", r"not valid JSON|damaged"),
        (b"{}", "damaged, at '[a-z_]+': Field required"),
    ],
)
def test_a_manifest_that_does_not_parse(artifact: Path, data: bytes, message: str) -> None:
    (artifact / MANIFEST_NAME).write_bytes(data)
    damaged(artifact, message)


def test_a_duplicate_key_is_refused_though_the_last_one_is_right(artifact: Path) -> None:
    path = artifact / MANIFEST_NAME
    path.write_text(path.read_text().replace("{", '{"target": "evil", ', 1))
    damaged(artifact, "the key 'target' is there twice")


def test_a_figure_that_is_too_large_for_a_number_is_none(artifact: Path) -> None:
    edit(artifact, lambda value: value["graphs"][0]["evidence"][0].update(error={"sample": 0.125}))
    path = artifact / MANIFEST_NAME
    path.write_text(path.read_text().replace("0.125", "1e999", 1))
    damaged(artifact, "1e999 is larger than any number")


def test_any_bit_of_a_published_manifest_counts(artifact: Path) -> None:
    """White space too, and each digit of the digest itself."""
    path = artifact / MANIFEST_NAME
    data = path.read_bytes()
    assert read_manifest(artifact).schema_version == 3
    flips = random.Random(7).sample(range(len(data) * 8), 400)
    start = data.index(b'"digest"') * 8
    for bits in (*((flip,) for flip in flips), *((at, at + 1) for at in range(start, start + 90 * 8, 5))):
        changed = bytearray(data)
        for bit in bits:
            changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(LatentcError, match=re.escape(MANIFEST_NAME)):
            read_manifest(artifact)
    path.write_bytes(data + b"\n")
    damaged(artifact, "its content is not what the digest in it was made of")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("digest"), "the digest is missing"),
        (lambda m: m.update(digest=""), "the digest is missing"),
        (lambda m: m.update(schema_version=2), "schema version 2 has no digest"),
        (lambda m: m.update(schema_version=1), "schema version 1 has no digest"),
    ],
)
def test_a_digest_is_of_version_3_and_of_no_other(
    artifact: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit_manifest(artifact, change)
    damaged(artifact, message)


def test_an_author_may_change_a_manifest_with_its_digest(artifact: Path) -> None:
    edit_manifest(artifact, lambda m: m.update(created="another day"))
    assert verify(artifact) == ()
    assert read_manifest(artifact).created == "another day"


def test_a_newer_schema_names_its_maker(artifact: Path) -> None:
    def newer(value: dict[str, Any]) -> None:
        value["schema_version"] = SCHEMA_VERSION + 1
        value["toolchain"]["latentc"] = "3.4.0"
        value["something"] = "new"

    edit(artifact, newer)
    error = damaged(artifact, f"has schema version {SCHEMA_VERSION + 1} and was made by latentc 3.4.0")
    assert error.hint == 'Upgrade: pip install "latentc>=3.4.0"'


def test_a_manifest_of_version_1_is_read_and_its_evidence_is_of_no_known_type(artifact: Path) -> None:
    def older(value: dict[str, Any]) -> None:
        value["schema_version"] = 1
        for graph in value["graphs"]:
            graph["evidence"] = {"check": "quick", "error": {"out": 0.001}, "tolerance": 0.01, "reason": ""}
        value["pictures"] = {"prompts": 8, "psnr": 41.25}

    edit(artifact, older)
    manifest = read_manifest(artifact)
    assert manifest.schema_version == 2
    assert not manifest.digest
    for graph in manifest.graphs:
        (evidence,) = graph.evidence
        assert (evidence.check, evidence.error) == ("quick", {"out": 0.001})
        assert (evidence.compute, evidence.device) == ("", "")
    assert [(pictures.psnr, pictures.compute) for pictures in manifest.pictures] == [(41.25, "")]
    edit(artifact, lambda value: value.update(pictures=None))
    assert read_manifest(artifact).pictures == ()
    edit(artifact, lambda value: value["graphs"][0]["evidence"].update(surplus=1))
    damaged(artifact, "Extra inputs")


def test_nesting_that_is_valid_json_and_too_deep_for_a_manifest(artifact: Path) -> None:
    node: dict[str, Any] = {"kind": "const", "value": 1}
    for _ in range(300):
        node = {"kind": "list", "items": [node]}
    edit(artifact, lambda value: value["components"][0]["methods"][0]["arguments"].update(x=node))
    damaged(artifact, "nested too deep")


def set_path(value: dict[str, Any], path: str, new: Any) -> None:
    steps = [int(step) if step.isdigit() else step for step in path.split(".")]
    target: Any = value
    for step in steps[:-1]:
        target = target[step]
    target[steps[-1]] = new


@pytest.mark.parametrize(
    ("path", "new", "message"),
    [
        ("schema_version", 0, "schema_version"),
        ("surplus", 1, "'surplus': Extra inputs"),
        ("files.0.size", "7", "'files.0.size': Input should be a valid integer"),
        ("files.0.size", -1, "'files.0.size': Input should be greater than or equal to 0"),
        ("files.0.size", 1 << 60, "files.0.size: .* is no size"),
        ("files.0.sha256", "0" * 63, "files.0.sha256"),
        ("files.0.sha256", "A" * 64, "files.0.sha256"),
        ("files.0.path", "../secret", r"files.0.path: '../secret' holds the segment '..'"),
        ("files.0.path", "/etc/passwd", "is absolute"),
        ("files.0.path", "C:/x", "names a drive"),
        ("files.0.path", "a\\b", "holds a backslash"),
        ("files.0.path", "a\x00b", "control character"),
        ("files.0.path", "a\x1b[31m", r"'a\\x1b\[31m' holds a control character"),
        ("files.0.path", "unet/NUL", "a device on Windows"),
        ("files.0.path", MODEL, "are one file"),
        ("files.0.path", "UNET/Model.onnx", "are one file"),
        ("files.0.path", MANIFEST_NAME, "are one file"),
        ("files.0.path", "unet/model.onnx/x", "are one file"),
        ("source.weights.0.sha256", "", "source.weights.0.sha256"),
        ("graphs.0.folder", "..", "graphs.0.folder"),
        ("graphs.0.folder", "vae_decoder", "two graphs have one folder"),
        ("graphs.0.model_file", "unet/other.onnx", "not a listed file"),
        ("graphs.0.model_file", "vae_decoder/model.onnx", "not a listed file of the graph's folder"),
        ("graphs.0.dims.height.min", 65, "65..64 is no range"),
        ("sizes.height.min", -1, "sizes.'height': -1..512"),
        ("components.0.name", "vae_decoder", "two components have one name"),
        ("components.0.config", "../config.json", "components.0.config"),
        ("components.0.residual", "missing.safetensors", "components.0.residual"),
        ("components.0.class_path", "os:system", r"'os:system' is not a class of a trusted library"),
        ("components.0.methods.0.graph", "nowhere", "no graph with the folder 'nowhere'"),
        ("components.0.methods.0.result.class_path", "subprocess:Popen", "components.0.methods.0: .*trusted"),
        (
            "components.0.methods.0.arguments.sample.items.1.class_path",
            "subprocess:Popen",
            "components.0.methods.0: .*trusted",
        ),
        ("pipelines.text-to-image", "diffusers.pipelines.os.system", "is not a class path"),
        (
            "graphs.0.evidence.0.error",
            {"sample": -0.1},
            "'graphs.0.evidence.0.error.sample': .* or equal to 0",
        ),
        ("graphs.0.evidence.0.tolerance", "nan", "'graphs.0.evidence.0.tolerance': "),
        ("pictures", [{"psnr": "inf"}], "'pictures.0.psnr': "),
        ("sizes.height.max", 800_000, "sizes.'height': 800000 is more than"),
        (
            "sizes",
            {side: {"min": 60_000, "max": 60_000} for side in ("height", "width")},
            "sizes: the smallest pictures have more than",
        ),
        (
            "graphs.0.inputs",
            [{"name": "x", "dtype": "save", "shape": []}],
            "graphs.0.inputs.0.dtype: 'save' is no type",
        ),
        (
            "graphs.0.inputs",
            [{"name": "x", "dtype": "object", "shape": []}],
            "graphs.0.inputs.0.dtype: 'object' is no type",
        ),
        (
            "graphs.0.outputs",
            [{"name": "x", "dtype": "int8", "shape": [1] * 17}],
            "graphs.0.outputs.0.shape: is no shape",
        ),
        (
            "graphs.0.outputs",
            [{"name": "x", "dtype": "int8", "shape": [-1]}],
            "graphs.0.outputs.0.shape: is no shape",
        ),
        ("graphs.0.parameters", 10**300, "a whole number of 997 bits is no figure"),
        ("toolchain", {"a": ["b"] * 2_100_000}, "holds more than 2000000 values"),
    ],
)
def test_a_manifest_that_does_not_hold(artifact: Path, path: str, new: Any, message: str) -> None:
    edit(artifact, lambda value: set_path(value, path, new))
    error = damaged(artifact, message)
    assert error.hint.startswith(("Compile", "Upgrade")) or "values" in message or "figure" in message


@pytest.mark.parametrize(
    "path",
    ["", "diffusers", "diffusers:a.b", "diffusers:", ":x", "diffusers.:x", "diffusers..a:x", "diffusers:x ",
     "diffusers:x\n", "diffusersx:x", "Diffusers:x", "os.diffusers:x", "transformers/x:y"],
)  # fmt: skip
def test_class_paths_that_are_refused(path: str) -> None:
    with pytest.raises(LatentcError):
        split_class_path(path)


def test_class_paths_that_are_not() -> None:
    assert split_class_path("transformers:CLIPTextModel") == ("transformers", "CLIPTextModel")
    assert split_class_path("diffusers.models.x:_Y2") == ("diffusers.models.x", "_Y2")
