"""A small part of the campaign, with a fixed seed; and that it tells what is wrong."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import MANIFEST_NAME
from artifacts.verification import verify
from bench.project import campaign, campaign_publishing, campaign_tallies
from tests.artifacts.conftest import artifact, fake

__all__ = ["artifact", "fake"]


@pytest.mark.slow
def test_no_damage_is_taken_for_whole_and_no_forgery_is_a_traceback(artifact: Path) -> None:
    tallies = campaign.run(artifact, trials=150, seed=19, kinds=campaign.QUICK)
    assert [case for tally in tallies.values() for case in tally.wrong] == []
    assert all(tally.counts.total() == 150 for tally in tallies.values())
    assert tallies["manifest, damaged"].counts["typed"] == 150
    forged = tallies["manifest, forged"].counts
    assert forged["taken"] > 5
    assert forged["typed"] > 50
    assert verify(artifact) == ()


def test_what_goes_wrong_is_counted_and_kept(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(root: Path) -> None:
        raise KeyError("a reader with a fault")

    kinds = {
        "manifest, damaged": campaign.Kind(campaign.manifest_bits, lambda root: None, damage=True),
        "manifest, forged": campaign.Kind(campaign.manifest_tree, broken, damage=False),
    }
    monkeypatch.setattr(campaign, "KINDS", kinds)
    monkeypatch.setattr(campaign, "QUICK", tuple(kinds))
    kept = tmp_path / "kept"
    status = campaign.main([str(artifact), "--trials", "2", "--quick", "--keep", str(kept)])
    printed = capsys.readouterr().out
    assert status == 1
    assert "| manifest, damaged | 2 | 0 | 0 | 2 |" in printed
    assert "KeyError: 'a reader with a fault'" in printed
    assert (kept / "manifest-forged-0-1" / MANIFEST_NAME).is_file()
    assert "taken for whole" in (kept / "manifest-damaged-0-0.txt").read_text(encoding="utf-8")


def test_a_forgery_has_right_hashes(artifact: Path) -> None:
    config = artifact / "unet" / "config.json"
    config.write_text('{"another": "configuration"}', encoding="utf-8")
    assert verify(artifact) != ()
    campaign.rehash(artifact)
    assert verify(artifact) == ()
    assert json.loads((artifact / MANIFEST_NAME).read_text("utf-8"))["digest"]


PUBLISHING = ("killed while it publishes", "killed while it replaces", "disk full while it publishes")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="files grow without limit there")
def test_a_publishing_that_ends_anywhere_leaves_an_artifact_or_none(artifact: Path) -> None:
    tallies = campaign.run(artifact, trials=3, seed=19, kinds=PUBLISHING)
    assert [case for tally in tallies.values() for case in tally.wrong] == []
    assert all(tally.counts.total() == 3 for tally in tallies.values())


def test_half_an_artifact_is_told(artifact: Path, tmp_path: Path) -> None:
    campaign_publishing._look(artifact, must_be_there=True)
    campaign_publishing._look(tmp_path / "none", must_be_there=False)
    with pytest.raises(RuntimeError, match="OUT is gone"):
        campaign_publishing._look(tmp_path / "none", must_be_there=True)
    next(artifact.rglob("*.onnx")).unlink()
    with pytest.raises(RuntimeError, match="OUT is half there"):
        campaign_publishing._look(artifact, must_be_there=True)


@pytest.mark.slow
def test_a_changed_model_is_captured_or_an_error(artifact: Path) -> None:
    tallies = campaign.run(artifact, trials=3, seed=19, kinds=("model, changed",))
    assert [case for tally in tallies.values() for case in tally.wrong] == []
    assert tallies["model, changed"].counts.total() == 3


def test_one_that_was_stopped_goes_on(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried: list[str] = []

    def change(root: Path, rng: random.Random) -> str:
        tried.append(f"{rng.random()}")
        if len(tried) == 3:
            raise KeyboardInterrupt
        return "nothing"

    kinds = {"manifest, damaged": campaign.Kind(change, lambda root: None, damage=False)}
    monkeypatch.setattr(campaign, "KINDS", kinds)
    monkeypatch.setattr(campaign_tallies, "TOLD_EVERY", 0.0)
    work = tmp_path / "work" / "results.json"
    with pytest.raises(KeyboardInterrupt):
        campaign.run(artifact, 5, kinds=tuple(kinds), work=work)
    assert "2 of 5 trials, 0 wrong" in capsys.readouterr().err
    tallies = campaign.run(artifact, 5, kinds=tuple(kinds), work=work)
    assert tallies["manifest, damaged"].counts["taken"] == 5
    # The third is tried again, and those before it are not.
    assert len(tried) == 6 and tried[2] == tried[3] and len(set(tried)) == 5
    with pytest.raises(UsageError, match="holds the results of"):
        campaign.run(artifact, 5, seed=1, kinds=tuple(kinds), work=work)
    work.write_text("[]", encoding="utf-8")
    with pytest.raises(LatentcError, match="no campaign's results"):
        campaign.run(artifact, 5, kinds=tuple(kinds), work=work)


def test_time_ends_it(artifact: Path) -> None:
    tallies = campaign.run(artifact, trials=5, kinds=campaign.QUICK, deadline=0.0)
    assert all(tally.counts.total() == 0 for tally in tallies.values())
