"""The peers' table: what is made once, what fails as a row, and what the page says."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from artifacts.errors import LatentcError
from bench.bench_request import BenchRequest
from bench.interleaved_run import Outcome
from bench.project import peers
from bench.project.memlimit import Usage
from bench.project.peers import making, measure
from bench.project.peers.contenders import OURS, PEERS
from bench.project.peers.making import Made, Maker
from bench.project.peers.peers_page import page
from compiler.source import open_model
from tests.bench.benches import made as bench_made
from tests.bench.benches import variant
from tests.latentc.artifacts_made import made

STABLE = {"text-to-image": "diffusers:StableDiffusionPipeline"}


class Fake(Maker):
    """Makes folders in place of files; what is listed in `fails` fails."""

    def __init__(self, work: Path, fails: tuple[str, ...] = ()) -> None:
        super().__init__(open_model("shapes"), work, None, lambda line: None)
        self.fails = fails
        self.runs: list[str] = []

    def _run(self, what: str, command: Any, peer: bool = False) -> Made:
        self.runs.append(what)
        out = Path(command[-1]) if peer else Path(command[command.index("compile") + 2])
        if peer:
            out.mkdir()
            (out / "model.xml").write_bytes(b"12345")
        else:
            made(out, pipelines=STABLE)
        return Made(2.5, 1000, "it said no" if what in self.fails else "")


@pytest.fixture
def benched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was benched; the figures are made up."""
    asked: list[Any] = []

    def bench(request: BenchRequest, command: Any, progress: Any, others: Any) -> Outcome:
        asked.extend([request, others])
        names = [Path(path).name for path in request.artifacts]
        rows = [variant(name) for name in names] + [
            variant(o.name, kind="peer", compile_s=o.compile_s) for o in others
        ]
        return Outcome(bench_made(*rows), {})

    monkeypatch.setattr(measure, "bench", bench)
    monkeypatch.setattr(peers, "python", lambda name, tell=None: Path(sys.executable))
    return asked


def run(maker: Maker) -> Outcome:
    request = BenchRequest(artifacts=())
    return measure.measure(request, maker.model, OURS, PEERS, maker, ["again"], lambda event: None)


def test_all_are_made_from_one_model_and_an_export_serves_two(tmp_path: Path, benched: list[Any]) -> None:
    maker = Fake(tmp_path)
    outcome = run(maker)
    assert maker.runs == [
        *(artifact.name for artifact in OURS),
        "optimum-intel: export",
        "optimum-onnx: export",
    ]
    request, others = benched
    assert [Path(path).name for path in request.artifacts] == [
        artifact.name.replace(" ", "-") for artifact in OURS
    ]
    assert request.reference == "shapes"
    assert [other.name for other in others] == [peer.name for peer in PEERS]
    by_name = {other.name: other for other in others}
    intel, genai = by_name["optimum-intel fp16"], by_name["openvino_genai fp16"]
    assert (intel.bytes, intel.compile_s, intel.compile_memory) == (5, 2.5, 1000)
    assert json.loads(intel.command[-1]) == json.loads(genai.command[-1])
    assert (intel.command[-2], genai.command[-2]) == ("optimum-intel", "openvino-genai")
    assert intel.env["PYTHONPATH"] == "" and intel.env.get("HF_HUB_OFFLINE", "1") == "1"
    assert not {"LATENTC_CACHE", "LATENTC_THREADS"} & set(intel.env)
    options = json.loads(by_name["torch.compile bf16"].command[-1])
    assert (options["precision"], options["channels_last"], options["compile"]) == ("bf16", True, True)
    caches = [other.env["TORCHINDUCTOR_CACHE_DIR"] for other in others if other.about["target"] == "pytorch"]
    assert len(set(caches)) == len(caches) == 3 and not any(list(Path(folder).iterdir()) for folder in caches)
    assert all(other.kind == "peer" for other in others)
    own = outcome.bench.variant(OURS[0].name.replace(" ", "-"))
    assert own is not None and own.compile_s == 2.5


def test_artifacts_that_are_there_stand_beside_those_that_are_made(
    tmp_path: Path, benched: list[Any]
) -> None:
    maker = Fake(tmp_path)
    request = BenchRequest(artifacts=("mine",))
    measure.measure(request, maker.model, OURS[:1], (), maker, ["again"], lambda event: None)
    assert [Path(path).name for path in benched[0].artifacts] == ["latentc-openvino", "mine"]


