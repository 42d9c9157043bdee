from __future__ import annotations

import os
import random
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import LatentcError
from artifacts.manifest import MANIFEST_NAME, SCHEMA_VERSION, FileRecord
from artifacts.manifest_reading import read_manifest, split_class_path
from artifacts.progress import Event
from artifacts.verification import Opening, _content, open_artifact, verify
from tests.artifacts.manifest_files import edit_manifest

MODEL = "unet/model.onnx"
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX file kinds")


def edit(artifact: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Of a schema without a digest, which is read as before."""

    def older(value: dict[str, Any]) -> None:
        value |= {"schema_version": min(value["schema_version"], 2), "digest": ""}
        change(value)

    edit_manifest(artifact, older)


def problems(artifact: Path, **options: bool) -> dict[str, str]:
    return {finding.path: finding.problem for finding in verify(artifact, **options)}


def test_a_sound_artifact(artifact: Path) -> None:
    assert verify(artifact) == verify(artifact, deep=False) == ()
    opened = open_artifact(str(artifact))
    assert opened.root == artifact
    assert opened.manifest.graphs[0].model_file == MODEL
    assert open_artifact(artifact, hashes=False) == opened


def test_progress_counts_every_byte(artifact: Path) -> None:
    events: list[Event] = []
    verify(artifact, progress=events.append)
    total = sum(file.size for file in read_manifest(artifact).files)
    assert events[-1] == Event("verifying", total, total, "bytes")


def refuse(artifact: Path, message: str, hashes: bool = True) -> None:
    with pytest.raises(LatentcError, match=message) as caught:
        open_artifact(artifact, hashes)
    assert "latentc verify" in caught.value.hint


def read(artifact: Path, memory: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Opens it; the names of the files that were read for it."""
    names: list[str] = []

    def noted(path: Path, file: FileRecord, *rest: Any) -> str:
        names.append(file.path)
        return _content(path, file, *rest)

    with monkeypatch.context() as patched:
        patched.setattr("artifacts.verification._content", noted)
        # A file's change of state cannot be dated back.
        patched.setattr("artifacts.verified_before.SETTLED_NS", -(10**18))
        open_artifact(artifact, memory=memory)
    return names


def test_files_are_read_while_the_caller_does_something_else(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several at a time, and told of from the caller's thread alone."""
    together = threading.Barrier(2, timeout=20)
    import artifacts.verification as module

    def noted(path: Path, file: FileRecord, *rest: Any) -> str:
        if path.name == "model.onnx":  # there are two of them
            together.wait()
        return _content(path, file, *rest)

    monkeypatch.setattr(module, "_content", noted)
    tellers = set()
    with Opening(artifact) as opening:
        opened = opening.finish(lambda event: tellers.add(threading.current_thread()))
    assert opened == open_artifact(artifact) and tellers == {threading.main_thread()}


def test_a_caller_that_gives_up_waits_for_no_file(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import artifacts.verification as module

    begun = threading.Event()

    def endless(path: Path, file: FileRecord, info: Any, advance: Callable[[int], None]) -> str:
        begun.set()
        while True:
            advance(0)

    monkeypatch.setattr(module, "_content", endless)
    with pytest.raises(KeyboardInterrupt), Opening(artifact):
        assert begun.wait(20)
        raise KeyboardInterrupt


def test_what_was_compared_and_has_not_changed_is_not_read_again(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tmp_path / "memory"
    listed = [file.path for file in read_manifest(artifact).files]
    assert sorted(read(artifact, memory, monkeypatch)) == sorted(listed)
    assert read(artifact, memory, monkeypatch) == []
    before = (artifact / MODEL).stat()
    data = (artifact / MODEL).read_bytes()
    (artifact / MODEL).write_bytes(data)  # the same again
    os.utime(artifact / MODEL, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert read(artifact, memory, monkeypatch) == [MODEL]
    (artifact / MODEL).write_bytes(data[::-1])  # as long, at another time
    os.utime(artifact / MODEL, ns=(before.st_atime_ns, before.st_mtime_ns + 2))
    for _ in range(2):
        with pytest.raises(LatentcError, match="has SHA-256"):
            read(artifact, memory, monkeypatch)
    # What a person asks to be verified is read, whatever is remembered.
    assert set(problems(artifact)) == {MODEL}


@posix
def test_a_change_that_hides_its_time_is_found(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(artifact, tmp_path / "memory", monkeypatch)
    before = (artifact / MODEL).stat()
    (artifact / MODEL).write_bytes((artifact / MODEL).read_bytes()[::-1])
    os.utime(artifact / MODEL, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(LatentcError, match="has SHA-256"):
        read(artifact, tmp_path / "memory", monkeypatch)


def test_what_is_new_is_not_remembered(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("artifacts.verified_before.SETTLED_NS", 3600 * 10**9)  # on a machine of any speed
    open_artifact(artifact, memory=tmp_path / "memory")
    assert not (tmp_path / "memory").exists()


@pytest.mark.parametrize("text", ["", "[]", '{"unet/model.onnx": 3}', "{", "\udcff"])
def test_a_memory_that_is_damaged_or_cannot_be_written_costs_time_alone(
    text: str, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tmp_path / "memory"
    read(artifact, memory, monkeypatch)
    (kept,) = memory.iterdir()
    kept.write_text(text, encoding="utf-8", errors="surrogateescape")
    assert MODEL in read(artifact, memory, monkeypatch)
    assert read(artifact, memory, monkeypatch) == []
    in_the_way = tmp_path / "a file"
    in_the_way.write_text("")
    assert MODEL in read(artifact, in_the_way, monkeypatch)


def test_changed_content(artifact: Path) -> None:
    path = artifact / MODEL
    path.write_bytes(path.read_bytes()[::-1])
    assert "SHA-256" in problems(artifact)[MODEL]
    refuse(artifact, "SHA-256")
    assert verify(artifact, deep=False) == ()  # which is what deep=False says it does not see


def test_truncated(artifact: Path) -> None:
    path = artifact / MODEL
    path.write_bytes(path.read_bytes()[:-1])
    assert problems(artifact, deep=False) == {MODEL: "has 5 bytes, the manifest says 6"}
    refuse(artifact, "has 5 bytes", hashes=False)


def test_missing(artifact: Path) -> None:
    (artifact / MODEL).unlink()
    assert problems(artifact) == {MODEL: "is listed in the manifest and missing"}
    refuse(artifact, "missing")


@pytest.mark.parametrize("name", ["unet/extra.bin", "unet/new/extra.bin", "scheduler/x.json", "config.json"])
def test_an_unlisted_file_where_loaders_read(artifact: Path, name: str) -> None:
    (artifact / name).parent.mkdir(exist_ok=True)
    (artifact / name).write_text("x")
    assert problems(artifact) == {name: "is not listed in the manifest"}
    refuse(artifact, "not listed")


@pytest.mark.parametrize("name", ["out.png", "images/out.png", "UNET.txt"])
def test_an_unlisted_file_elsewhere_may_lie_there_when_run(artifact: Path, name: str) -> None:
    (artifact / name).parent.mkdir(exist_ok=True)
    (artifact / name).write_text("x")
    assert problems(artifact) == {name: "is not listed in the manifest"}
    open_artifact(artifact)


def test_litter_of_file_managers_is_passed_over(artifact: Path) -> None:
    (artifact / "unet" / ".DS_Store").write_text("x")
    assert verify(artifact) == ()


@posix
def test_symbolic_links(artifact: Path, tmp_path: Path) -> None:
    path = artifact / MODEL
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert problems(artifact) == {MODEL: "is a link, not a file"}
    refuse(artifact, "is a link", hashes=False)


@posix
def test_a_folder_that_is_a_symbolic_link(artifact: Path, tmp_path: Path) -> None:
    (artifact / "unet").rename(tmp_path / "elsewhere")
    (artifact / "unet").symlink_to(tmp_path / "elsewhere")
    found = problems(artifact)
    assert found[MODEL] == "is listed in the manifest and missing"
    assert found["unet"] == "is not listed in the manifest and is a link"
    refuse(artifact, "missing")


@posix
def test_hard_links(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").hardlink_to(artifact / MODEL)
    assert "hard link" in problems(artifact)[MODEL]
    refuse(artifact, "hard link", hashes=False)


@posix
def test_fifos_and_sockets_are_not_opened(artifact: Path, monkeypatch) -> None:
    (artifact / MODEL).unlink()
    os.mkfifo(artifact / MODEL)
    monkeypatch.chdir(artifact / "vae_decoder")  # a socket's path may have 100 characters
    Path("model.onnx").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("model.onnx")
        assert problems(artifact) == {
            MODEL: "is not a regular file",
            "vae_decoder/model.onnx": "is not a regular file",
        }
        refuse(artifact, "not a regular file")


@posix
@pytest.mark.parametrize("by", ["link", "copy"])
def test_a_file_replaced_after_it_was_looked_at(artifact: Path, tmp_path: Path, monkeypatch, by: str) -> None:
    """Between the look and the read: even a link to the same bytes, or a copy of them, is refused."""
    import artifacts.verification as module

    real = module.open_regular

    def late(path: Path, expected: os.stat_result) -> Any:
        if path.name == "model.onnx":
            moved = path.rename(tmp_path / path.parent.name)
            path.symlink_to(moved) if by == "link" else path.write_bytes(moved.read_bytes())
        return real(path, expected)

    monkeypatch.setattr(module, "open_regular", late)
    assert "cannot be read" in problems(artifact)[MODEL]


# --- the manifest ----------------------------------------------------------------------------------


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


@posix
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
    damaged(artifact, "'graphs.0.evidence.0.error.sample': Input should be a finite number")


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
        (found,) = graph.evidence
        assert (found.check, found.error, found.compute, found.device) == ("quick", {"out": 0.001}, "", "")
    assert [(each.psnr, each.compute) for each in manifest.pictures] == [(41.25, "")]
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
