"""LoRAs that are switched when an artifact runs: the pictures are those of diffusers, and errors change nothing."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import latentc
from artifacts.errors import LatentcError, UsageError
from artifacts.pinned import Pinned
from artifacts.verification import open_artifact
from compiler import build
from compiler.adaptable.switch import AdaptableArtifact, switched
from compiler.adaptable.weight_constants import Restored, rewritten
from compiler.capture.adapters import merged
from compiler.capture.weightless_modules import bind
from compiler.capture.weightless_modules import build as built
from compiler.lowering.compile_cache import CompileCache
from compiler.source import open_model
from latentc.api import sources
from tests.compiler.capture.test_adapters import kohya_state, peft_state, saved
from tests.compiler.made import request

pytestmark = pytest.mark.slow

TARGETS = ("onnxruntime", "openvino")


@pytest.fixture(scope="module")
def files(sd15, tmp_path_factory) -> dict[str, Any]:
    """The model in PyTorch, and LoRAs for it: of all kinds of layers that graphs hold in a form of their own."""
    from diffusers import StableDiffusionPipeline

    folder = tmp_path_factory.mktemp("loras")
    pipe = StableDiffusionPipeline.from_pretrained(sd15)
    pipe.set_progress_bar_config(disable=True)
    targets = {
        # Halves of GEGLU are layers of their own, and kernels of enlarged pictures are merged.
        "unet": ("to_q", "to_out.0", "proj_in", "conv1", "upsamplers.0.conv", "ff.net.0.proj", "ff.net.2"),
        "text_encoder": ("q_proj", "out_proj", "fc1"),
    }
    state = peft_state(pipe, targets)
    decomposed = peft_state(pipe, {"unet": ("to_k", "upsamplers.0.conv", "ff.net.0.proj")}, use_dora=True)
    return {
        "pipe": pipe,
        "style": saved(folder / "style.safetensors", state),
        "kohya": saved(folder / "kohya.safetensors", kohya_state(state, 1.0)),
        "dora": saved(folder / "dora.safetensors", decomposed),
    }


@pytest.fixture(scope="module")
def artifacts(sd15, tmp_path_factory) -> dict[str, Path]:
    """The tiny model, adaptable, for each target; for OpenVINO also in few bits."""
    folder = tmp_path_factory.mktemp("artifacts")
    roots, compile_cache = {}, CompileCache()
    for name, quantize in (
        ("onnxruntime", ""),
        ("openvino", ""),
        ("quantized", "unet=int4:group=32,text_encoder=int8"),
    ):
        target = "openvino" if name == "openvino" else "onnxruntime"
        wanted = request(
            folder / name, model=str(sd15), target=target, adaptable=True, quantize=quantize, pictures=0
        )
        roots[name] = build.compile(wanted, compile_cache=compile_cache).root
    return roots


def draw(pipe: Any) -> np.ndarray:
    result = pipe(
        "a dog",
        num_inference_steps=2,
        height=32,
        width=32,
        output_type="np",
        generator=torch.Generator().manual_seed(0),
    )
    return np.asarray(result.images[0], np.float64)


def fused(pipe: Any, file: str, weights: Any) -> np.ndarray:
    """The picture of diffusers with a LoRA."""
    pipe.load_lora_weights(file, adapter_name="style")
    pipe.set_adapters(["style"], [weights])
    try:
        return draw(pipe)
    finally:
        pipe.unload_lora_weights()


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("target", TARGETS)
def test_pictures_are_those_of_diffusers(artifacts, files, target):
    pytest.importorskip(target)
    with latentc.load(artifacts[target], cache=False, compute="fp32") as pipeline:
        plain = draw(pipeline)
        for file, weights in (
            (files["style"], 0.8),
            (files["kohya"], {"unet": -0.5, "text_encoder": 0.0}),
            (files["dora"], 0.7),
        ):
            wanted = fused(files["pipe"], file, weights)
            assert pipeline.set_loras({file: weights}) == ()
            got = draw(pipeline)
            assert distance(got, wanted) < 1e-3 < 0.01 < distance(got, plain)
        pipeline.set_loras({files["dora"]: 0.0})
        assert np.array_equal(draw(pipeline), plain)
        pipeline.set_loras({files["style"]: 0.8})
        result = pipeline.generate("a dog", steps=1, seed=0)
        assert len(pipeline.loras) == 1 and pipeline.with_task(pipeline.task).loras == pipeline.loras
        (said,) = result.parameters["loras"]
        assert said.startswith("style.safetensors at 0.8, SHA-256 ") and len(said.split()[-1]) == 64
        pipeline.set_loras({})
        assert np.array_equal(draw(pipeline), plain) and pipeline.loras == ()
        assert "loras" not in pipeline.generate("a dog", steps=1, seed=0).parameters


@pytest.fixture(scope="module")
def opened(artifacts) -> dict[str, AdaptableArtifact]:
    result = {}
    for name, root in artifacts.items():
        artifact = open_artifact(root)
        result[name] = AdaptableArtifact.of(artifact.root, artifact.manifest, Pinned(artifact))
    return result


@pytest.fixture(scope="module")
def origins(sd15) -> dict[str, Any]:
    from torch._subclasses.fake_tensor import FakeTensorMode

    source = open_model(str(sd15))
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    return {c.name: bind(built(c, mode), c) for c in source.modules}


@pytest.mark.parametrize("target", TARGETS)
def test_constants_tell_the_weights_that_they_are_made_of(opened, origins, target):
    seen = 0
    for component, graphs in opened[target].graphs.items():
        for graph in graphs:
            assert not graph.adaptable.fixed
            for name, shape in graph.adaptable.weights.items():
                restored = Restored(name, shape, (graph,)).read()
                assert np.array_equal(restored, origins[component][name].read().astype(np.float32))
                seen += 1
    assert seen > 300
    kept = {name for graphs in opened[target].graphs.values() for g in graphs for name in g.adaptable.kept}
    assert kept and all("upsamplers" in name for name in kept)


def test_weights_in_few_bits_are_restored_and_quantized_again(opened, origins, files, tmp_path):
    artifact = opened["quantized"]
    before = {record.key: record for graph in artifact.manifest.graphs for record in graph.weights}
    for component in ("unet", "text_encoder"):
        (graph,) = artifact.graphs[component]
        assert graph.adaptable.quantized
        for made in graph.adaptable.quantized:
            (part,) = {part.weight for part in made.made_of.parts}
            if part in graph.adaptable.kept or len(made.made_of.parts[0].steps) > 1:
                continue
            own = origins[component][part].read().astype(np.float32)
            restored = Restored(part, own.shape, (graph,)).read()
            known = before[made.key].error
            assert known and math.isclose(distance(restored, own), known, rel_tol=1e-3)
        # Quantized again as they are, the bytes are those of the file: nothing moves.
        names = {part.weight for made in graph.adaptable.quantized for part in made.made_of.parts}
        weights = {n: torch.from_numpy(origins[component][n].read().astype(np.float32)) for n in names}
        again, records = rewritten(graph, weights, names, tmp_path)
        assert all(np.array_equal(data, graph.stored[name].read()) for name, data in again.items())
        assert {r.key: r.error for r in records} == {r.key: before[r.key].error for r in records}
    adapters = sources.adapters({files["style"]: 0.8})
    made = switched(artifact, adapters)
    errors = [record.error for record in made.quantized]
    assert len(errors) > 20 and all(0 < error < 0.2 for error in errors)
    with latentc.load(artifact.root, cache=False) as pipeline:
        plain = draw(pipeline)
        assert [record.key for record in pipeline.set_loras(adapters)] == [r.key for r in made.quantized]
        wanted = fused(files["pipe"], files["style"], 0.8)
        assert distance(draw(pipeline), wanted) < 0.8 * distance(plain, wanted)


def test_kinds_of_lycoris_are_switched_as_they_are_merged(sd15, opened, origins, files, tmp_path):
    noise = torch.Generator().manual_seed(2)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=noise) * 0.2

    unet = files["pipe"].unet
    layers = {
        name: module
        for name, module in unet.named_modules()
        if name.endswith(("attn1.to_k", "attn2.to_v", "ff.net.0.proj", "upsamplers.0.conv"))
    }
    state: dict[str, torch.Tensor] = {}
    for number, (name, layer) in enumerate(layers.items()):
        prefix = f"lora_unet_{name.replace('.', '_')}"
        out, inner = layer.weight.shape[:2]
        kernel = tuple(layer.weight.shape[2:])
        if number % 3 == 0:
            state[f"{prefix}.diff"] = random(*layer.weight.shape)
        elif number % 3 == 1 and not kernel:
            for part in ("w1", "w2"):
                state[f"{prefix}.hada_{part}_a"], state[f"{prefix}.hada_{part}_b"] = (
                    random(out, 2),
                    random(2, inner),
                )
        else:
            state[f"{prefix}.lokr_w1"] = random(2, 2)
            state[f"{prefix}.lokr_w2"] = random(out // 2, inner // 2, *kernel)
        if number % 3:
            state[f"{prefix}.alpha"] = torch.tensor(1.0)
    adapters = sources.adapters({saved(tmp_path / "kinds.safetensors", state): 0.9})
    assert adapters is not None
    source = open_model(sources_spec(sd15, adapters))
    expected = merged(source, origins).weights["unet"]
    (graph,) = opened["onnxruntime"].graphs["unet"]
    made = switched(opened["onnxruntime"], adapters).constants["unet"]
    names = {f"{name}.weight" for name in layers}
    weights = {name: torch.from_numpy(expected[name].read().copy()) for name in names}
    wanted, _ = rewritten(graph, weights, names, tmp_path)
    assert made.keys() >= wanted.keys() and len(wanted) > len(names)  # split and merged ones are several
    for name, data in wanted.items():
        assert distance(made[name].view(np.float32), data.view(np.float32)) < 1e-5


def sources_spec(sd15: Path, adapters: Any) -> Any:
    from artifacts.manifest import ModelSpec

    return ModelSpec(model=str(sd15), adapters=adapters)


# --- what is refused -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running(artifacts, files) -> Iterator[Any]:
    with latentc.load(artifacts["onnxruntime"], cache=False) as pipeline:
        pipeline.set_loras({files["style"]: 0.5})
        yield pipeline, draw(pipeline)


def _nothing(path: Path) -> None:
    pass


def _pickle(path: Path) -> None:
    torch.save({"a": torch.ones(2)}, path)


def _truncated(path: Path) -> None:
    save_file({"unet.conv_in.lora_A.weight": torch.ones(2, 32)}, path)
    path.write_bytes(path.read_bytes()[:-10])


def _state(name: str, tensor: torch.Tensor) -> Any:
    return lambda path: save_file({name: tensor}, path)


BAD = {
    "missing": (_nothing, "there is no file"),
    "a folder": (Path.mkdir, "is a folder"),
    "empty": (Path.touch, "is truncated"),
    "no tensors": (lambda path: save_file({}, path), "holds no tensors"),
    "a pickle": (_pickle, "is a pickle"),
    "truncated": (_truncated, "is truncated"),
    "NaN": (_state("unet.conv_in.lora_A.weight", torch.full((2, 4), math.nan)), "is not finite"),
    "rank 0": (_state("unet.conv_in.lora_A.weight", torch.zeros(0, 4)), "rank 0"),
    "another model": (
        _state("transformer.blocks.0.attn.to_q.lora_A.weight", torch.ones(2, 2)),
        "weight|merged",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_is_one_line_and_the_pipeline_draws_as_before(running, tmp_path, monkeypatch, what):
    pipeline, picture = running
    make, message = BAD[what]
    make(tmp_path / "bad.safetensors")
    before = pipeline.loras
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    with pytest.raises(LatentcError, match=message) as caught:
        pipeline.set_loras({str(tmp_path / "bad.safetensors"): 0.8})
    assert "\n" not in caught.value.message
    assert what != "missing" or caught.value.hint.startswith("Name one that is there: ")
    assert pipeline.loras == before and np.array_equal(draw(pipeline), picture)
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize(
    "weight",
    [
        math.nan,
        math.inf,
        {"unet": -math.inf},
        1e300,
        {"unet": -1e39},
        pytest.param(10**400, id="of 400 digits"),
        "much",
        None,
        {"transformer": 1.0},
    ],
)
def test_a_bad_weight_is_refused(running, files, weight):
    pipeline, picture = running
    with pytest.raises(UsageError, match=r"finite number|no component 'transformer'|a number or a dict"):
        pipeline.set_loras({files["style"]: weight})
    assert np.array_equal(draw(pipeline), picture)


def test_a_file_that_is_given_twice(running, files):
    pipeline, _ = running
    with pytest.raises(UsageError, match="is given twice"):
        pipeline.set_loras([files["style"], f"{files['style']}:0.5"])


def test_a_graph_that_does_not_open_leaves_all_as_it_was(running, files, monkeypatch):
    from runtimes.sessions import onnxruntime

    pipeline, picture = running

    def refuse(*args: Any) -> Any:
        raise LatentcError("no memory")

    monkeypatch.setattr(onnxruntime.SESSION, "open_with", refuse, raising=False)
    before = pipeline.loras
    with pytest.raises(LatentcError, match="no memory"):
        pipeline.set_loras({files["style"]: 0.9})
    monkeypatch.undo()
    assert pipeline.loras == before and np.array_equal(draw(pipeline), picture)


def test_an_artifact_that_is_not_adaptable_says_how_it_would_be(running, files):
    from compiler.adaptable.switch import require_adaptable

    pipeline, _ = running
    records = tuple(f for f in pipeline.manifest.files if not f.path.endswith("adaptable.json"))
    plain = pipeline.manifest.model_copy(update={"files": records})
    with pytest.raises(UsageError, match="was not compiled to have LoRAs switched") as caught:
        require_adaptable(pipeline.root, plain)
    assert "--adaptable" in caught.value.hint


def test_a_target_whose_constants_stay_as_they_are(tmp_path, sd15):
    wanted = request(tmp_path / "out", model=str(sd15), target="tensorrt", precision="fp16", adaptable=True)
    with pytest.raises(UsageError, match="cannot be replaced when it runs") as caught:
        build._target(wanted)
    assert "--lora" in caught.value.hint
