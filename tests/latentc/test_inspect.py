"""`latentc inspect`, of an artifact and of a model."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from artifacts.evidence_records import Calibration, Evidence, PipelineEvidence, SpeedChoice, SpeedTrial
from artifacts.manifest import MANIFEST_NAME, LeftOut, WeightRecord
from artifacts.manifest_reading import read_manifest
from artifacts.publish import replace_manifest
from tests.artifacts.manifest_files import manifest_file
from tests.latentc.artifacts_made import made


def test_an_artifact(latentc, tmp_path):
    made(tmp_path)
    ended = latentc("inspect", tmp_path)
    assert ended.code == 0
    for expected in (
        "unet.forward",
        "7.2 M",
        "quick: 1.2e-03 (limit 2e-02)",
        "sample float32[batch=1..4, 4, height=64, 64]",
        "onnxruntime, device cpu, weights in fp16",
        "height 512",
        "mid_block: its values reach 70,000",
    ):
        assert expected in ended.out
    assert max(map(len, ended.out.splitlines())) <= 100


def test_what_was_not_measured_is_called_so(latentc, tmp_path):
    manifest = made(tmp_path)
    graph = manifest.graphs[0].model_copy(
        update={"evidence": (Evidence(check="not measured", reason="it needs 9 GB"),)}
    )
    made(tmp_path, graphs=(graph,))
    shown = latentc("inspect", tmp_path).out
    assert "not measured: it needs 9 GB" in shown and "measured  in no type that is known" in shown


def test_each_type_is_shown_and_one_that_fails_is_told(latentc, tmp_path):
    manifest = made(tmp_path)
    failed = Evidence(
        compute="bf16", device="cpu", check="quick", error={"out_sample": 0.4}, tolerance=0.13,
        broken="relative error of out_sample 0.4; at most 0.13 is allowed",
    )  # fmt: skip
    (graph,) = manifest.graphs
    made(tmp_path, graphs=(graph.model_copy(update={"evidence": (*graph.evidence, failed)}),))
    shown = " ".join(latentc("inspect", tmp_path).out.split())
    assert "measured fp32 and bf16 on cpu" in shown
    assert "fp32 on cpu, quick: 1.2e-03 (limit 2e-02)" in shown
    assert "bf16 on cpu, quick: fails, so it is computed in fp32" in shown


def test_memory_is_derived_from_files_and_the_largest_shapes(latentc, tmp_path):
    made(tmp_path)
    shown = latentc("inspect", tmp_path, "--memory")
    assert shown.code == 0 and "all graphs stay open" in shown.out and "not measured" in shown.out
    answer = json.loads(latentc("inspect", tmp_path, "--memory", "--json").out)
    tensors = 2 * 4 * 4 * 64 * 64 * 4
    assert answer["graphs"] == [
        {
            "graph": "unet",
            "opening": 70,
            "open": 70,
            "mapped": 0,
            "call": tensors,
            "total": 70 + tensors,
            "basis": "derived",
        }
    ]
    assert latentc("inspect", tmp_path, "--memory", "--against", tmp_path).code == 2
    assert latentc("inspect", tmp_path, "--size", "64").code == 2, "it is of --memory"
    assert answer["together"] == answer["smallest"] == 70 + tensors


def test_json_is_the_manifest(latentc, tmp_path):
    manifest = made(tmp_path)
    found = json.loads(latentc("inspect", tmp_path, "--json").out)
    assert found == json.loads((tmp_path / MANIFEST_NAME).read_text())
    assert found["graphs"][0]["folder"] == manifest.graphs[0].folder


def test_a_damaged_manifest_is_no_model(latentc, tmp_path):
    (tmp_path / MANIFEST_NAME).write_text("{")
    ended = latentc("inspect", tmp_path)
    assert ended.code == 1
    assert MANIFEST_NAME in ended.err


@pytest.fixture
def model(tmp_path):
    """A diffusers folder with one component that has weights and one that has none."""
    root = tmp_path / "model"
    (root / "vae").mkdir(parents=True)
    (root / "scheduler").mkdir()
    index = {
        "_class_name": "StableDiffusionPipeline",
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": [None, None],
    }
    (root / "model_index.json").write_text(json.dumps(index))
    tensors = {"a": np.zeros((3, 5), np.float16), "b": np.zeros(4, np.float32)}
    save_file(tensors, root / "vae" / "diffusion_pytorch_model.safetensors")
    return root


def test_a_model(latentc, model):
    ended = latentc("inspect", model, "--json")
    found = json.loads(ended.out)
    assert found["pipeline"] == "StableDiffusionPipeline"
    vae, scheduler = found["components"]
    assert (vae["parameters"], vae["bytes"]) == (19, 46)
    assert vae["dtypes"] == {"float16": 30, "float": 16}
    assert scheduler == {"name": "scheduler", "class": "diffusers.DDIMScheduler"}
    text = latentc("inspect", model).out
    assert "diffusers.AutoencoderKL" in text
    assert "46 B" in text


def test_pickled_weights_are_refused(latentc, model):
    (model / "vae" / "diffusion_pytorch_model.safetensors").rename(
        model / "vae" / "diffusion_pytorch_model.bin"
    )
    ended = latentc("inspect", model)
    assert ended.code == 1
    assert "are a pickle (diffusion_pytorch_model.bin)" in ended.err


def test_neither_artifact_nor_model(latentc, tmp_path):
    ended = latentc("inspect", tmp_path / "none")
    assert ended.code == 1
    assert "there is no model" in ended.err


def test_a_quantized_artifact_shows_its_worst_weights(latentc, tmp_path):
    manifest = made(tmp_path)
    weights = tuple(
        WeightRecord(
            key=f"block.{i}.weight", scheme="int4:group=64", parameters=1000, bytes=531, error=i / 1000
        )
        for i in range(12)
    )
    other = WeightRecord(
        key="conv_in.weight", scheme="int8", parameters=1000, bytes=1010, error=0.0, note="int8: 36 inputs"
    )
    spared = WeightRecord(key="time.bias", scheme="none", parameters=0, bytes=0, error=None)
    graph = manifest.graphs[0].model_copy(update={"weights": (*weights, other, spared)})
    made(tmp_path, graphs=(graph,))
    ended = latentc("inspect", tmp_path)
    assert ended.code == 0
    shown = [line for line in ended.out.splitlines() if "block." in line]
    assert [line.split()[1] for line in shown] == [f"block.{i}.weight" for i in range(11, 1, -1)]
    assert "1.10%" in shown[0] and "4.25" in shown[0]
    assert "time.bias" not in ended.out
    assert "14 weights with 13,000 parameters, 4.54 bits each." in ended.out
    assert "int8: 36 inputs (unet: conv_in.weight)" in ended.out
    assert "fp16, int4 and int8" in ended.out


def test_a_weight_of_no_elements(latentc, tmp_path):
    """Its manifest is valid, and no compile writes it."""
    manifest = made(tmp_path)
    none = WeightRecord(key="block.weight", scheme="int8", parameters=0, bytes=2**62, error=1e308)
    made(tmp_path, graphs=(manifest.graphs[0].model_copy(update={"weights": (none,)}),))
    ended = latentc("inspect", tmp_path)
    assert ended.code == 0
    (row,) = (line for line in ended.out.splitlines() if "block.weight" in line)
    assert row.split()[3] == "-"


@pytest.mark.parametrize(
    ("number", "where"), [(-1, "parameters"), (2**63, "parameters"), (-1, "size"), (0.5, "parameters")]
)
def test_a_count_that_is_none(latentc, tmp_path, number, where):
    made(tmp_path)
    file = tmp_path / MANIFEST_NAME
    value = json.loads(file.read_text(encoding="utf-8"))
    (value["graphs"] if where == "parameters" else value["files"])[0][where] = number
    file.write_bytes(manifest_file(value))
    ended = latentc("inspect", tmp_path)
    assert ended.code == 1 and where in ended.err and "Traceback" not in ended.err


def test_what_the_target_says_of_its_files(latentc, tmp_path):
    manifest = made(tmp_path)
    built = {"coverage": "4 of 4 nodes", "graphs": [{"file": "a"}], "empty": ""}
    made(tmp_path, graphs=(manifest.graphs[0].model_copy(update={"built": built}),))
    assert "built     unet: coverage 4 of 4 nodes\n" in latentc("inspect", tmp_path).out


def test_a_component_in_parts(latentc, tmp_path):
    manifest = made(tmp_path)
    (unet,) = manifest.components
    method = unet.methods[0].model_copy(update={"method": "mid_block.forward"})
    made(tmp_path, components=(unet.model_copy(update={"methods": (method,)}),))
    assert "in parts  unet: 1 graphs, its own Python between them\n" in latentc("inspect", tmp_path).out


def test_the_pipelines_picture_and_parts_that_are_left_out(latentc, tmp_path):
    drawn = PipelineEvidence(
        task="text-to-image", check="quick", compute="fp32", device="cpu", width=32, height=64, steps=2,
        error=2e-4, tolerance=1e-3, calls=6, loop=0.0,
    )  # fmt: skip
    missing = PipelineEvidence(task="inpaint", check="not measured", reason="it takes 9 GiB of memory")
    part = LeftOut(name="safety_checker", class_name="Checker", reason="it is optional")
    made(tmp_path, pipeline_evidence=(drawn, missing), left_out=(part,))
    shown = " ".join(latentc("inspect", tmp_path).out.split())
    assert (
        "Pipeline of text-to-image in fp32 on cpu, 2 steps of 32x64: relative error to PyTorch's picture 2.0e-04, "
        "limit 1e-03; its loop, with PyTorch's results of 6 calls of components: 0.0e+00." in shown
    )
    assert "Pipeline of inpaint: not measured (it takes 9 GiB of memory)." in shown
    assert "Left out: safety_checker (Checker), because it is optional." in shown


def test_what_was_tried_for_speed_is_shown_again(latentc, tmp_path):
    trials = (
        SpeedTrial(
            way="bf16", combination="bf16", psnr=50.0, worst_psnr=48.0, speed_up=1.7, pictures=4, kept=True
        ),
        SpeedTrial(  # as it was kept before pictures were counted
            way="vae=int8", combination="vae=int8", psnr=30, worst_psnr=20, speed_up=1.1, reason="too far"
        ),
        SpeedTrial(way="pooled-keys", combination="pooled-keys", reason="it changes nothing"),
        SpeedTrial(
            way="verification", combination="bf16", psnr=49.0, worst_psnr=47.0, speed_up=1.6, kept=True
        ),
    )
    speed = SpeedChoice(
        min_psnr=45, worst_psnr_below=6, compute="bf16", cores=2, device="cpu", verified=True, trials=trials
    )
    made(tmp_path / "out", speed=speed)
    ended = latentc("inspect", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert "Chosen for speed on cpu: bf16; 45 dB to pictures as by default, worst 39; verified" in ended.out
    rows = [" ".join(line.split()) for line in ended.out.splitlines()]
    assert "bf16 bf16 50.0 dB 48.0 dB 4 1.70 kept" in rows
    assert "vae=int8 vae=int8 30.0 dB 20.0 dB - 1.10 too far" in rows
    assert "pooled-keys pooled-keys - - - - it changes nothing" in rows
    told = json.loads(latentc("inspect", tmp_path / "out", "--json").out)
    assert told["speed"]["trials"][1]["reason"] == "too far"


def test_what_ranges_of_activations_are_of_is_told(tmp_path, latentc):
    made(tmp_path / "out")
    manifest = read_manifest(tmp_path / "out")
    measured = Calibration(prompts=4, steps=5, calls=20, cut_calls=8, compute="bf16")
    weight = WeightRecord(key="w", scheme="int8-activations", parameters=8, bytes=8, error=0.1)
    graph = manifest.graphs[0].model_copy(update={"weights": (weight,), "calibration": measured})
    replace_manifest(tmp_path / "out", manifest, manifest.model_copy(update={"graphs": (graph,)}))
    ended = latentc("inspect", tmp_path / "out")
    assert (
        "Activations of unet in 8 bits: ranges of 20 calls in bf16, 8 of them with outliers cut off (4 prompts, 5 "
        "steps)." in ended.out
    ), ended.err
