"""An artifact of a model with a ControlNet, an IP-Adapter and room for tokens: what is set or given when it runs."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import IpAdapter, ModelSpec
from artifacts.manifest_reading import read_manifest
from compiler import build
from compiler.source import open_model
from runtimes import reference
from tests.compiler.made import request
from tests.sweep import ip_adapters, sd
from tests.sweep.models import picture

TOLERANCE = 1e-3


def spec(model: Path, **fields: Any) -> ModelSpec:
    return ModelSpec(model=str(model), **fields)


@pytest.fixture(scope="module")
def files(sd15, tmp_path_factory):
    """A ControlNet's folder, an IP-Adapter's file with its image encoder, and the model's own pipeline with both."""
    from diffusers import StableDiffusionControlNetPipeline

    root = tmp_path_factory.mktemp("conditions")
    controlnet = sd.controlnet()
    controlnet.save_pretrained(root / "controlnet")
    pipe = StableDiffusionControlNetPipeline.from_pretrained(sd15, controlnet=controlnet, safety_checker=None)
    ip_adapters.image_encoder().save_pretrained(root / "image_encoder")
    ip_adapters.write(pipe.unet, root / "ip-adapter.safetensors")
    pipe.load_ip_adapter(str(root), subfolder="", weight_name="ip-adapter.safetensors")
    pipe.set_progress_bar_config(disable=True)
    return SimpleNamespace(
        controlnet=root / "controlnet", adapter=root / "ip-adapter.safetensors", pytorch=pipe
    )


@pytest.mark.parametrize(
    ("places", "cls"), [(1, "ControlNetModel"), (2, "MultiControlNetModel")], ids=["one", "repeated"]
)
def test_a_component_that_the_pipeline_lacks_makes_it_the_one_that_has_it(sd15, files, places, cls):
    place = str(files.controlnet)
    source = open_model(spec(sd15, components={"controlnet": place if places == 1 else (place,) * places}))
    assert source.pipeline == "StableDiffusionControlNetPipeline"
    assert source.component("controlnet").class_name == cls
    assert len(source.component("controlnet").members) == (0 if places == 1 else places)
    assert b'"StableDiffusionControlNetPipeline"' in source.files.read("model_index.json")


def test_a_saved_list_of_models_is_compared_with_all_of_them(sd15, files, one_checker, tmp_path):
    pytest.importorskip("onnxruntime")
    from diffusers import StableDiffusionControlNetPipeline

    nets = [sd.controlnet(), sd.controlnet()]
    pipe = StableDiffusionControlNetPipeline.from_pretrained(sd15, controlnet=nets, safety_checker=None)
    pipe.save_pretrained(tmp_path / "model")
    assert len(reference.load(tmp_path / "model").diffusers.controlnet.nets) == 2
    build.compile(request(tmp_path / "out", model=str(tmp_path / "model"), check="quick"))
    graph = next(graph for graph in read_manifest(tmp_path / "out").graphs if graph.folder == "controlnet")
    assert max(graph.evidence[0].error.values()) < 1e-4


def test_a_t2i_adapter_is_taken_by_the_pipeline_that_has_one(sd15, tmp_path):
    sd.t2i_adapter().save_pretrained(tmp_path / "adapter")
    source = open_model(spec(sd15, components={"adapter": str(tmp_path / "adapter")}))
    assert source.pipeline == "StableDiffusionAdapterPipeline"


def test_what_no_pipeline_takes(sd15, files, tmp_path):
    with pytest.raises(UsageError, match="takes a AutoencoderKL"):
        open_model(spec(sd15, components={"controlnet": str(sd15 / "vae")}))
    with pytest.raises(UsageError, match="vae is given 2 times"):
        open_model(spec(sd15, components={"vae": (str(sd15 / "vae"),) * 2}))
    save_file({"image_proj.proj.weight": torch.ones(2, 2)}, tmp_path / "half.safetensors")
    with pytest.raises(LatentcError, match="half.safetensors is no IP-Adapter"):
        open_model(spec(sd15, ip_adapters=(IpAdapter(file=str(tmp_path / "half.safetensors")),)))
    torch.save({"image_proj": {}, "ip_adapter": {}}, tmp_path / "pickle.safetensors")
    with pytest.raises(LatentcError, match="is a pickle"):
        open_model(spec(sd15, ip_adapters=(IpAdapter(file=str(tmp_path / "pickle.safetensors")),)))
    (tmp_path / "alone.safetensors").write_bytes(files.adapter.read_bytes())
    with pytest.raises(LatentcError, match="no image encoder") as caught:
        open_model(spec(sd15, ip_adapters=(IpAdapter(file=str(tmp_path / "alone.safetensors")),)))
    assert "--component image_encoder=FOLDER" in caught.value.hint