def test_what_was_made_for_the_same_model_is_not_made_again(tmp_path: Path, benched: list[Any]) -> None:
    run(Fake(tmp_path, fails=("optimum-onnx: export",)))
    again = Fake(tmp_path)
    outcome = run(again)
    assert again.runs == ["optimum-onnx: export"]
    own = outcome.bench.variant(OURS[0].name.replace(" ", "-"))
    assert own is not None and own.compile_s == 2.5
    other = Fake(tmp_path)
    other.model = dataclasses.replace(other.model, id="another")
    other.ours(OURS[0])
    assert other.runs == [OURS[0].name]


def test_a_variant_of_ours_is_the_fastest_that_a_search_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[Any] = []
    monkeypatch.setattr(
        Fake, "_run", lambda self, what, command, peer=False: commands.append(command) or Made(1, 1)
    )
    for artifact in OURS[::2]:
        Fake(tmp_path).ours(artifact)
    plain, fastest = ([word for word in command if word.startswith("--")] for command in commands)
    assert plain == ["--target", "--check", "--force"] and fastest == [*plain, "--fastest"]


def test_a_few_of_ours_and_of_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def stop(request: Any, model: Any, ours: Any, others: Any, *rest: Any) -> Outcome:
        asked.extend([*ours, *others])
        raise LatentcError("enough")

    monkeypatch.setattr(measure, "measure", stop)
    names = ["latentc onnxruntime", "optimum-onnx fp32"]
    assert measure.main(["--ours", names[0], "--peer", names[1], "--work", str(tmp_path)]) == 1
    assert [contender.name for contender in asked] == names


def test_a_peer_that_cannot_be_made_is_a_row(tmp_path: Path, benched: list[Any]) -> None:
    outcome = run(Fake(tmp_path, fails=("optimum-onnx: export",)))
    failed = outcome.bench.variant("optimum-onnx fp32")
    assert failed is not None and failed.error == "its export failed: it said no"
    text = page(outcome.bench, "shapes")
    assert "- optimum-onnx fp32 failed: its export failed: it said no" in text
    assert "| optimum-intel fp16 | 2.5 s |" in text
    assert "- The fastest step on openvino is that of " in text
    assert "- The fastest step on onnxruntime" not in text, "nobody else's was measured"


def test_an_environment_that_cannot_be_made_is_a_row(
    tmp_path: Path, benched: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def python(name: str, tell: Any = None) -> Path:
        if name == "openvino-genai":
            raise LatentcError("pip install failed:\nno matching distribution")
        return Path(sys.executable)

    monkeypatch.setattr(peers, "python", python)
    failed = run(Fake(tmp_path)).bench.variant("openvino_genai fp16")
    assert failed is not None and failed.error == "no matching distribution"


def test_ours_that_fails_ends_it(tmp_path: Path, benched: list[Any]) -> None:
    with pytest.raises(LatentcError, match="latentc openvino: it said no"):
        run(Fake(tmp_path, fails=("latentc openvino",)))


def test_what_was_killed_for_its_memory_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(command: Any, limit: int, **options: Any) -> Usage:
        assert limit == 100 << 20
        return Usage(137, True, 1.0, None, limit, None)

    monkeypatch.setattr(making.memlimit, "run", killed)
    maker = Maker(open_model("shapes"), tmp_path, 100 << 20, lambda line: None)
    _, took = maker.ours(OURS[0])
    assert took.error == "killed: it needs more than 100 MiB"
    assert took.memory == 100 << 20


def test_every_peers_environment_and_loader_is_there() -> None:
    text = (peers.HERE / "peer_engines.py").read_text(encoding="utf-8")
    for peer in PEERS:
        if peer.loader is not None:
            assert f'"{peer.loader}":' in text and peer.environment in peers.PEERS
            assert peer.export is not None and peer.export.peer in peers.PEERS


def test_peers_are_run_without_our_packages() -> None:
    code = (
        "import runpy, sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in {'artifacts', 'bench', 'compiler', 'latentc', 'runtimes', 'targets'}:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        f"runpy.run_path({str(peers.HERE / 'peer_engines.py')!r}, run_name='peer_engines')\n"
    )
    result = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
