"""`compile --fastest`: which ways there are for a model, what is compiled for each, and what is published."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from artifacts.errors import LatentcError, UsageError
from artifacts.evidence_records import SpeedTrial
from artifacts.manifest import WeightRecord
from artifacts.manifest_reading import read_manifest
from artifacts.publish import replace_manifest
from artifacts.verification import Artifact, verify
from compiler import fastest_compile as fastest
from compiler import speed_tuning
from compiler.compile_request import CompileRequest
from compiler.fastest_compile import Trials, _ways
from compiler.lowering.compile_cache import CompileCache
from compiler.speed_gate import Gate
from compiler.speed_search import Combination, NothingFaster, Unchanged
from runtimes import byte_products
from runtimes.byte_products import multiplies_bytes
from targets import target_table as targets
from tests.latentc.artifacts_made import made

REQUEST = CompileRequest("shapes", Path("out"), "onnxruntime")


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[CompileRequest]:
    """Requests that are compiled, to artifacts of a few bytes; a scheme for "unet" quantizes a weight of it."""
    requests: list[CompileRequest] = []

    def compile(request: CompileRequest, *args: Any, **kwargs: Any) -> Artifact:
        requests.append(request)
        if request.out.exists():
            shutil.rmtree(request.out)
        manifest = made(request.out)
        weight = WeightRecord(key="w", scheme="int8", parameters=8, bytes=8, error=0.1)
        weights = (weight,) if "unet=" in str(request.quantize) else ()
        graph = manifest.graphs[0].model_copy(update={"weights": weights})
        new = manifest.model_copy(update={"graphs": (graph,)})
        replace_manifest(request.out, read_manifest(request.out), new)
        return Artifact(request.out, read_manifest(request.out))

    monkeypatch.setattr(fastest.build, "compile", compile)
    return requests


def test_each_combination_is_compiled_once_and_what_changes_nothing_is_told(
    tmp_path: Path, compiled: list[CompileRequest]
) -> None:
    trials = Trials(REQUEST, tmp_path, CompileCache(), lambda event: None)
    quantized = Combination(recipe=(("unet", "int8"),))
    assert trials.root(quantized) == trials.root(replace(quantized, compute="bf16", tolerance=0.1))
    assert [(r.quantize, r.check, r.pictures) for r in compiled] == [("unet=int8", "none", 0)]
    assert trials.root(Combination()) != trials.root(quantized) and len(compiled) == 2
    for nothing in (Combination(recipe=(("vae", "int8"),)), Combination(approximations=("pooled-keys",))):
        with pytest.raises(Unchanged, match="it changes nothing .(vae|pooled-keys)"):
            trials.root(nothing)
    assert trials.request(Combination()).quantize == "" and compiled[-1].approximate == "pooled-keys"


def test_the_ways_of_a_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastest, "faster_types", lambda manifest, device: ("bf16",))
    monkeypatch.setattr(fastest, "other_threads", lambda: (4,))
    manifest = made(tmp_path / "out")
    shares = {"text_encoder": 0.05, "vae": 0.15, "unet": 0.7}
    for wide, label in ((True, "int8-activations:bits=8"), (False, "int8-activations")):
        monkeypatch.setattr(fastest, "multiplies_bytes", lambda wide=wide: wide)
        names = [way.name for way in _ways(targets.get("onnxruntime"), manifest, shares)]
        quantized = [f"unet={label}", f"vae={label}"]
        assert names == ["bf16", "4 threads", "pooled-keys", *quantized, "forecast steps"]
    # TensorRT's layers want activations of another type; none is tried that it does not read.
    names = [way.name for way in _ways(targets.get("directml"), manifest, shares)]
    assert "pooled-keys" not in names


@pytest.mark.parametrize("ending", ["found", "unchecked", "stopped", "nothing"])
def test_what_is_published(
    tmp_path: Path, compiled: list[CompileRequest], monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    best = Combination(threads=2, recipe=(("unet", "int8"),))

    class Searched:
        def __init__(self, drawings: Any, ways: Sequence[Any], gate: Gate, *rest: Any, alone: bool) -> None:
            assert gate.min_psnr == 40.0 and ways and not alone
            self.best = best
            self.trials = [SpeedTrial(way="2 threads", combination=str(best), speed_up=1.5, kept=True)]

        def fastest(self) -> Any:
            if ending == "stopped":
                trials[0].root(best)
                raise KeyboardInterrupt
            if ending == "nothing":
                raise NothingFaster("nothing that was tried draws faster")
            return best, ()

    trials: list[Trials] = []
    own = Trials.__init__

    def noted(self: Trials, *args: Any) -> None:
        own(self, *args)
        trials.append(self)

    drawings = SimpleNamespace(
        draw_reference=lambda *prompts: prompts, shares={"unet": 1.0}, device="cpu", seconds=30.0
    )
    monkeypatch.setattr(Trials, "__init__", noted)
    monkeypatch.setattr(fastest, "Drawings", lambda *args: nullcontext(drawings))
    monkeypatch.setattr(speed_tuning, "SpeedSearch", Searched)
    notes: list[str] = []
    request = replace(REQUEST, out=tmp_path / "out", check="none" if ending == "unchecked" else "quick")
    if ending == "unchecked":  # the trial is all that a compile would make
        fastest.compile(request, 40.0, lambda event: notes.append(event.task))
        assert len(compiled) == 2 and all(made.out != request.out for made in compiled)
        # Two compiles, three times 40 s for activations, a trial of each way, levels of a tolerance, verification.
        assert any(note.endswith("ways to be faster, about 6 min in all") for note in notes)
    elif ending == "found":
        manifest = fastest.compile(request, 40.0).manifest
        assert (compiled[-1].out, compiled[-1].check, compiled[-1].quantize) == (
            tmp_path / "out",
            "quick",
            "unet=int8",
        )
    else:
        with pytest.raises(KeyboardInterrupt if ending == "stopped" else LatentcError) as caught:
            fastest.compile(request, 40.0)
        hint = "Compile it without --fastest."
        assert ending == "stopped" or isinstance(caught.value, LatentcError) and caught.value.hint == hint
        assert (tmp_path / "out").exists() == (ending == "stopped")
    assert [path.name for path in tmp_path.iterdir()] == ["out"] * (ending != "nothing")
    if ending == "nothing":
        return
    manifest = read_manifest(tmp_path / "out")
    assert not verify(tmp_path / "out") and manifest.graphs[0].weights
    assert manifest.speed is not None and manifest.speed.threads == 2
    assert manifest.speed.verified is False and len(manifest.speed.trials) == 1


def test_what_is_chosen_cannot_be_asked_for_and_pictures_must_be_drawn_here(
    tmp_path: Path, compiled: list[CompileRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    for wrong in ({"quantize": "int8"}, {"approximate": "pooled-keys"}):
        with pytest.raises(UsageError, match="--fastest chooses what is quantized"):
            fastest.compile(replace(REQUEST, **wrong))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="more than 0 and less than 100 dB"):
        fastest.compile(REQUEST, 0.0)
    (tmp_path / "taken").write_text("")
    with pytest.raises(UsageError, match="is a file, not a folder"):
        fastest.compile(replace(REQUEST, out=tmp_path / "taken"))
    factory = SimpleNamespace(devices=lambda: ())
    monkeypatch.setattr("runtimes.sessions.session_table.get", lambda target: factory)
    with pytest.raises(LatentcError, match="'onnxruntime' cannot be drawn with here"):
        fastest.compile(replace(REQUEST, out=tmp_path / "out"))
    assert compiled == []


@pytest.mark.parametrize(
    ("machine", "flags", "wide"),
    [
        ("x86_64", "fpu avx2", False),
        ("AMD64", "avx512f avx512_vnni", True),
        ("x86_64", "amx_int8", True),
        ("arm64", "", True),
    ],
)
def test_products_of_bytes(machine: str, flags: str, wide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_products.platform, "machine", lambda: machine)
    text = f"processor : 0\nflags\t: {flags}\n"
    monkeypatch.setattr(byte_products.Path, "read_text", lambda self, **kwargs: text)
    assert multiplies_bytes() is wide