def test_an_ip_adapter_of_another_model(sd15, files, tmp_path):
    from torch._subclasses.fake_tensor import FakeTensorMode

    from compiler.capture.weightless_modules import bind, build

    ip_adapters.write(sd.unet(cross_attention_dim=48), tmp_path / "wide.safetensors")
    ip_adapters.image_encoder().save_pretrained(tmp_path / "image_encoder")
    source = open_model(spec(sd15, ip_adapters=(IpAdapter(file=str(tmp_path / "wide.safetensors")),)))
    unet = source.component("unet")
    with pytest.raises(LatentcError, match="wide.safetensors has the shape") as caught:
        bind(build(unet, FakeTensorMode(allow_non_fake_inputs=True)), unet)
    assert caught.value.hint == "It is of another model."


@pytest.fixture(scope="module")
def artifact(sd15, files, one_checker, tmp_path_factory):
    pytest.importorskip("onnxruntime")
    return build.compile(
        request(
            tmp_path_factory.mktemp("compiled") / "out",
            model=str(sd15),
            components={"controlnet": str(files.controlnet)},
            ip_adapters=(IpAdapter(file=str(files.adapter)),),
            spare_tokens=4,
            check="quick",
        )
    )


def drawn(pipe: Any, prompt: str = "a large red circle", **keywords: Any) -> np.ndarray:
    result = pipe(
        prompt,
        image=picture(32, 32, 3),
        ip_adapter_image=picture(40, 40, 2),
        num_inference_steps=2,
        height=32,
        width=32,
        output_type="np",
        generator=torch.Generator().manual_seed(0),
        **keywords,
    )
    return np.asarray(result.images[0], np.float32)


@pytest.mark.slow
def test_a_server_draws_with_the_pictures_that_its_pipeline_needs(artifact, monkeypatch):
    from latentc.serving.drawer import Drawer

    monkeypatch.setattr("latentc.serving.drawer.tell", lambda event: None)
    drawer = Drawer(str(artifact.root), {"device": "auto", "memory": None})
    opened = drawer(json.dumps({"do": "open"}))
    assert opened["needs"]["text-to-image"] == {
        "image": False, "mask": False, "controls": 1, "ip_adapters": 1, "other": "",
    }  # fmt: skip
    written = io.BytesIO()
    picture(32, 32, 3).save(written, format="PNG")
    sent = base64.b64encode(written.getvalue()).decode("ascii")
    one = {"prompt": "a", "negative_prompt": None, "seed": 1, "format": "png", "quality": None}
    options = {"size": [32, 32], "steps": 2, "guidance": None, "scheduler": None, "strength": None}
    job = {
        "do": "draw", "batch": 0, "task": "text-to-image", "image": None, "mask": None, "previews": 0,
        "options": options, "pictures": [one], "control_images": [sent], "ip_adapter_images": [sent],
    }  # fmt: skip
    assert len(drawer(json.dumps(job))["pictures"]) == 1
    for missing in ("control_images", "ip_adapter_images"):
        with pytest.raises(UsageError, match="the model needs"):
            drawer(json.dumps({**job, missing: []}))


def error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.slow
def test_strengths_are_what_pytorchs_are(artifact, files):
    from runtimes.pipeline import load

    assert all(e.check == "quick" for graph in artifact.manifest.graphs for e in graph.evidence)
    pictures = []
    blocks = {"down": {"block_1": 0.8}, "up": {"block_0": [0.0, 1.0]}}
    with load(artifact.root, cache=False) as ours:
        ours.set_progress_bar_config(disable=True)
        for scale, conditioning in ((1.0, 1.0), (0.3, 0.25), (0, 0.0), (blocks, 1.0)):
            pair = []
            for pipe in (files.pytorch, ours.diffusers):
                pipe.set_ip_adapter_scale(scale)
                pair.append(drawn(pipe, controlnet_conditioning_scale=conditioning))
            assert error(pair[1], pair[0]) < TOLERANCE, (scale, conditioning)
            pictures.append(pair[1])
        assert (
            error(drawn(ours, control_guidance_end=0.5), drawn(files.pytorch, control_guidance_end=0.5))
            < TOLERANCE
        )
        for other in pictures[1:]:
            assert error(other, pictures[0]) > 10 * TOLERANCE
        with pytest.raises(UsageError, match="2 strengths are given for 1"):
            ours.set_ip_adapter_scale(1, 2)
        with pytest.raises(UsageError, match=r"do not follow set_ip_adapter_scale\(\)|for 1 IP-Adapters"):
            ours.diffusers.set_ip_adapter_scale([1.0, 2.0])
        with pytest.raises(UsageError, match="load_ip_adapter"):
            ours.diffusers.load_ip_adapter("nobody/nothing", "models", "a.safetensors")
        with pytest.raises(LatentcError, match="cross_attention_kwargs") as caught:
            drawn(ours, cross_attention_kwargs={"scale": 0.5})
        assert "\n" not in caught.value.message
        files.pytorch.set_ip_adapter_scale(1.0)


