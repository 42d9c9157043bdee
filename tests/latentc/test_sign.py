"""Signatures: by OpenSSF's own tool and by ours, and what is said of every way in which one does not hold."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from artifacts import artifact_signature, copying
from artifacts.errors import LatentcError
from artifacts.manifest import MANIFEST_NAME, SIGNATURE_NAME
from artifacts.manifest_digest import with_digest
from artifacts.manifest_reading import read_manifest
from artifacts.verification import examine, open_artifact
from tests.artifacts.signing_keys import pem
from tests.latentc.artifacts_made import made


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return pem(tmp_path_factory.mktemp("keys") / "mine", ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture
def out(tmp_path) -> Path:
    made(tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def signed(out, keys) -> Path:
    artifact_signature.sign(open_artifact(out), keys[0])
    return out


def refusal(root: Path, public: Path, file: Path | None = None) -> LatentcError:
    with pytest.raises(LatentcError) as caught:
        artifact_signature.check(open_artifact(root), public, file)
    return caught.value


def test_the_commands_sign_and_verify(latentc, out, keys):
    private, public = keys
    ended = latentc("sign", out, "--key", private)
    assert ended.code == 0 and str(out / SIGNATURE_NAME) in ended.out
    ended = latentc("verify", out, "--public-key", public)
    assert ended.code == 0 and f"signed with the key {public}" in ended.out
    told = json.loads(latentc("verify", out, "--public-key", public, "--json").out)
    assert told["signed"] == {"signature": str(out / SIGNATURE_NAME), "public_key": str(public)}
    assert latentc("verify", out).code == 0  # nobody asked, and the signature is no stranger


def test_a_signature_may_lie_elsewhere(latentc, signed, keys, tmp_path):
    elsewhere = tmp_path / "a.sig"
    shutil.move(signed / SIGNATURE_NAME, elsewhere)
    assert latentc("verify", signed, "--signature", elsewhere, "--public-key", keys[1]).code == 0
    ended = latentc("verify", signed, "--public-key", keys[1])
    assert ended.code == 1 and "is not signed: there is no" in ended.err and "--signature FILE" in ended.err
    assert latentc("verify", signed, "--signature", elsewhere).code == 2


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()])
def test_other_curves(out, tmp_path, curve):
    private, public = pem(tmp_path / "key", ec.generate_private_key(curve))
    artifact_signature.sign(open_artifact(out), private)
    assert artifact_signature.check(open_artifact(out), public).files == 4


def test_model_signings_own_verifier_reads_it_and_ours_reads_its_own(out, keys, tmp_path):
    from model_signing import hashing, signing, verifying

    private, public = keys
    file = artifact_signature.sign(open_artifact(out), private)
    beside = hashing.Config().set_ignored_paths(paths=[file.name])
    library = verifying.Config().use_elliptic_key_verifier(public_key=public).set_hashing_config(beside)
    library.verify(out, file)
    file.unlink()
    theirs = tmp_path / "theirs.sig"
    signing.Config().use_elliptic_key_signer(private_key=private).sign(out, theirs)
    assert artifact_signature.check(open_artifact(out), public, theirs).file == theirs


def test_a_changed_file_is_a_finding(latentc, signed, keys):
    (signed / "unet" / "model.onnx").write_bytes(b"hparg")
    ended = latentc("verify", signed, "--public-key", keys[1])
    assert ended.code == 1 and "unet/model.onnx" in ended.out and "signed with" not in ended.out


def test_a_file_and_the_manifest_changed_together(signed, keys):
    shutil.move(signed / SIGNATURE_NAME, signed.parent / "kept.sig")
    made(signed, device="gpu")
    shutil.move(signed.parent / "kept.sig", signed / SIGNATURE_NAME)
    error = refusal(signed, keys[1])
    assert "is not what was signed: 'latentc.json' is not as the signature" in error.message
    assert "\n" not in error.message


def test_a_manifest_that_lists_other_files(signed, keys):
    manifest = read_manifest(signed)
    (signed / "unet" / "model.onnx_data").unlink()
    fewer = tuple(file for file in manifest.files if not file.path.endswith("_data"))
    (signed / MANIFEST_NAME).write_bytes(with_digest(manifest.model_copy(update={"files": fewer})))
    message = refusal(signed, keys[1]).message
    assert "'latentc.json', 'unet/model.onnx_data' is not as" in message


def test_another_key(signed, tmp_path):
    _, other = pem(tmp_path / "other", ec.generate_private_key(ec.SECP256R1()))
    assert "is signed with another key than" in refusal(signed, other).message
    text = (signed / SIGNATURE_NAME).read_text()  # whoever forges names the key, too
    hint = json.loads(text)["verificationMaterial"]["publicKey"]["hint"]
    (signed / SIGNATURE_NAME).write_text(text.replace(hint, hashlib.sha256(other.read_bytes()).hexdigest()))
    assert "does not hold with the key" in refusal(signed, other).message


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: "{}",
        lambda text: "[" * 100_000,
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("vnd.dev.sigstore.bundle", "something.else"),
        lambda text: json.dumps({**json.loads(text), "dsseEnvelope": {"payload": "", "signatures": []}}),
        lambda text: json.dumps({**json.loads(text), "verificationMaterial": None}),
    ],
)
def test_a_damaged_signature(signed, keys, damage):
    file = signed / SIGNATURE_NAME
    file.write_text(damage(file.read_text()))
    assert "is damaged, or no signature of OpenSSF's" in refusal(signed, keys[1]).message


def test_a_changed_signature(signed, keys):
    file = signed / SIGNATURE_NAME
    bundle = json.loads(file.read_text())
    payload = bundle["dsseEnvelope"]["payload"]
    bundle["dsseEnvelope"]["payload"] = (
        payload[:-8] + ("AAAA" if payload[-8:-4] != "AAAA" else "BBBB") + payload[-4:]
    )
    file.write_text(json.dumps(bundle))
    assert "was changed, or is of another key" in refusal(signed, keys[1]).message


def test_a_link_in_the_signatures_place(signed, keys):
    file = signed / SIGNATURE_NAME
    shutil.move(file, signed.parent / "real.sig")
    try:
        file.symlink_to(signed.parent / "real.sig")
    except OSError:
        pytest.skip("no links here")
    with pytest.raises(LatentcError, match="latentc.sig"):
        artifact_signature.check(open_artifact(signed), keys[1])


def test_keys_that_are_none(out, keys, tmp_path):
    artifact = open_artifact(out)
    missing, text = tmp_path / "missing.pem", tmp_path / "text.pem"
    text.write_text("no key")
    rsa_private, rsa_public = pem(tmp_path / "rsa", rsa.generate_private_key(65537, 2048))
    hidden, _ = pem(tmp_path / "hidden", ec.generate_private_key(ec.SECP256R1()), b"secret")
    koblitz, _ = pem(tmp_path / "koblitz", ec.generate_private_key(ec.SECP256K1()))
    expected = {
        missing: "cannot be read",
        text: "is no private key to sign with",
        keys[1]: "is no private key to sign with",
        rsa_private: "is no private key to sign with",
        koblitz: "is no private key to sign with",
        hidden: "is encrypted",
    }
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        expected |= {tmp_path / "pipe": "is a named pipe", Path("/dev/zero"): "is a device"}
    for key, words in expected.items():
        with pytest.raises(LatentcError, match=words):
            artifact_signature.sign(artifact, key)
    assert not (out / SIGNATURE_NAME).exists()
    artifact_signature.sign(artifact, keys[0])
    for key, words in {
        missing: "cannot be read",
        text: "is no public key",
        rsa_public: "is no public key",
    }.items():
        assert words in refusal(out, key).message
    if hasattr(os, "mkfifo"):
        with pytest.raises(LatentcError, match="signature .* is a named pipe"):
            artifact_signature.check(artifact, keys[1], tmp_path / "pipe")


def test_damaged_artifacts_are_not_signed(latentc, out, keys):
    (out / "unet" / "model.onnx").write_bytes(b"hparg")
    ended = latentc("sign", out, "--key", keys[0])
    assert ended.code == 1 and "is not what was compiled" in ended.err
    assert not (out / SIGNATURE_NAME).exists()


def test_the_signature_goes_along_with_a_copy(out, keys, tmp_path):
    (out / MANIFEST_NAME).write_bytes(with_digest(read_manifest(out)))
    artifact_signature.sign(open_artifact(out), keys[0])
    copy = copying.copy_artifact(open_artifact(out), tmp_path / "copy")
    assert artifact_signature.check(open_artifact(copy), keys[1])
    # and is replaced with the artifact that it is of
    assert copying.copy_artifact(open_artifact(out), copy, force=True) == copy


def test_a_manifest_may_not_list_the_signature(signed):
    manifest = read_manifest(signed)
    listed = manifest.files[0].model_copy(update={"path": SIGNATURE_NAME})
    (signed / MANIFEST_NAME).write_text(
        manifest.model_copy(update={"files": (*manifest.files, listed)}).model_dump_json()
    )
    with pytest.raises(LatentcError, match=r"latentc\.sig"):
        examine(signed)


def test_without_the_library_it_is_said_what_to_install(latentc, out, keys, monkeypatch):
    monkeypatch.setitem(sys.modules, "model_signing.signing", None)
    ended = latentc("sign", out, "--key", keys[0])
    assert ended.code == 1 and 'pip install "latentc[sign]"' in ended.err
