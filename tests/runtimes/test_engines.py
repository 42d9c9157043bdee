"""An artifact whose graphs are code is loaded when the user trusts them, and at no other time."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from artifacts import artifact_signature, trusted_engines
from artifacts.errors import LatentcError
from artifacts.verification import open_artifact
from runtimes.pipeline import load
from tests.artifacts.manifest_files import edit_manifest
from tests.artifacts.signing_keys import pem
from tests.runtimes import tiny
from tests.runtimes.conftest import Compiled


@pytest.fixture
def artifact(compiled: Compiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LATENTC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(trusted_engines.TRUST, raising=False)
    monkeypatch.setattr(trusted_engines, "_trusted", set())
    root = tiny.publish(compiled.root, tmp_path / "artifact")
    edit_manifest(root, lambda manifest: manifest.update(target="tensorrt"))
    return root


def graphs(root: Path) -> list[str]:
    return [hashlib.sha256((root / g.model_file).read_bytes()).hexdigest() for g in tiny.manifest().graphs]


def test_a_strangers_engines(artifact: Path) -> None:
    with pytest.raises(LatentcError, match=r"is an engine, and engines are code.*not built by you") as caught:
        load(artifact, cache=False)
    assert "trust_engines=True" in caught.value.hint


def test_engines_that_the_user_trusts(artifact: Path) -> None:
    load(artifact, cache=False, trust_engines=True).close()


def test_engines_that_are_signed_with_a_key_of_the_users(artifact: Path, tmp_path: Path) -> None:
    private, public = pem(tmp_path / "key", ec.generate_private_key(ec.SECP256R1()))
    _, other = pem(tmp_path / "other", ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(LatentcError, match="is not signed"):
        load(artifact, cache=False, require_signature=public)
    artifact_signature.sign(open_artifact(artifact), private)
    with pytest.raises(
        LatentcError, match="engines are code"
    ):  # a signature that nobody asked for says nothing
        load(artifact, cache=False)
    with pytest.raises(LatentcError, match="is signed with another key"):
        load(artifact, cache=False, require_signature=other)
    assert not any(map(trusted_engines.is_trusted, graphs(artifact)))
    load(artifact, cache=False, require_signature=public).close()


def test_engines_that_the_user_trusts_by_a_variable(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("0", "", "yes"):
        monkeypatch.setenv(trusted_engines.TRUST, value)
        with pytest.raises(LatentcError, match="engines are code"):
            load(artifact, cache=False)
    monkeypatch.setenv(trusted_engines.TRUST, "1")
    load(artifact, cache=False).close()


def test_engines_that_were_built_here(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = graphs(artifact)
    trusted_engines.record_trusted(first)
    monkeypatch.setattr(trusted_engines, "_trusted", set())  # another process
    with pytest.raises(LatentcError, match="engines are code"):
        load(artifact, cache=False)
    for digest in others:
        trusted_engines.record_trusted(digest)
    load(artifact, cache=False).close()


@pytest.mark.parametrize("digest", ["", "..", "../engines", "A" * 64, "0" * 63])
def test_what_is_no_digest_is_not_trusted(digest: str, artifact: Path) -> None:
    trusted_engines.record_trusted("0" * 64)
    assert not trusted_engines.is_trusted(digest)
