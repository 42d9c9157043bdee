"""`latentc verify`: what it prints, and with which status it ends."""

from __future__ import annotations

import json

import pytest

from artifacts.errors import LatentcError
from artifacts.evidence_records import Evidence
from tests.latentc.artifacts_made import made


@pytest.fixture
def out(tmp_path):
    made(tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def measured(monkeypatch):
    """Makes `--numerics` measure what the test says; over 0.02 it raises, as the real one does."""

    def use(error: float) -> None:
        import compiler.evidence.recheck

        def recheck(artifact, progress, compute):
            if not error <= 0.02:
                raise LatentcError("'unet.forward' is not PyTorch's.")
            types = ("fp32", "bf16") if compute == "auto" else (compute,)
            found = [
                Evidence(
                    compute=kind, device="cpu", check="quick", error={"out_sample": error}, tolerance=0.02
                )
                for kind in types
            ]
            return {"unet": tuple(found)}

        monkeypatch.setattr(compiler.evidence.recheck, "recheck", recheck)

    return use


def test_a_good_artifact(latentc, out):
    ended = latentc("verify", out)
    assert ended.code == 0
    assert "All 3 files (70 B) are as they were compiled." in ended.out


def test_a_manifest_without_a_digest_is_told_and_one_with_it_is_not(latentc, out):
    from artifacts.manifest import MANIFEST_NAME
    from artifacts.manifest_digest import with_digest
    from artifacts.manifest_reading import read_manifest

    assert "note: the manifest has no digest of its own" in latentc("verify", out).out
    assert json.loads(latentc("verify", out, "--json").out)["manifest_digest"] is None
    (out / MANIFEST_NAME).write_bytes(with_digest(read_manifest(out)))
    ended = latentc("verify", out)
    assert ended.code == 0
    assert "digest" not in ended.out
    assert len(json.loads(latentc("verify", out, "--json").out)["manifest_digest"]) == 64
    for command in ("verify", "inspect"):
        data = (out / MANIFEST_NAME).read_bytes()
        (out / MANIFEST_NAME).write_bytes(
            data.replace(b"StableDiffusionPipeline", b"StableDiffusionPipelinf")
        )
        ended = latentc(command, out)
        (out / MANIFEST_NAME).write_bytes(data)
        assert ended.code == 1
        assert "its content is not what the digest in it was made of" in ended.err


def test_another_toolchain_is_told_and_is_no_fault(latentc, out):
    ended = latentc("verify", out)
    assert "compiled with no-such-package 1.0, here is none." in ended.out
    assert "compiled with click 0.0.1, here is " in ended.out
    assert ended.code == 0


def test_what_is_wrong_is_named_and_fails(latentc, out):
    (out / "unet" / "model.onnx").write_bytes(b"hparg")
    (out / "unet" / "stranger").touch()
    ended = latentc("verify", out)
    assert ended.code == 1
    assert "'unet/model.onnx': has SHA-256" in ended.out
    assert "'unet/stranger': is not listed" in ended.out


def test_json(latentc, out):
    (out / "unet" / "config.json").unlink()
    ended = latentc("verify", out, "--json")
    found = json.loads(ended.out)
    assert ended.code == 1
    assert found["ok"] is False
    assert [f["path"] for f in found["findings"]] == ["unet/config.json"]


def test_no_artifact(latentc, tmp_path):
    ended = latentc("verify", tmp_path)
    assert ended.code == 1
    assert "there is no latentc.json in it" in ended.err


@pytest.mark.parametrize(("error", "code"), [(0.001, 0), (0.03, 1), (float("nan"), 1)])
def test_numbers_over_their_tolerance_fail(latentc, out, measured, error, code):
    measured(error)
    ended = latentc("verify", out, "--numerics")
    assert ended.code == code
    assert ("is not PyTorch's" in ended.err) == (code == 1)


def test_numbers_that_cannot_be_measured_fail_and_say_why(latentc, out, monkeypatch):
    import compiler.evidence.recheck

    found = {"unet": (Evidence(check="not measured", reason="needs a GPU of sm89"),)}
    monkeypatch.setattr(compiler.evidence.recheck, "recheck", lambda artifact, progress, compute: found)
    ended = latentc("verify", out, "--numerics")
    assert ended.code == 1
    assert "not measured: needs a GPU of sm89" in ended.out
    assert "The numbers of unet are not measured, and may be wrong." in ended.out
    ended = latentc("verify", out, "--numerics", "--json")
    assert (ended.code, json.loads(ended.out)["ok"]) == (1, False)


def test_numbers_within_it_are_shown(latentc, out, measured):
    measured(0.001)
    assert "quick: 1.0e-03 (limit 2e-02)" in latentc("verify", out, "--numerics").out
    found = json.loads(latentc("verify", out, "--numerics", "--json").out)
    assert found["numerics"]["unet"][0]["error"] == {"out_sample": 0.001}


def test_damaged_files_are_not_measured(latentc, out, measured):
    measured(0.0)
    (out / "unet" / "config.json").unlink()
    assert "Numbers: not measured" in latentc("verify", out, "--numerics").out


def test_each_type_has_its_line_and_one_can_be_asked_for(latentc, out, measured):
    measured(0.001)
    shown = latentc("verify", out, "--numerics").out
    assert "fp32 on cpu, quick: 1.0e-03" in shown and "bf16 on cpu, quick: 1.0e-03" in shown
    shown = latentc("verify", out, "--numerics", "--compute", "bf16").out
    assert "bf16 on cpu" in shown and "fp32 on cpu" not in shown
    ended = latentc("verify", out, "--compute", "bf16")
    assert ended.code == 2 and "needs --numerics" in ended.err


def test_where_a_type_fails_is_shown(latentc, out, monkeypatch):
    import compiler.evidence.recheck
    from compiler.evidence.where import Finding

    finding = Finding(
        folder="unet", output="out", compute="bf16", kind="overflow", between="a against b", node="node_conv",
        op_type="Conv", module="mid.conv", value="conv", error=None, before=0.001, reason="it is",
    )  # fmt: skip
    broken = Evidence(compute="bf16", device="cpu", check="quick", tolerance=0.06, broken="out not finite")

    def recheck(artifact, progress, compute, on_findings):
        on_findings((finding,))
        return {"unet": (broken,)}

    monkeypatch.setattr(compiler.evidence.recheck, "recheck", recheck)
    shown = latentc("verify", out, "--numerics", "--where").out
    assert "leaves its tolerance first in 'mid.conv': node 'node_conv' (Conv, value 'conv')" in shown
    found = json.loads(latentc("verify", out, "--numerics", "--where", "--json").out)
    assert found["where"] == [finding.model_dump(mode="json")]


def test_where_needs_numbers(latentc, out):
    ended = latentc("verify", out, "--where")
    assert ended.code == 2 and "needs --numerics" in ended.err
