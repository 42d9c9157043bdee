"""`latentc compile`: what reaches the compiler, and what is printed of its plan and its result."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from artifacts.evidence_records import Evidence
from artifacts.manifest import DimRange, Recipe, RecipeComponent
from artifacts.progress import Event
from artifacts.verification import Artifact
from compiler import build, compile_request
from compiler.capture import declared_sizes
from compiler.plan import Plan, PlannedGraph
from compiler.quantize.recipe import read
from tests.latentc.artifacts_made import made

PLAN = Plan(
    components=(
        PlannedGraph(
            "unet", "forward", "unet", "fp16", 7_200_000, 14_400_000, "sample [batch 1..4, 4, 64, 64]"
        ),
    ),
    total_bytes=14_400_000,
    free_bytes=50_000_000_000,
    peak_memory=900_000_000,
    notes=("image_encoder: left out, because no call of the pipeline reaches it.",),
)


@pytest.fixture
def requests(monkeypatch, tmp_path):
    """The requests that reached the compiler, which makes a small artifact of each."""
    seen: list[compile_request.CompileRequest] = []

    def compile(request, progress, on_plan):
        seen.append(request)
        if on_plan is not None:
            on_plan(PLAN)
        progress(Event("unet: reused from an earlier run", 1, 1))
        return Artifact(tmp_path / "out", made(tmp_path / "out"))

    def plan(request, progress):
        seen.append(request)
        return PLAN

    monkeypatch.setattr(build, "compile", compile)
    monkeypatch.setattr(build, "plan", plan)
    return seen


def test_defaults(latentc, requests):
    ended = latentc("compile", "shapes", "out", "--target", "openvino")
    assert ended.code == 0, ended.err
    assert requests == [compile_request.CompileRequest("shapes", Path("out"), "openvino")]


def test_every_option_reaches_the_compiler(latentc, requests):
    args = "compile m out -t onnxruntime --precision bf16 --task inpaint --task text-to-image --task inpaint"
    args += " --size 256..1024x512 --batch 1..4 --check full -o fix=height=512 --arg class_labels=[1] --force"
    assert latentc(*args.split()).code == 0
    assert requests == [
        compile_request.CompileRequest(
            model="m",
            out=Path("out"),
            target="onnxruntime",
            precision="bf16",
            tasks=("inpaint", "text-to-image"),
            size=declared_sizes.SizeRange(
                width=DimRange(min=256, max=1024), height=DimRange(min=512, max=512)
            ),
            batch=DimRange(min=1, max=4),
            check="full",
            options={"fix": "height=512"},
            arguments={"class_labels": "[1]"},
            force=True,
        )
    ]


def test_the_plan_comes_first_and_the_error_last(latentc, requests, tmp_path):
    out = latentc("compile", "shapes", "out", "-t", "openvino").out
    for expected in ("7.2 M", "14.4 MB", "free: 50.0 GB", "about 900.0 MB", "image_encoder: left out"):
        assert expected in out
    assert out.splitlines()[-1] == "Worst relative error to PyTorch: 1.2e-03 (unet) in fp32."
    assert max(map(len, out.splitlines()[:-2])) <= 100


def test_what_was_reused_is_told(latentc, requests):
    assert "unet: reused from an earlier run" in latentc("compile", "shapes", "out", "-t", "openvino").err


def test_what_was_not_measured_is_the_last_word(latentc, requests, tmp_path, monkeypatch):
    graph = made(tmp_path / "out").graphs[0]
    unmeasured = graph.model_copy(
        update={"evidence": (Evidence(check="not measured", reason="--check none"),)}
    )
    manifest = made(tmp_path / "out", graphs=(unmeasured,))
    monkeypatch.setattr(build, "compile", lambda *_: Artifact(tmp_path / "out", manifest))
    out = latentc("compile", "shapes", "out", "-t", "openvino").out
    assert out.splitlines()[-1] == "Not measured: unet (--check none)."


def test_a_dry_run_prints_the_plan_and_compiles_nothing(latentc, requests, monkeypatch):
    monkeypatch.setattr(build, "compile", None)
    assert "To write: 14.4 MB" in latentc("compile", "shapes", "out", "-t", "openvino", "--dry-run").out
    found = json.loads(latentc("compile", "shapes", "out", "-t", "openvino", "--dry-run", "--json").out)
    assert found["total_bytes"] == 14_400_000
    assert found["components"][0]["folder"] == "unet"


def test_json_is_the_manifest_and_nothing_else(latentc, requests, tmp_path):
    found = json.loads(latentc("compile", "shapes", "out", "-t", "openvino", "--json").out)
    assert found["artifact"] == str(tmp_path / "out")
    assert found["manifest"]["target"] == "onnxruntime"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("compile m", "Missing argument 'OUT'"),
        ("compile m out", "Missing option '--target'"),
        ("compile m out -t openvino --precision fp8", "'fp8' is not one of"),
        ("compile m out -t openvino --task upscale", "'upscale' is not one of"),
        ("compile m out -t openvino --size 64..32", "expected WIDTHxHEIGHT or a range"),
        ("compile m out -t openvino --batch 0", "is no range"),
        ("compile m out -t openvino -o fix", "expected NAME=VALUE"),
        ("compile m out -t openvino --arg a=1 --arg a=2", "'a' is given twice"),
    ],
)
def test_wrong_requests_exit_2(latentc, requests, args, message):
    ended = latentc(*args.split())
    assert ended.code == 2
    assert message in " ".join(ended.err.split())
    assert not requests


def test_an_unknown_target_names_those_there_are(latentc, tmp_path):
    ended = latentc("compile", "m", tmp_path / "out", "--target", "openvno")
    assert ended.code == 2
    assert "there is no target 'openvno' (there are: onnxruntime, openvino, directml, tensorrt)" in ended.err
    assert "latentc targets" in ended.err


def test_a_model_that_is_not_there(latentc, tmp_path):
    ended = latentc("compile", tmp_path / "none", tmp_path / "out", "--target", "onnxruntime")
    assert ended.code == 1
    assert "there is no model" in ended.err
    assert not (tmp_path / "out").exists()


def test_quantization_reaches_the_compiler_and_its_recipe_is_saved(latentc, requests, monkeypatch, tmp_path):
    recipe = Recipe(
        components={"unet": RecipeComponent(scheme="int8", options={"asymmetric": False, "small": 1})}
    )
    row = replace(PLAN.components[0], scheme="int8")
    monkeypatch.setitem(globals(), "PLAN", replace(PLAN, components=(row,), recipe=recipe))
    file = tmp_path / "recipe.toml"
    args = ["compile", "m", "out", "-t", "openvino", "--quantize", "unet=int8", "--save-recipe", file]
    for more in ([], ["--dry-run"]):
        file.unlink(missing_ok=True)
        ended = latentc(*args, *more)
        assert ended.code == 0, ended.err
        assert requests[-1].quantize == "unet=int8"
        assert "fp16, int8" in ended.out
        assert read(str(file)) == recipe
    found = json.loads(latentc(*args, "--dry-run", "--json").out)
    assert found["recipe"] == recipe.model_dump(mode="json")
    assert latentc("compile", "m", "out", "-t", "openvino", "--save-recipe", file).code == 2


def test_calibration_prompts_are_read_from_a_file(latentc, requests, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a cat\n\n  a dog \n", encoding="utf-8")
    args = ["compile", "m", "out", "-t", "openvino", "--quantize", "unet=int8-activations", "--pictures", "3"]
    assert latentc(*args, "--calibration", file).code == 0
    assert (requests[-1].calibration, requests[-1].pictures) == (("a cat", "a dog"), 3)
    file.write_text("\n", encoding="utf-8")
    assert latentc(*args, "--calibration", file).code == 2


def test_a_method_is_put_into_the_spec(latentc, requests):
    args = ["compile", "m", "out", "-t", "openvino", "--method", "gptq"]
    assert latentc(*args, "--quantize", "unet=int4,vae=int8").code == 0
    assert requests[-1].quantize == read("unet=int4:method=gptq,vae=int8")
    for wrong in ([], ["--quantize", "auto"], ["--quantize", "int8"], ["--quantize", "nf4"]):
        ended = latentc(*args, *wrong)
        assert (ended.code, len(requests)) == (2, 1)
        assert "--method" in ended.err
    assert latentc(*args[:-1], "rtn", "--quantize", "int4").code == 2


def test_auto_reaches_the_search_with_its_budget(latentc, requests, monkeypatch, tmp_path):
    from compiler import auto

    asked = []

    def search(request, budget, progress, on_plan):
        asked.append((request, budget))
        return build.compile(request, progress, on_plan)

    monkeypatch.setattr(auto, "compile", search)
    args = ["compile", "m", "out", "-t", "openvino", "--quantize", "auto"]
    assert latentc(*args, "--min-psnr", "40").code == 0
    assert latentc(*args, "--max-bytes", "1.5M").code == 0
    assert [budget for _, budget in asked] == [auto.Budget(min_psnr=40.0), auto.Budget(max_bytes=1_500_000)]
    assert asked[0][0].quantize == ""
    assert latentc(*args, "--min-psnr", "40", "--dry-run").code == 2
    assert latentc("compile", "m", "out", "-t", "openvino", "--min-psnr", "40").code == 2


def test_the_fastest_is_searched_for_by_itself(latentc, requests, monkeypatch, tmp_path):
    from compiler import fastest_compile

    asked = []

    def search(request, min_psnr, progress, on_plan):
        asked.append((request, min_psnr))
        return build.compile(request, progress, on_plan)

    monkeypatch.setattr(fastest_compile, "compile", search)
    args = ["compile", "m", "out", "-t", "openvino", "--fastest"]
    assert latentc(*args).code == 0
    assert latentc(*args, "--min-psnr", "40", "--size", "64").code == 0
    assert [min_psnr for _, min_psnr in asked] == [45.0, 40.0]
    assert (asked[1][0].quantize, asked[1][0].approximate, asked[1][0].size.width.max) == ("", "", 64)
    for wrong in (["--quantize", "int8"], ["--accelerate", "45"], ["--max-bytes", "1M"], ["--dry-run"]):
        ended = latentc(*args, *wrong)
        assert ended.code == 2 and "--fastest" in ended.err, wrong
    assert len(asked) == 2


def test_approximations_reach_the_compiler(latentc, requests):
    assert latentc("compile", "m", "out", "-t", "openvino", "--approximate", "pooled-keys").code == 0
    assert requests[-1].approximate == "pooled-keys"