@pytest.mark.slow
def test_tokens_are_learned_when_it_runs(artifact, files, tmp_path):
    from runtimes.pipeline import load

    noise = torch.Generator().manual_seed(4)
    vectors = {"<dog>": torch.randn(2, 32, generator=noise), "<cat>": torch.randn(1, 32, generator=noise)}
    for token, tensor in vectors.items():
        save_file({token: tensor}, tmp_path / f"{token[1:-1]}.safetensors")
    save_file({"<wide>": torch.ones(1, 33)}, tmp_path / "wide.safetensors")
    save_file({"<big>": torch.ones(2, 32)}, tmp_path / "big.safetensors")
    save_file({"<calf>": torch.ones(1, 32)}, tmp_path / "calf.safetensors")
    torch.save({"<bad>": torch.ones(1, 32)}, tmp_path / "pickle.safetensors")
    prompt = "a <dog> beside a <cat>"
    with load(artifact.root, cache=False) as ours:
        ours.set_progress_bar_config(disable=True)
        before = drawn(ours, prompt)
        assert ours.load_textual_inversion(tmp_path / "dog.safetensors") == "<dog>"
        ours.diffusers.load_textual_inversion(str(tmp_path / "cat.safetensors"))
        for file, message in (
            ("wide", "of width 33; the text encoders are of 32"),
            ("big", "4 are taken|3 are taken"),
            ("dog", "'<dog>' exists already"),
            ("pickle", "is a pickle"),
        ):
            with pytest.raises(LatentcError, match=message):
                ours.load_textual_inversion(tmp_path / f"{file}.safetensors")
        with pytest.raises(UsageError, match="of width 33; the text encoder is of 32"):
            files_of = [str(tmp_path / f"{name}.safetensors") for name in ("big", "wide")]
            ours.diffusers.load_textual_inversion(files_of)
        with pytest.raises(UsageError, match="'<cow>' has 1 vectors; .* 4 are taken"):
            ours.diffusers.load_textual_inversion(
                [str(tmp_path / "calf.safetensors")] * 2, token=["<calf>", "<cow>"]
            )
        assert not {"<calf>", "<cow>"} & ours.diffusers.tokenizer.get_vocab().keys()
        assert "<big>" not in ours.diffusers.tokenizer.get_vocab()
        after = drawn(ours, prompt)
    for name in ("dog", "cat"):
        files.pytorch.load_textual_inversion(str(tmp_path / f"{name}.safetensors"))
    expected = drawn(files.pytorch, prompt)
    files.pytorch.unload_textual_inversion()
    assert error(after, expected) < TOLERANCE
    assert error(before, expected) > 10 * TOLERANCE


@pytest.mark.slow
def test_the_command_line_gives_them(artifact, tmp_path):
    from latentc.cli import main

    picture(32, 32, 3).save(tmp_path / "edges.png")
    picture(40, 40, 2).save(tmp_path / "look.png")
    save_file({"<dog>": torch.ones(1, 32)}, tmp_path / "dog.safetensors")
    with pytest.raises(SystemExit) as stop:
        main(
            [
                *("generate", str(artifact.root), "a <dog>", "--steps", "1", "--seed", "1"),
                *("--control-image", str(tmp_path / "edges.png")),
                *("--ip-adapter-image", str(tmp_path / "look.png"), "--ip-adapter-scale", "0.5"),
                *("--embedding", str(tmp_path / "dog.safetensors"), "-o", str(tmp_path / "out.png")),
            ]
        )
    assert stop.value.code == 0
    assert (tmp_path / "out.png").is_file()
