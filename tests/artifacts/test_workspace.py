"""What a compile leaves behind: parts that the next run takes, and an artifact that appears whole."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from artifacts.errors import LatentcError, UsageError
from artifacts.hashing import content_key
from artifacts.manifest import MANIFEST_NAME
from artifacts.publish import require_out
from artifacts.verification import open_artifact, verify
from artifacts.workspace import Workspace
from tests.artifacts.workspace_parts import KEY, OTHER, build

links = pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")


def work_of(out: Path) -> Path:
    return out.with_name(f".{out.name}.latentc-work")


def test_publishes_a_sound_artifact_and_removes_the_work_folder(artifact: Path) -> None:
    assert verify(artifact) == ()
    assert (artifact / "unet" / "deep" / "er" / "weights.bin").read_text() == "A" * 100
    assert json.loads((artifact / "unet" / "config.json").read_text()) == {"name": "unet"}
    assert [file.path for file in open_artifact(artifact).manifest.files] == sorted(
        path.relative_to(artifact).as_posix()
        for path in artifact.rglob("*")
        if path.is_file() and path.name != MANIFEST_NAME
    )
    assert not work_of(artifact).exists()


def test_publish_moves_the_files_of_parts(fake, tmp_path: Path) -> None:
    with Workspace(tmp_path / "out") as ws:
        keys = {name: content_key(name) for name in fake.GRAPHS}
        for key in keys.values():
            build(ws, key)
        part = ws.finished(keys["unet"])
        assert part is not None
        before = (part.folder / "model.onnx").stat().st_ino
        out = ws.publish(keys, fake.manifest_for, fake.extra)
    assert (out / "unet" / "model.onnx").stat().st_ino == before


def test_extra_may_be_a_folder(fake, tmp_path: Path) -> None:
    loose = tmp_path / "loose"
    loose.mkdir()
    fake.extra(loose)
    with Workspace(tmp_path / "out") as ws:
        keys = {name: content_key(name) for name in fake.GRAPHS}
        for key in keys.values():
            build(ws, key)
        out = ws.publish(keys, fake.manifest_for, loose)
    assert verify(out) == ()
    assert (out / "scheduler" / "config.json").exists()


def test_a_finished_part_is_found_by_the_next_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), Workspace(out) as ws:
        build(ws, KEY)
        raise KeyboardInterrupt
    assert not out.exists()
    with Workspace(out) as ws:
        part = ws.finished(KEY)
        assert part is not None
        assert part.meta == {"shape": [1, "batch"]}
        assert [file.path for file in part.files] == ["model.onnx"]
        assert (part.folder / "model.onnx").read_text() == "hello"
        assert ws.finished(OTHER) is None


def test_meta_reads_the_same_when_fresh_and_when_reused(tmp_path: Path) -> None:
    with Workspace(tmp_path / "out") as ws:
        build(ws, KEY)
        fresh = ws.finished(KEY)
    with Workspace(tmp_path / "out") as ws:
        assert ws.finished(KEY) == fresh


@pytest.mark.parametrize("damage", ["same size", "longer", "missing", "extra", "part.json"])
def test_a_damaged_part_is_not_reused(tmp_path: Path, damage: str) -> None:
    out = tmp_path / "out"
    with Workspace(out) as ws:
        build(ws, KEY)
        folder = ws.finished(KEY).folder
    if damage == "part.json":
        (folder.parent / "part.json").write_text("{")
    elif damage == "missing":
        (folder / "model.onnx").unlink()
    else:
        name = "other" if damage == "extra" else "model.onnx"
        (folder / name).write_text("jello" if damage == "same size" else "longer than before")
    with Workspace(out) as ws:
        assert ws.finished(KEY) is None
        build(ws, KEY)
        assert ws.finished(KEY) is not None


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_an_interrupted_build_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    out = tmp_path / "out"
    with pytest.raises(error), Workspace(out) as ws, ws.build(KEY) as building:
        (building.folder / "model.onnx").write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []
    with Workspace(out) as ws:  # and the lock is free
        assert ws.finished(KEY) is None


def test_a_part_must_hold_plain_files(tmp_path: Path) -> None:
    with Workspace(tmp_path / "out") as ws:
        with pytest.raises(ValueError, match="no files"), ws.build(KEY):
            pass
        with pytest.raises(ValueError, match="not a plain file"), ws.build(KEY) as building:
            (building.folder / "a").write_text("a")
            (building.folder / "b").hardlink_to(building.folder / "a")
        with pytest.raises(ValueError, match="device on Windows"), ws.build(KEY) as building:
            (building.folder / "aux.bin").write_text("a")
        with pytest.raises(TypeError), ws.build(KEY) as building:
            (building.folder / "a").write_text("a")
            building.meta["path"] = tmp_path
        assert ws.finished(KEY) is None


def test_publish_refuses_what_no_reader_would_open(fake, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def untrusted(files):
        return fake.manifest_for(files).model_copy(update={"pipelines": {"text-to-image": "os:system"}})

    def unlisted(files):
        return fake.manifest_for(files[1:])

    def clash(folder: Path) -> None:
        fake.extra(folder)
        (folder / "UNET").mkdir(exist_ok=True)
        (folder / "UNET" / "model.onnx").write_text("x")

    def same(folder: Path) -> None:
        fake.extra(folder)
        (folder / "unet" / "model.onnx").write_text("x")

    with Workspace(out) as ws:
        keys = {name: content_key(name) for name in fake.GRAPHS}
        for key in keys.values():
            build(ws, key)
        with pytest.raises(LatentcError, match="trusted library"):
            ws.publish(keys, untrusted, fake.extra)
        with pytest.raises(ValueError, match="does not list"):
            ws.publish(keys, unlisted, fake.extra)
        for extra in (clash, same):
            with pytest.raises(ValueError, match="one file on some systems"):
                ws.publish(keys, fake.manifest_for, extra)
        with pytest.raises(ValueError, match="two folders"):
            ws.publish({"a": KEY, "b": KEY} | dict.fromkeys("ab", keys["unet"]), fake.manifest_for)
        with pytest.raises(ValueError, match="not finished"):
            ws.publish({"a": KEY}, fake.manifest_for)
        assert not out.exists()
        ws.publish(keys, fake.manifest_for, fake.extra)  # the parts outlived all of it
    assert verify(out) == ()


# --- what OUT may be -------------------------------------------------------------------------------


def test_an_artifact_is_replaced_only_with_force(fake, artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists") as caught:
        fake.compile_fake(artifact, "B", tmp_path / "log")
    assert "--force" in caught.value.hint
    assert not work_of(artifact).exists()
    fake.compile_fake(artifact, "B", tmp_path / "log", force=True)
    assert verify(artifact) == ()
    assert (artifact / "unet" / "model.onnx").read_text() == "unet B"
    assert not work_of(artifact).exists()


def test_an_empty_folder_is_as_good_as_none(fake, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert verify(fake.compile_fake(out, "A", tmp_path / "log")) == ()


@links
def test_data_of_others_is_never_replaced(fake, artifact: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "photo.png").write_text("mine")
    (tmp_path / "link").symlink_to(artifact)
    for name, message in (("file", "is a file"), ("folder", "no latentc artifact"), ("link", "is a link")):
        with pytest.raises(UsageError, match=message):
            fake.compile_fake(tmp_path / name, "B", tmp_path / "log", force=True)
    (artifact / ".DS_Store").write_text("litter")
    (artifact / "images").mkdir()
    (artifact / "images" / "out.png").write_text("mine")
    with pytest.raises(UsageError, match=r"'images/out\.png'"):
        fake.compile_fake(artifact, "B", tmp_path / "log", force=True)
    (artifact / "images" / "out.png").unlink()
    monkeypatch.chdir(artifact)
    with pytest.raises(UsageError, match="current folder"):
        fake.compile_fake(Path(), "B", tmp_path / "log", force=True)
    monkeypatch.chdir(tmp_path)
    (artifact / MANIFEST_NAME).write_text("{}")
    with pytest.raises(UsageError, match="cannot be read"):
        fake.compile_fake(artifact, "B", tmp_path / "log", force=True)
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "photo.png").read_text() == "mine"


def test_nothing_is_put_into_an_artifact(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(artifact / "unet", target_is_directory=True)
    before = sorted(artifact.rglob("*"))
    for out in (artifact / "x", artifact / "x" / "y", artifact / "unet" / "x", tmp_path / "link" / "x"):
        for force in (False, True):
            with pytest.raises(UsageError, match=f"lies in the artifact {artifact}, ") as refused:
                Workspace(out, force).__enter__()
            assert refused.value.hint == "Name another OUT."
            with pytest.raises(UsageError, match="lies in the artifact"):
                require_out(out, force)
    assert sorted(artifact.rglob("*")) == before
    require_out(tmp_path / "beside", False)


def test_what_appears_at_out_meanwhile_is_kept(fake, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Workspace(out, force=True) as ws:
        keys = {name: content_key(name) for name in fake.GRAPHS}
        for key in keys.values():
            build(ws, key)
        out.mkdir()
        (out / "mine").write_text("mine")
        with pytest.raises(UsageError, match="no latentc artifact"):
            ws.publish(keys, fake.manifest_for, fake.extra)
        assert ws.finished(keys["unet"]) is not None
    assert (out / "mine").read_text() == "mine"


@links
def test_a_work_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    work_of(tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="in the way"), Workspace(tmp_path / "out"):
        pass


@pytest.mark.parametrize("failing", [1, 2])
def test_a_refused_rename_restores_the_old_artifact(fake, artifact, tmp_path, monkeypatch, failing) -> None:
    real, calls = os.rename, []

    def rename(source, destination) -> None:
        if artifact in (Path(source), Path(destination)):
            calls.append(source)
            if len(calls) == failing:
                raise PermissionError(errno.EACCES, "in use")
        real(source, destination)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(LatentcError, match=r"cannot be put at .*in use"):
        fake.compile_fake(artifact, "B", tmp_path / "log", force=True)
    assert verify(artifact) == ()
    assert (artifact / "unet" / "model.onnx").read_text() == "unet A"
    fake.compile_fake(artifact, "B", tmp_path / "log2", force=True)
    assert (artifact / "unet" / "model.onnx").read_text() == "unet B"
    assert (tmp_path / "log2").read_text() == "reused unet\nreused vae_decoder\n"


# --- two at once -----------------------------------------------------------------------------------


def test_the_second_compile_says_who_is_writing(fake, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Workspace(out) as ws:
        build(ws, KEY)
        with pytest.raises(LatentcError, match=rf"another compile \(process {os.getpid()} on .*, started 20"):
            Workspace(out).__enter__()
        assert ws.finished(KEY) is not None
        with Workspace(tmp_path / "other"):
            pass
    with Workspace(out):
        pass


def test_the_lock_holds_across_processes(fake, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    with Workspace(out):
        done = run_fake(out, "A", log)
        assert done.returncode == 1
        assert f"process {os.getpid()}" in done.stderr
    assert run_fake(out, "A", log).returncode == 0
    assert verify(out) == ()


def _contend(out: Path, counter: Path, rounds: int) -> None:
    for _ in range(rounds):
        try:
            with Workspace(out):
                value = int(counter.read_text())
                counter.write_text(str(value + 1))
                with (counter.parent / "wins").open("a") as wins:
                    wins.write("w")
        except LatentcError:
            pass


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_removing_the_work_folder_never_lets_two_in(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_contend, args=(tmp_path / "out", counter, 60)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert int(counter.read_text()) == len((tmp_path / "wins").read_text()) > 0
    assert not work_of(tmp_path / "out").exists()


def run_fake(out: Path, content: str, log: Path, force: str = "no") -> subprocess.CompletedProcess[str]:
    script = Path(__file__).with_name("fake_compile.py")
    return subprocess.run(
        [sys.executable, script, out, content, log, force, "0"],
        env={**os.environ, "PYTHONPATH": str(script.parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
