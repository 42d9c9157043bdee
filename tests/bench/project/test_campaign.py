"""A small part of the campaign, with a fixed seed; and that it tells what is wrong."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import MANIFEST_NAME
from artifacts.verification import verify
from bench.project import campaign, campaign_publishing, campaign_tallies, hostile_artifacts
from bench.project.audit_watch import class_fault
from bench.project.campaign_kinds import rehash
from bench.project.campaign_trials import Outcome, TrialProcess
from bench.project.working_copy import WorkingCopy
from tests.artifacts.conftest import artifact, fake
from tests.bench.project import planted_kinds

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


PLANTED = f"{planted_kinds.__name__}:KINDS"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="it makes links and asks for stacks by a signal")
def test_what_goes_wrong_is_counted_and_kept(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(campaign, "KINDS", planted_kinds.KINDS)
    monkeypatch.setattr(campaign, "KINDS_TABLE", PLANTED)
    kept = tmp_path / "kept"
    status = campaign.main([str(artifact), "--trials", "2", "--keep", str(kept)])
    printed = capsys.readouterr().out
    assert status == 1
    counts = {
        cells[1].strip(): cells[2:6]
        for cells in (line.split("|") for line in printed.splitlines())
        if cells[1:]
    }
    right = {"typed": ["2", "2", "0", "0"], "allowed": ["2", "0", "2", "0"]}
    for kind in planted_kinds.KINDS:
        assert [cell.strip() for cell in counts[kind]] == right.get(kind, ["2", "0", "0", "2"]), kind
    reasons = {name: reason for name, (_, reason) in planted_kinds.FORBIDDEN.items()} | {
        "taken for whole": "taken for whole",
        "broken": "KeyError: 'a reader with a fault'",
        "sleeps": "took more than 0.5 seconds, in File",
        "takes memory": "the process held ",
        "ends": "ended with status 3",
    }
    for kind, reason in reasons.items():
        place = kept / f"{kind.replace(' ', '-')}-0-1"
        assert reason in (kept / f"{place.name}.txt").read_text(encoding="utf-8"), kind
        assert (place / MANIFEST_NAME).is_file() or kind in ("removes", "renames")
    assert verify(artifact) == ()


@pytest.mark.parametrize(
    ("cls", "fault"),
    [
        (torch.nn.Linear, ""),
        (type("Shell", (), {"__module__": "runtimes.shell"}), ""),
        (type("Kernel", (), {"__module__": "kernels.layer"}), "made a kernels.layer.Kernel"),
        (
            type("DiffusionPipeline", (), {"__module__": "diffusers.pipelines.pipeline_utils"}),
            "made a diffusers.pipelines.pipeline_utils.DiffusionPipeline",
        ),
    ],
)
def test_a_class_of_others_is_told(cls: type, fault: str) -> None:
    assert class_fault(cls) == fault


def test_a_working_copy_becomes_what_it_was(artifact: Path, tmp_path: Path) -> None:
    copy = WorkingCopy(artifact, tmp_path / "holder")
    files = {
        path.relative_to(copy.root): path.read_bytes() for path in copy.root.rglob("*") if path.is_file()
    }
    graph, other, config = sorted(files, key=lambda path: path.suffix, reverse=True)[:3]

    def change() -> None:
        data = files[graph]
        (copy.root / graph).write_bytes(bytes(byte ^ 1 for byte in data))  # of the same size
        (copy.root / other).unlink()
        (copy.root / other).mkdir()
        (copy.root / config).unlink()
        (copy.root / config).symlink_to(artifact / config)
        (copy.root / "new" / "folder").mkdir(parents=True)
        (copy.root.parent / "beside").write_text("", encoding="utf-8")

    for _ in range(2):
        change()
        assert set(copy.restore()) == {graph, other, config}
        assert {
            path.relative_to(copy.root): path.read_bytes() for path in copy.root.rglob("*") if path.is_file()
        } == files
        assert not (copy.root / config).is_symlink()
        assert not (copy.root / "new").exists()
        assert list(copy.root.parent.iterdir()) == [copy.root]
    assert copy.restore() == ()
    assert verify(artifact) == ()


@pytest.mark.parametrize("seed", range(6))
def test_a_hostile_artifact_has_right_hashes(artifact: Path, tmp_path: Path, seed: int) -> None:
    """Each of its files is listed as it is, but for those that were left unlisted on purpose."""
    root, rng = tmp_path / "holder" / "root", random.Random(seed)
    shutil.copytree(artifact, root)
    outside = hostile_artifacts.make_outside(root)
    ways = (
        hostile_artifacts._key,
        hostile_artifacts._class,
        hostile_artifacts._file,
        hostile_artifacts._text,
    )
    changes = [way(root, outside, rng) for way in ways]
    rehash(
        root,
        [change.added for change in changes if change.added],
        lambda manifest: [change.edit(manifest) for change in changes if change.edit],
    )
    manifest = json.loads((root / MANIFEST_NAME).read_text("utf-8"))
    for file in manifest["files"]:
        assert file["sha256"] == hashlib.sha256((root / file["path"]).read_bytes()).hexdigest()
    assert (
        manifest["digest"]
        == hashlib.sha256(
            (root / MANIFEST_NAME).read_bytes().replace(manifest["digest"].encode(), b"0" * 64)
        ).hexdigest()
    )
    assert {change.added for change in changes} - {""} <= {file["path"] for file in manifest["files"]}
    assert len({change.text for change in changes}) == len(ways)


def test_a_forgery_has_right_hashes(artifact: Path) -> None:
    config = artifact / "unet" / "config.json"
    config.write_text('{"another": "configuration"}', encoding="utf-8")
    assert verify(artifact) != ()
    rehash(artifact)
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
    tried: list[int] = []

    def attempt(self: TrialProcess, kind: str, trials: range, count: Callable[[Outcome], None]) -> None:
        for trial in trials:
            tried.append(trial)
            if len(tried) == 3:
                raise KeyboardInterrupt
            count(Outcome(trial, "taken", "nothing", seconds=trial, memory=1))

    monkeypatch.setattr(TrialProcess, "attempt", attempt)
    monkeypatch.setattr(campaign_tallies, "TOLD_EVERY", 0.0)
    work, kinds = tmp_path / "work" / "results.json", ("manifest, damaged",)
    with pytest.raises(KeyboardInterrupt):
        campaign.run(artifact, 5, kinds=kinds, work=work)
    assert "2 of 5 trials, 0 wrong" in capsys.readouterr().err
    tally = campaign.run(artifact, 5, kinds=kinds, work=work)["manifest, damaged"]
    assert (tally.counts["taken"], tally.seconds, tally.memory) == (5, 4, 1)
    # The third is tried again, and those before it are not.
    assert tried == [0, 1, 2, 2, 3, 4]
    with pytest.raises(UsageError, match="holds the results of"):
        campaign.run(artifact, 5, seed=1, kinds=kinds, work=work)
    work.write_text("[]", encoding="utf-8")
    with pytest.raises(LatentcError, match="no campaign's results"):
        campaign.run(artifact, 5, kinds=kinds, work=work)


@pytest.mark.parametrize("again", ["typed", "wrong"])
def test_what_was_late_once_is_tried_again_alone(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    """The machine may have stood still: the second time counts."""
    asked: list[range] = []

    def late_once(
        self: TrialProcess, kind: str, trials: range, count: Callable[[Outcome], None]
    ) -> Outcome | None:
        asked.append(trials)
        if len(asked) == 1:
            count(Outcome(0, "typed", "nothing"))
            return Outcome(1, "wrong", "nothing", is_late=True)
        outcome = Outcome(1, again, "nothing", is_late=again == "wrong")
        if again == "wrong":
            return outcome
        count(outcome)
        return None

    monkeypatch.setattr(TrialProcess, "_asked", late_once)
    tally = campaign.run(artifact, 2, kinds=("file, damaged",))["file, damaged"]
    assert asked == [range(2), range(1, 2)]
    assert tally.counts == ({"typed": 2} if again == "typed" else {"typed": 1, "wrong": 1})


def test_time_ends_it(artifact: Path) -> None:
    tallies = campaign.run(artifact, trials=5, kinds=campaign.QUICK, deadline=0.0)
    assert all(tally.counts.total() == 0 for tally in tallies.values())
