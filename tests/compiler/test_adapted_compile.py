"""A whole compile of a single file with a LoRA and a textual inversion: its picture is diffusers' own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from artifacts.manifest import Adapter, Embedding
from compiler import build
from tests.compiler.made import request
from tests.compiler.origins import original_layouts

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_checker")]


def test_the_picture_is_that_of_diffusers_with_the_same_files(sd15, tmp_path):
    pytest.importorskip("onnxruntime")
    from diffusers import StableDiffusionPipeline

    from runtimes.pipeline import load

    noise = torch.Generator().manual_seed(5)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=noise) * 0.3

    pipe = StableDiffusionPipeline.from_pretrained(sd15)
    model = original_layouts.stable_diffusion(pipe, tmp_path / "model.safetensors")
    state = {}
    for name, module in pipe.unet.named_modules():
        if name.endswith(("to_q", "to_v")):
            state[f"unet.{name}.lora_A.weight"] = random(2, module.in_features)
            state[f"unet.{name}.lora_B.weight"] = random(module.out_features, 2)
    save_file(state, tmp_path / "lora.safetensors")
    foreign = {f"extra.lora_{part}.weight": random(2, 2) for part in "AB"}
    save_file(state | foreign, tmp_path / "more.safetensors")
    save_file({"<dog>": random(1, 32)}, tmp_path / "dog.safetensors")

    wanted = request(
        tmp_path / "out",
        model=str(model),
        config=str(sd15),
        check="quick",
        loras=(Adapter(file=str(tmp_path / "more.safetensors"), weight=0.8),),
        lora_partial=True,
        embeddings=(Embedding(file=str(tmp_path / "dog.safetensors")),),
    )
    artifact = build.compile(wanted)
    made_of = artifact.manifest.source.spec
    assert made_of is not None and made_of.config == str(sd15)
    assert [len(item.sha256) for item in (*made_of.adapters, *made_of.embeddings)] == [64, 64]
    assert [(adapter.file, adapter.left_out) for adapter in made_of.adapters] == [("more.safetensors", 2)]
    assert {evidence.check for graph in artifact.manifest.graphs for evidence in graph.evidence} == {"quick"}

    pipe.load_textual_inversion(str(tmp_path / "dog.safetensors"))
    pipe.load_lora_weights(str(tmp_path / "lora.safetensors"), adapter_name="style")
    pipe.set_adapters(["style"], [0.8])
    pipe.fuse_lora()
    pictures = []
    with load(artifact.root, cache=False) as ours:
        for pipeline in (pipe, ours.diffusers):
            result = pipeline(
                "a <dog>",
                num_inference_steps=2,
                height=32,
                width=32,
                output_type="np",
                generator=torch.Generator().manual_seed(0),
            )
            pictures.append(np.asarray(result.images[0], np.float32))
    expected, found = pictures
    assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)

    from compiler.evidence.recheck import recheck

    assert recheck(artifact, loras=(tmp_path / "more.safetensors",)).keys() == {
        graph.folder for graph in artifact.manifest.graphs
    }
