"""`latentc bench`: what is refused before any work, what is printed, what gates make of the exit status."""

from __future__ import annotations

import hashlib
import json

import pytest

import bench.bench_request
from artifacts.manifest import FileRecord, Source
from bench import record
from bench.interleaved_run import Outcome
from tests.bench.benches import made as bench_made
from tests.bench.benches import variant
from tests.latentc.artifacts_made import made


def weights(content: bytes) -> Source:
    file = FileRecord(path="unet/w", sha256=hashlib.sha256(content).hexdigest(), size=len(content))
    return Source(id="a-model", weights=(file,))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two artifacts of two models, in the current folder."""
    made(tmp_path / "out", source=weights(b"1"))
    made(tmp_path / "other", source=weights(b"2"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def asked(folder, monkeypatch):
    """A bench that is made up; what it was asked for."""
    requests = []

    def run(request, command, progress):
        requests.append((request, command))
        return Outcome(bench_made(variant(psnr=31.0)), {})

    monkeypatch.setattr(bench.bench_request, "bench", run)
    return requests


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["none"], 1, "none does not exist; an artifact is a folder"),
        (["out", "other"], 1, "must be compiled from one model; out is of 'a-model'"),
        (["out", "--reference", "other"], 1, "must be compiled from one model"),
        (["out", "--reference", "shapes"], 1, "the reference must be the model that out was compiled from"),
        (["out", "--reference", "no-such-model"], 1, "there is no model 'no-such-model'"),
        (["out", "--prompts", "none.txt"], 2, "the prompt file none.txt cannot be read: No such file"),
        (["out", "--prompts", "empty.txt"], 2, "the prompt file empty.txt holds no prompt"),
        (["out", "--baseline", "none.json"], 1, "none.json cannot be read"),
        (["out", "--baseline", "broken.json"], 1, "broken.json is no result of a bench"),
        (["out", "--fail-if", "psnr"], 2, "'psnr' is no gate"),
        (["out", "--fail-if", "speed<1"], 2, "there is no metric 'speed'"),
        (["out", "--task", "inpaint"], 2, "every artifact must have the task 'inpaint'"),
        (["out", "--json", "no/b.json"], 2, "the folder of 'no/b.json' does not exist"),
        (["out", "--steps", "0"], 2, "not in the range"),
        ([], 2, "Missing argument 'ARTIFACT...'"),
    ],
)
def test_wrong_requests_are_one_clear_line(latentc, folder, args, code, message):
    (folder / "empty.txt").write_text("\n")
    (folder / "broken.json").write_text('{"schema_version": 1, "created"')
    ended = latentc("bench", *args)
    assert ended.code == code, ended.err
    text = " ".join(ended.err.split())
    assert message in text
    assert "Traceback" not in text
    lines = [line for line in ended.err.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1


def test_what_is_asked_for_reaches_the_bench(latentc, asked, folder):
    (folder / "p.txt").write_text("a\nb\n")
    ended = latentc(
        "bench", "out", "--reference", "shapes", "--prompts", "p.txt", "--steps", 3, "--seeds", 2, "--guidance", 1.5,
        "--size", "64x32", "--device", "cpu", "--threads", 2, "--task", "text-to-image",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    ((request, _),) = asked
    assert (request.artifacts, request.reference, request.prompts) == (("out",), "shapes", ("a", "b"))
    assert (request.steps, request.seeds, request.guidance, request.size) == (3, 2, 1.5, (64, 32))
    assert (request.device, request.threads, request.task) == ("cpu", 2, "text-to-image")


def test_the_tables_show_the_figures_and_what_was_not_measured(latentc, asked):
    out = latentc("bench", "out").out
    assert " 0.500 " in out and "31.00 (30.00-32.00)" in out and " 29.00 " in out
    assert "Not measured: lpips, clip_score, fid: its weights are not on disk." in out
    assert max(map(len, out.splitlines())) <= 110


def test_the_record_is_written_and_printed(latentc, asked, folder):
    assert latentc("bench", "out", "--json", "b.json").code == 0
    found = record.read(folder / "b.json")
    assert found.variants[1].name == "out"
    ended = latentc("bench", "out", "--json", "-")
    assert json.loads(ended.out)["schema_version"] == 1


def test_a_report_is_written(latentc, asked, folder):
    ended = latentc("bench", "out", "--report", "made/report")
    assert ended.code == 0, ended.err
    names = {path.name for path in (folder / "made" / "report").iterdir()}
    assert names == {"report.html", "report.md", "bench.json"}
    assert str(folder / "made" / "report" / "report.html").endswith(ended.out.split()[-3])
    (folder / "file").write_text("")
    assert "cannot be written" in latentc("bench", "out", "--report", "file/report").err


def test_gates_decide_the_exit_status(latentc, asked):
    ended = latentc("bench", "out", "--fail-if", "psnr<30", "--fail-if", "step_ms>0.6x")
    assert ended.code == 0
    assert "All 2 gates hold." in ended.out
    ended = latentc("bench", "out", "--fail-if", "psnr<35", "--fail-if", "lpips>1")
    assert ended.code == 1
    fell = ended.out[ended.out.index("Fell short:") :]
    assert "psnr<35" in fell and "31.00 dB" in fell
    assert "lpips>1" in fell and "its weights are not on disk" in fell


def test_a_baseline_alone_holds_the_default_gates(latentc, asked, folder):
    record.write(bench_made(variant(psnr=31.0)), folder / "b.json")
    ended = latentc("bench", "out", "--baseline", "b.json")
    assert ended.code == 0
    assert "All 5 gates hold." in ended.out
    record.write(bench_made(variant(psnr=60.0, bytes=500)), folder / "b.json")
    ended = latentc("bench", "out", "--baseline", "b.json", "--json", "now.json")
    assert ended.code == 1
    assert "psnr<0.95x" in ended.out and "bytes>1.05x" in ended.out
    # What was measured is kept all the same.
    assert record.read(folder / "now.json").variants


def test_a_missing_library_is_named_with_what_installs_it(latentc, folder, monkeypatch):
    monkeypatch.setattr(bench.bench_request, "EXTRA", ("scipy", "no_such_library"))
    ended = latentc("bench", "out")
    assert ended.code == 1
    assert "no_such_library, which is not installed" in ended.err
    assert "pip install 'latentc[bench]'" in ended.err
