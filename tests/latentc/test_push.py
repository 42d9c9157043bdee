"""An artifact's way to the hub and back, through a server on this machine that speaks the hub's API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from huggingface_hub import constants

import latentc as package
from artifacts import artifact_signature, hub_artifacts
from artifacts.errors import LatentcError, UsageError
from artifacts.evidence_records import PictureEvidence
from artifacts.hub_artifacts import fetch, located
from artifacts.manifest import MANIFEST_NAME, SIGNATURE_NAME, FileRecord, Recipe, Source
from artifacts.verification import examine, open_artifact
from latentc.model_card import model_card
from tests.artifacts.local_hub import LocalHub, Repository
from tests.artifacts.signing_keys import pem
from tests.latentc.artifacts_made import made


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalHub]:
    with LocalHub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        template = f"{server.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("LATENTC_CACHE", str(tmp_path / "cache"))
        for name in ("HF_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.lower(), raising=False)
        huggingface_hub.close_session()
        yield server
        server.shutdown()
    huggingface_hub.close_session()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    made(tmp_path / "out")
    return tmp_path / "out"


def contents(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_there_and_back(latentc: Any, hub: LocalHub, out: Path) -> None:
    ended = latentc("push", out, "owner/name", "--private", "--json")
    assert ended.code == 0, ended.err
    told = json.loads(ended.out)
    repository = hub.repositories["owner/name"]
    assert repository.private and repository.branches["main"] == told["commit"]
    assert set(repository.commits[told["commit"]]) == {*contents(out), "README.md", ".gitattributes"}
    folder = located("owner/name")
    assert contents(folder) == contents(out) and folder.name == told["commit"]
    assert examine(folder)[1] == ()
    asked = len(hub.requests)
    assert located(f"owner/name@{told['commit']}") == folder
    assert len(hub.requests) == asked  # a commit that is here is not asked for
    assert located("owner/name") == folder
    assert not [line for line in hub.requests[asked:] if "/resolve/" in line]


def test_a_folder_that_is_here_is_meant_before_the_hub(hub: LocalHub, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert located("owner/name") == Path("owner/name")
    for other in (Path("owner/other"), "./owner/other", "owner", str(tmp_path / "a" / "b"), "a/b/c"):
        assert located(other) == Path(other)
    assert hub.requests == []


def test_load_fetches_what_the_user_names(hub: LocalHub, out: Path, tmp_path: Path) -> None:
    private, public = pem(tmp_path / "key", ec.generate_private_key(ec.SECP256R1()))
    artifact_signature.sign(open_artifact(out), private)
    package.push(out, "owner/name")
    with pytest.raises(UsageError, match="has no task 'none'"):  # so the signature came along, and holds
        package.load("owner/name", require_signature=public, task="none")
    assert (located("owner/name") / SIGNATURE_NAME).read_bytes() == (out / SIGNATURE_NAME).read_bytes()


def test_branches_and_commits(hub: LocalHub, out: Path, tmp_path: Path) -> None:
    first = package.push(out, "owner/name").commit
    made(tmp_path / "other", device="gpu")
    second = package.push(tmp_path / "other", "owner/name", revision="gpu").commit
    assert located("owner/name").name == first and located("owner/name@gpu").name == second
    assert contents(located(f"owner/name@{second}")) == contents(tmp_path / "other")
    with pytest.raises(LatentcError, match="'owner/name@nothing' has no such revision on the hub"):
        located("owner/name@nothing")
    assert package.push(out, "owner/name", revision="gpu").commit != second


def test_files_that_the_hub_has_are_not_sent_again(hub: LocalHub, out: Path) -> None:
    package.push(out, "owner/name")
    sent = len([line for line in hub.requests if line.startswith("PUT")])
    assert sent == 3  # the weights, the manifest and the card
    package.push(out, "owner/name", revision="again")
    assert len([line for line in hub.requests if line.startswith("PUT")]) == sent


def test_a_download_that_breaks_off_is_continued(hub: LocalHub, out: Path, monkeypatch) -> None:
    package.push(out, "owner/name")
    monkeypatch.setattr(hub_artifacts, "_file", interrupted := Interrupted(hub_artifacts._file))
    with pytest.raises(KeyboardInterrupt):
        fetch("owner/name")
    monkeypatch.setattr(hub_artifacts, "_file", interrupted.whole)
    asked = len(hub.requests)
    folder = fetch("owner/name")
    assert contents(folder) == contents(out)
    again = [line for line in hub.requests[asked:] if line.startswith("GET") and "/resolve/" in line]
    assert not [line for line in again if line.endswith(interrupted.done)]


def test_a_connection_that_is_cut(hub: LocalHub, out: Path) -> None:
    package.push(out, "owner/name")
    hub.breaks_after = 30
    assert contents(fetch("owner/name")) == contents(out) and hub.breaks_after is None


class Interrupted:
    """Fetches two files, and is stopped then."""

    def __init__(self, whole: Any) -> None:
        self.whole, self.done = whole, ()

    def __call__(self, *args: Any) -> Any:
        if len(self.done) == 2:
            raise KeyboardInterrupt
        self.done += (args[-1],)
        return self.whole(*args)


def test_what_the_hub_has_is_verified(hub: LocalHub, out: Path) -> None:
    package.push(out, "owner/name")
    hub.repositories["owner/name"].commit({"unet/model.onnx": b"hparg"})
    with pytest.raises(
        LatentcError, match="'owner/name' on the hub is not what was compiled: 'unet/model.onnx'"
    ):
        located("owner/name")
    missing = dict(contents(out))
    del missing["unet/model.onnx"]
    hub.repositories["owner/other"] = Repository()
    hub.repositories["owner/other"].commit(missing)
    with pytest.raises(LatentcError, match="is not whole: there is no unet/model.onnx"):
        located("owner/other")
    outside = json.loads(missing[MANIFEST_NAME])
    outside["files"][0]["path"] = "../../outside"
    hub.repositories["owner/other"].commit({MANIFEST_NAME: json.dumps(outside).encode()})
    asked = len(hub.requests)
    with pytest.raises(LatentcError, match="is damaged"):
        located("owner/other")
    assert not [line for line in hub.requests[asked:] if "outside" in line]


def test_what_is_no_artifact(hub: LocalHub) -> None:
    hub.repositories["owner/model"] = repository = Repository()
    repository.commit({"model_index.json": b"{}"})
    with pytest.raises(LatentcError, match="is no latentc artifact: there is no latentc.json") as caught:
        located("owner/model")
    assert "latentc compile owner/model OUT" in caught.value.hint
    with pytest.raises(
        LatentcError, match="there is no folder and no model on the hub called 'owner/nothing'"
    ):
        located("owner/nothing")


def test_without_the_network_the_last_that_was_seen_is_opened(hub: LocalHub, out: Path, monkeypatch) -> None:
    package.push(out, "owner/name")
    folder = located("owner/name")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    asked = len(hub.requests)
    assert located("owner/name") == folder
    with pytest.raises(LatentcError, match="HF_HUB_OFFLINE is set"):
        located("owner/another")
    assert len(hub.requests) == asked


def test_a_push_that_is_refused(latentc: Any, hub: LocalHub, out: Path) -> None:
    hub.token = "secret"
    ended = latentc("push", out, "owner/name")
    assert ended.code == 1 and "refuses the token" in ended.err and "hf auth login" in ended.err
    assert latentc("push", out, "no-owner").code == 2
    with pytest.raises(UsageError):
        package.push(out, "a/b/c")
    hub.requests.clear()
    (out / "unet" / "model.onnx").write_bytes(b"hparg")
    ended = latentc("push", out, "owner/name")
    assert ended.code == 1 and "is not what was compiled" in ended.err and not hub.requests


def test_the_card_says_what_the_manifest_says(tmp_path: Path) -> None:
    source = Source(
        id="someone/a-model",
        revision="a" * 40,
        license="openrail++",
        weights=(FileRecord(path="unet/model.safetensors", sha256="b" * 64, size=1),),
    )
    manifest = made(
        tmp_path / "out",
        source=source,
        quantization=Recipe(components={}),
        pictures=(PictureEvidence(reason="--pictures 0"),),
    )
    card = model_card(manifest, "owner/name", signed=True)
    head = huggingface_hub.ModelCard(card).data
    assert head.license == "openrail++" and head.base_model == "someone/a-model"
    assert head.pipeline_tag == "text-to-image" and "onnxruntime" in head.tags
    for words in (
        "StableDiffusionPipeline",
        "| sizes | height 512, width 512 |",
        "fp32 on cpu, quick: 1.2e-03 (limit 2.0e-02)".replace("2.0e-02", "2e-02"),
        'latentc generate owner/name "PROMPT"',
        "`" + "b" * 64 + "`",
        "--require-signature",
        "--pictures 0",
    ):
        assert words in card
    plain = model_card(made(tmp_path / "plain"), "owner/name")
    assert "| licence | not recorded |" in plain and "base_model" not in plain
    assert "--require-signature" not in plain
